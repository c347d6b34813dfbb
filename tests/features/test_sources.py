"""Raw tables in every format, and what is said about those that cannot be read."""

import json
from pathlib import Path

import pandas as pd
import pytest

from conf.features import Source, Table
from features.errors import DataError
from features.sources import CORRUPT, pin, read

ROWS = [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def rows_of(spark, table: Table) -> list[dict]:
    return [r.asDict() for r in read(spark, table, "source.interactions").orderBy("a").collect()]


def test_read_all_formats_alike(spark, tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.json").write_text("\n".join(json.dumps(r) for r in ROWS))
    spark.createDataFrame(ROWS, "a int, b string").write.format("delta").save(
        str(tmp_path / "t.delta")
    )
    for format in ("csv", "json", "parquet", "delta"):
        found = rows_of(spark, Table(format=format, path=str(tmp_path / f"t.{format}")))
        assert [{k: r[k] for k in ("a", "b")} for r in found] == ROWS, format


def test_read_keeps_lines_that_cannot_be_parsed(spark, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,x\nmany,y\n")
    table = Table(format="csv", path=str(tmp_path / "t.csv"), columns="a INT, b STRING")
    found = read(spark, table, "s").collect()
    assert [r[CORRUPT] for r in found] == [None, "many,y"]
    (tmp_path / "t.json").write_text('{"a": 1}\n{"a": \n')
    found = read(spark, Table(format="json", path=str(tmp_path / "t.json")), "s").collect()
    assert sorted(r[CORRUPT] or "" for r in found) == ["", '{"a": ']


def test_read_several_files(spark, tmp_path: Path) -> None:
    for i in range(2):
        pd.DataFrame({"a": [i]}).to_parquet(tmp_path / f"{i}.parquet")
    paths = tuple(str(tmp_path / f"{i}.parquet") for i in range(2))
    assert [r["a"] for r in rows_of(spark, Table(format="parquet", path=paths))] == [0, 1]


@pytest.mark.parametrize("format", ["csv", "json", "parquet", "delta"])
def test_read_where_nothing_is(spark, tmp_path: Path, format: str) -> None:
    table = Table(format=format, path=str(tmp_path / "nope"))
    with pytest.raises(DataError, match=rf"source\.items\.path: no {format} table at .*nope"):
        read(spark, table, "source.items")


def test_read_with_columns_that_are_not_ddl(spark, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    table = Table(format="csv", path=str(tmp_path / "t.csv"), columns="a INTEGR !")
    with pytest.raises(DataError, match=r"s\.columns: 'a INTEGR !' is not Spark SQL DDL"):
        read(spark, table, "s")


def test_pin_fixes_the_version_of_delta_sources(spark, tmp_path: Path) -> None:
    path = str(tmp_path / "d")
    for value in (1, 2):
        frame = spark.createDataFrame([(value,)], "a int")
        frame.write.format("delta").mode("overwrite").save(path)
    source = pin(spark, Source(interactions=Table(format="delta", path=path)))
    assert source.interactions.version == 1
    spark.createDataFrame([(3,)], "a int").write.format("delta").mode("append").save(path)
    assert [r["a"] for r in rows_of(spark, source.interactions)] == [2]
    kept = pin(spark, Source(interactions=Table(format="delta", path=path, version=0)))
    assert [r["a"] for r in rows_of(spark, kept.interactions)] == [1]
