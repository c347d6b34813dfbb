"""Writes are whole commits that say what they are; readers get the version they ask for."""

import json
from pathlib import Path

import pytest
from deltalake import DeltaTable

from features import tables
from features.errors import DataError
from features.spec import Prepared
from tests.features.test_spec import SPEC


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


def test_publish_is_read_back(spark, tmp_path: Path) -> None:
    prepared = Prepared(spec=SPEC, versions={"features": 3}, rows={"train": 8})
    tables.publish(spark, str(tmp_path), prepared, {})
    assert tables.read_prepared(spark, str(tmp_path)) == prepared
    row = DeltaTable(str(tmp_path / "prepared")).to_pandas()
    assert list(row["spec_hash"]) == [SPEC.hash]
