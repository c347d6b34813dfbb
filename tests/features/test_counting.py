"""Counts and moments in parts: however rows meet, they add up to the same."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.counting import (
    Moments,
    Partial,
    Wanted,
    count_pairs,
    count_texts,
    merge_counts,
    moments_of,
    unpacked,
)

texts = st.none() | st.sampled_from(["a", "b", "é", ""])
numbers = st.none() | st.floats(-1e6, 1e6).map(lambda x: x + 0.0)  # -0.0 counts as 0.0
row = st.tuples(texts, texts, numbers, st.none() | st.lists(st.sampled_from("xyz"), max_size=3))
WANTED = Wanted(
    texts={"a": None, "b": "filled", "tags": None},
    numbers=("x",),
    pairs={"ab": ("a", "b")},
    moments=("x",),
)


def table(rows: list[tuple]) -> pa.Table:
    a, b, x, tags = zip(*rows, strict=True)
    types = (pa.string(), pa.string(), pa.float64(), pa.list_(pa.string()))
    columns = [pa.array(c, t) for c, t in zip((a, b, x, tags), types, strict=True)]
    return pa.table(columns, names=["a", "b", "x", "tags"])


def learned(parts: list[pa.Table], tasks: int, coded: bool) -> tuple[dict, dict]:
    """What the map side, a shuffle into three and the reduce side make of some rows."""
    shuffled: dict[int, list[pa.RecordBatch]] = {0: [], 1: [], 2: []}
    for task in range(tasks):
        partial = Partial(WANTED)
        for part in parts[task::tasks]:
            columns = {n: part[n].combine_chunks() for n in part.column_names}
            if coded:
                columns |= {n: columns[n].dictionary_encode() for n in "ab"}
            partial.add(columns.__getitem__, None)
        for batch in partial.batches(3):
            shuffled[batch["part"][0].as_py()].append(batch)
    merged = [row for b in shuffled.values() for m in merge_counts(b) for row in m.to_pylist()]
    counts: dict[str, Counter] = {}
    for found in merged:
        if found["counts"] is not None:
            for *value, count in zip(*unpacked(found["counts"]).to_pydict().values(), strict=True):
                assert tuple(value) not in counts.setdefault(found["field"], Counter())
                counts[found["field"]][tuple(value)] = count
    return counts, moments_of([m["moments"] for m in merged if m["moments"] is not None])


@given(st.lists(row, min_size=1, max_size=30), st.integers(1, 7), st.integers(1, 3), st.booleans())
def test_any_partitioning_counts_alike(
    rows: list[tuple], size: int, tasks: int, coded: bool
) -> None:
    parts = [table(rows[i : i + size]) for i in range(0, len(rows), size)]
    counts, moments = learned(parts, tasks, coded)
    expected = {
        "a": Counter((a,) for a, *_ in rows if a is not None),
        "b": Counter(("filled" if b is None else b,) for _, b, *_ in rows),
        "x": Counter((x,) for _, _, x, _ in rows if x is not None),
        "tags": Counter((t,) for *_, tags in rows for t in tags or []),
        "ab": Counter((a, b) for a, b, *_ in rows),
    }
    assert counts == {name: values for name, values in expected.items() if values}
    present = np.array([x for _, _, x, _ in rows if x is not None])
    mine = moments["x"]
    assert (mine.present, mine.missing) == (len(present), len(rows) - len(present))
    if len(present):
        assert (mine.minimum, mine.maximum) == (present.min(), present.max())
        np.testing.assert_allclose(mine.mean, present.mean(), rtol=1e-9, atol=1e-9)
        scale = max(1.0, float(np.abs(present).max()) ** 2)
        np.testing.assert_allclose(mine.variance, present.var(), rtol=1e-9, atol=1e-9 * scale)


def test_rows_that_do_not_train_do_not_count() -> None:
    rows = table([("a", "b", 1.0, ["x"]), ("é", None, 50.0, ["y"])])
    partial = Partial(WANTED)
    partial.add(lambda name: rows[name].combine_chunks(), np.array([True, False]))
    assert partial.moments["x"] == Moments.of(pa.array([1.0]))
    assert partial.counts["a"][0].to_pydict() == {"value": ["a"], "count": [1]}
    assert partial.counts["tags"][0].to_pydict() == {"value": ["x"], "count": [1]}
    assert partial.counts["ab"][0].num_rows == 1


def test_counts_of_sliced_columns() -> None:
    column = pa.array(["a", "b", None, "b"]).dictionary_encode().slice(1)
    assert count_texts(column).to_pydict() == {"value": ["b"], "count": [2]}
    lists = pa.array([["a"], ["b"], None, ["b", "c"]]).slice(1)
    assert dict(zip(*count_texts(lists).to_pydict().values(), strict=True)) == {"b": 2, "c": 1}
    pairs = count_pairs(column, column).to_pylist()
    assert {(p["value"], p["second"], p["count"]) for p in pairs} == {
        ("b", "b", 2),
        (None, None, 1),
    }
