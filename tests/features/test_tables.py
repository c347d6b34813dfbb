"""Writes are whole commits that say what they are; readers get the version they ask for."""

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

from features import publication, tables
from features.errors import DataError
from features.spec import FeatureSpec, FittedField, FittedSplit, Prepared


def test_write_replaces_rows_and_schema_in_one_commit(spark, tmp_path: Path) -> None:
    root = str(tmp_path)
    first = tables.write(spark.range(5), root, "t", {"job": "a"})
    second = tables.write(spark.createDataFrame([("x",)], "name string"), root, "t", {"job": "b"})
    assert (first, second) == (0, 1)
    assert [r["name"] for r in tables.read(spark, root, "t").collect()] == ["x"]
    assert tables.read(spark, root, "t", version=0).count() == 5
    (commit, _) = DeltaTable(f"{root}/t").history()
    assert json.loads(commit["userMetadata"]) == {"job": "b"}


def test_failed_write_leaves_the_table_as_it_was(spark, tmp_path: Path) -> None:
    root = str(tmp_path)
    tables.write(spark.range(3), root, "t", {})
    broken = spark.range(3).selectExpr("if(id = 2, raise_error('broken on purpose'), id) as id")
    with pytest.raises(Exception, match="broken on purpose"):
        tables.write(broken, root, "t", {})
    assert tables.read(spark, root, "t").count() == 3
    assert DeltaTable(f"{root}/t").version() == 0


def test_read_where_no_table_is(spark, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no Delta table users at .*/users\. Run jobs/prepare"):
        tables.read(spark, str(tmp_path), "users")
    tables.write(spark.range(1), str(tmp_path), "users", {})
    with pytest.raises(DataError, match="in version 7"):
        tables.read(spark, str(tmp_path), "users", version=7)


def test_publish_is_read_back(spark, make_config, tmp_path: Path) -> None:
    config = make_config()
    spec = FeatureSpec(
        label=config.label,
        keys=config.keys,
        fields=tuple(FittedField(config=f, cardinality=3) for f in config.fields),
        split=FittedSplit(config=config.split),
    )
    prepared = Prepared(spec=spec, versions={"features": 3}, rows={"train": 8})
    publication.publish(spark, config.tables.root, prepared, {})
    assert publication.read_prepared(spark, config) == prepared
    row = DeltaTable(f"{config.tables.root}/prepared").to_pandas()
    assert list(row["spec_hash"]) == [spec.hash]
    with pytest.raises(DataError, match="were prepared with another label, split"):
        publication.read_prepared(spark, make_config(label="liked", split={"seed": 1}))
