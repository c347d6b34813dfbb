"""The split is a function of the row, not of the run."""

import random

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import functions as F

from conf.features import SplitConfig
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


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "times",
    [
        RNG.permutation(60_000) * 0.5,
        RNG.integers(0, 40, 60_000).astype(float),
        np.exp(RNG.normal(0, 8, 60_000)),
        np.where(RNG.random(60_000) < 0.75, 7.0, 8 + RNG.random(60_000)),
        np.arange(10.0),
    ],
    ids=["all distinct", "few distinct", "far apart", "most are one", "ten"],
)
def test_cuts_are_exact_order_statistics(spark, times: np.ndarray) -> None:
    frame = spark.createDataFrame(pa.table({"event_time": times})).repartition(5)
    cuts = fit_split(SplitConfig(by="time", validation=0.2, test=0.1), frame).cuts
    assert cuts is not None
    for cut, share in zip(cuts, (0.7, 0.9), strict=True):
        assert cut in times
        wanted = share * len(times) - 1e-6
        assert (times < cut).sum() < wanted <= (times <= cut).sum()


def last_parts(log: list[tuple], last: int) -> dict[int, str]:
    """The split by last as a loop; rows are (user, time, row)."""
    found = {}
    for user in {u for u, _, _ in log}:
        rows = sorted({(t, r) for u, t, r in log if u == user}, reverse=True)
        for place, (_, row) in enumerate(rows):
            alone = len(rows) < 2 * last + 1
            found[row] = ("test", "validation", "train")[2 if alone else min(place // last, 2)]
    return found


@pytest.mark.parametrize("last", [1, 3])
@pytest.mark.parametrize("partitions", [1, 7])
def test_last_split_against_a_loop(spark, last: int, partitions: int) -> None:
    choice = random.Random(last)
    log = [(f"u{choice.randrange(40)}", choice.randrange(9), 10**9 * i) for i in range(300)]
    log += log[::10]  # rows with equal keys
    frame = spark.createDataFrame(log, "user_key string, event_time long, row long")
    split = fit_split(SplitConfig(by="last", last=last), frame)
    rows = frame.repartition(partitions).select("row", part(split).alias("part")).collect()
    assert len(rows) == len(log)
    assert {(r["row"], r["part"]) for r in rows} == set(last_parts(log, last).items())


def test_last_split_moves_only_users_with_later_rows(spark) -> None:
    frame = spark.range(40).selectExpr(
        "cast(id % 4 as string) as user_key", "id as event_time", "id as row"
    )
    split = fit_split(SplitConfig(by="last"), frame)
    before, after = parts(frame.where("row < 37"), split), parts(frame, split)
    moved = {row for row, where in before.items() if after[row] != where}
    assert {row % 4 for row in moved} == {1, 2, 3}
