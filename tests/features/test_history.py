"""History: only what was known before, wherever batches and runs are cut."""

import random
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import functions as F

from conf.features import History
from features.history import SHOWN, history_batches, latest_history, with_history

HISTORIES = (
    History(name="liked", of="movie", length=2),
    History(name="makers", of="studio", length=3),
    History(name="more", of="movie", length=5),
)


class Row(NamedTuple):
    user_key: str
    event_time: int
    row: int
    label: int
    movie: str | None
    studio: str | None


SCHEMA = "user_key string, event_time long, row long, label int, movie string, studio string"

moments = st.tuples(
    st.sampled_from("abc"),
    st.integers(0, 5),
    st.integers(0, 1),
    st.sampled_from([None, "m1", "m2", "m3"]),
    st.sampled_from([None, "s1", "s2"]),
)
logs = st.lists(moments, max_size=40).map(
    lambda drawn: [Row(u, t, i, *rest) for i, (u, t, *rest) in enumerate(drawn)]
)


def reference(log: Sequence[Row], user: str, before: float, history: History) -> list[str] | None:
    past = sorted(r for r in log if r.user_key == user and r.label == 1 and r.event_time < before)
    values = [v for r in past if (v := getattr(r, history.of)) is not None]
    return values[-history.length :] or None


def batches(log: list[Row], cuts: list[int], shown: Sequence[bool]) -> list[pa.RecordBatch]:
    types = [pa.string(), pa.int64(), pa.int64(), pa.int32(), pa.string(), pa.string()]
    columns = {
        name: pa.array([getattr(r, name) for r in log], kind)
        for name, kind in zip(Row._fields, types, strict=True)
    }
    whole = pa.RecordBatch.from_pydict(columns | {SHOWN: pa.array(shown, pa.bool_())})
    edges = [0, *sorted(min(c, len(log)) for c in cuts), len(log)]
    return [whole.slice(a, b - a) for a, b in pairwise(edges)]


@given(logs, st.lists(st.integers(0, 40), max_size=12), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_history_batches_against_a_loop(
    log: list[Row], cuts: list[int], choice: random.Random
) -> None:
    log = sorted(log)
    shown = [choice.random() < 0.7 for _ in log]
    made = history_batches(batches(log, cuts, shown), HISTORIES, ["row"])
    found = [row for batch in made for row in batch.to_pylist()]
    expected = [
        {"row": r.row} | {h.name: reference(log, r.user_key, r.event_time, h) for h in HISTORIES}
        for r, out in zip(log, shown, strict=True)
        if out
    ]
    assert found == expected


def test_what_is_carried_does_not_grow_with_the_user() -> None:
    size = 1_000
    column = pa.array([f"m{i}" for i in range(size)])

    def stream():
        for start in range(0, 20 * size, size):
            time = pa.array(range(start, start + size)) if start else pa.array([0] * size)
            ones = pa.array([1] * size, pa.int32())
            yield pa.RecordBatch.from_arrays(
                [pa.array(["u"] * size), time, ones, column, pa.array([True] * size)],
                names=["user_key", "event_time", "label", "movie", SHOWN],
            )

    history = History(name="liked", of="movie", length=256)
    before = pa.total_allocated_bytes()
    for batch in history_batches(stream(), [history], ["event_time"]):
        last = batch.column("liked")[-1].as_py()
        del batch
        assert pa.total_allocated_bytes() - before < 5_000_000
    assert last == [f"m{i}" for i in range(size - 257, size - 1)]


def drawn_log(rows: int, seed: int) -> list[Row]:
    choice = random.Random(seed)
    return [
        Row(
            f"u{choice.randrange(6)}",
            choice.randrange(30),
            i,
            choice.randrange(2),
            choice.choice([None, "m1", "m2", "m3"]),
            choice.choice([None, "s1", "s2"]),
        )
        for i in range(rows)
    ]


@pytest.fixture
def small_batches(spark):
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    usual = spark.conf.get(key)
    spark.conf.set(key, "7")
    yield spark
    spark.conf.set(key, usual)


def histories_of(frame) -> dict[int, tuple]:
    names = [h.name for h in HISTORIES]
    return {r["row"]: tuple(r[n] for n in names) for r in frame.select("row", *names).collect()}


def expected_of(rows: list[Row], log: list[Row]) -> dict[int, tuple]:
    return {
        r.row: tuple(reference(log, r.user_key, r.event_time, h) for h in HISTORIES) for r in rows
    }


@pytest.mark.parametrize("partitions", [1, 5])
def test_with_history_against_a_loop(small_batches, partitions: int) -> None:
    log = drawn_log(200, seed=1)
    frame = small_batches.createDataFrame(log, SCHEMA).repartition(partitions)
    made = with_history(frame, HISTORIES)
    assert histories_of(made) == expected_of(log, log)
    assert made.columns == [*frame.columns, "liked", "makers", "more"]
    assert made.drop("liked", "makers", "more").exceptAll(frame).isEmpty()


def test_with_history_over_timestamps_and_other_columns(small_batches) -> None:
    log = drawn_log(60, seed=2)
    frame = small_batches.createDataFrame(log, SCHEMA).withColumns(
        {
            "event_time": F.timestamp_millis(F.col("event_time") * 10),
            "user_key": F.substring("user_key", 2, 1).cast("bigint"),
            "tags": F.array("movie", "studio"),
            "price": F.when(F.col("row") % 3 > 0, F.col("row") / 2),
        }
    )
    made = with_history(frame, HISTORIES)
    assert histories_of(made) == expected_of(log, log)
    assert made.schema.fields[: len(frame.columns)] == frame.schema.fields


@pytest.mark.parametrize(
    "order",
    [lambda r: -r.event_time, lambda r: r.row, lambda r: r.event_time],
    ids=["newest", "any", "oldest"],
)
def test_rows_appended_later_have_the_history_of_one_go(
    small_batches, order: Callable[[Row], int]
) -> None:
    log = sorted(drawn_log(200, seed=3), key=order)
    added, old = log[:50], log[50:]
    frames = [small_batches.createDataFrame(rows, SCHEMA) for rows in (added, old)]
    made = with_history(frames[0], HISTORIES, earlier=frames[1])
    assert histories_of(made) == expected_of(added, log)


def test_latest_history_holds_one_row_per_user(small_batches) -> None:
    log = [*drawn_log(200, seed=4), Row("none", 3, 777, 0, "m1", "s1")]
    frame = small_batches.createDataFrame(log, SCHEMA)
    rows = latest_history(frame, HISTORIES).collect()
    assert {r["user_key"] for r in rows} == {r.user_key for r in log}
    assert len(rows) == 7
    for row in rows:
        for history in HISTORIES:
            expected = reference(log, row["user_key"], float("inf"), history)
            assert row[history.name] == expected


def test_without_histories_the_log_stays_as_it_is(spark) -> None:
    log = spark.createDataFrame(drawn_log(3, seed=5), SCHEMA)
    assert with_history(log, ()) is log
