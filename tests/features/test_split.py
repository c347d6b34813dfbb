"""The split is a function of the row, not of the run."""

import pytest
from pyspark.sql import functions as F

from conf.schema import SplitConfig
from features.errors import DataError
from features.spec import FittedSplit
from features.split import fit_split, part


def parts(frame, split: FittedSplit) -> dict[int, str]:
    return {r["row"]: r["part"] for r in frame.select("row", part(split).alias("part")).collect()}


def hashed(spark, rows: int, partitions: int):
    return spark.range(rows, numPartitions=partitions).select(F.xxhash64("id").alias("row"))


def test_hash_split_has_the_shares_asked_for(spark) -> None:
    split = fit_split(SplitConfig(validation=0.2, test=0.1), hashed(spark, 1, 1))
    found = list(parts(hashed(spark, 20_000, 2), split).values())
    assert abs(found.count("test") / 20_000 - 0.1) < 0.01
    assert abs(found.count("validation") / 20_000 - 0.2) < 0.01


def test_hash_split_is_the_same_on_1_and_7_partitions(spark) -> None:
    split = fit_split(SplitConfig(), hashed(spark, 1, 1))
    assert parts(hashed(spark, 500, 1), split) == parts(hashed(spark, 500, 7), split)


def test_hash_split_keeps_rows_in_place_when_others_come(spark) -> None:
    split = fit_split(SplitConfig(), hashed(spark, 1, 1))
    few, many = parts(hashed(spark, 300, 2), split), parts(hashed(spark, 900, 2), split)
    assert few.items() <= many.items()


@pytest.mark.parametrize("kind", ["bigint", "timestamp"])
def test_time_split_takes_the_newest_for_the_test(spark, kind: str) -> None:
    frame = spark.range(100).select(
        F.col("id").alias("row"), F.timestamp_seconds(F.col("id") * 60).alias("event_time")
    )
    if kind == "bigint":
        frame = frame.withColumn("event_time", F.col("row") * 60)
    split = fit_split(SplitConfig(by="time"), frame)
    found = parts(frame, split)
    assert [found[i] for i in (0, 79, 80, 89, 90, 99)] == [
        "train",
        "train",
        "validation",
        "validation",
        "test",
        "test",
    ]


def test_time_split_without_time_differences(spark) -> None:
    frame = spark.range(10).select(F.lit(5).alias("event_time"))
    with pytest.raises(DataError, match="split.by: time finds the same time"):
        fit_split(SplitConfig(by="time"), frame)
