"""Values to indices: missing and unseen apart, lists, hashes, buckets."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.preprocessing import KBinsDiscretizer

from features.encode import (
    Lookup,
    by_hash,
    in_vocabulary,
    to_bucket,
    to_flag,
    to_index,
    to_indices,
)

texts = st.text(min_size=1, max_size=5)


def known_by(vocabulary: list[str]) -> Lookup:
    return in_vocabulary(pa.array(vocabulary, pa.string()))


@given(st.lists(st.none() | texts), st.lists(texts, unique=True))
def test_to_index_against_a_dictionary(values: list[str | None], vocabulary: list[str]) -> None:
    known = {v: i + 2 for i, v in enumerate(vocabulary)}
    expected = [0 if v is None else known.get(v, 1) for v in values]
    mine = to_index(pa.array(values, pa.string()), known_by(vocabulary))
    assert mine.dtype == np.int32
    assert mine.tolist() == expected


@given(
    st.lists(st.none() | st.lists(texts, max_size=6)),
    st.lists(texts, unique=True),
    st.integers(1, 4),
)
def test_to_indices_against_a_loop(
    rows: list[list[str] | None], vocabulary: list[str], width: int
) -> None:
    known = {v: i + 2 for i, v in enumerate(vocabulary)}
    expected = [([known.get(v, 1) for v in row or []] + [0] * width)[:width] for row in rows]
    column = pa.array(rows, pa.list_(pa.string()))
    mine = to_indices(column, known_by(vocabulary), width)
    assert mine.shape == (len(rows), width)
    assert mine.tolist() == expected


@pytest.mark.parametrize("start", [0, 2])
def test_to_indices_of_a_sliced_column(start: int) -> None:
    column = pa.array([["a"], ["b", "a"], None, ["b"]], pa.list_(pa.string())).slice(start)
    mine = to_indices(column, known_by(["a", "b"]), 2)
    assert mine.tolist() == [[2, 0], [3, 2], [0, 0], [3, 0]][start:]


@given(st.lists(st.none() | texts, max_size=20), st.none() | texts)
def test_to_index_of_dictionary_coded_and_filled_columns(
    values: list[str | None], fill: str | None
) -> None:
    look_up = known_by(["a", "b", "é"])
    plain = pa.array(values, pa.string())
    filled = pa.array([fill if v is None else v for v in values], pa.string())
    expected = to_index(filled, look_up).tolist()
    assert to_index(plain, look_up, fill).tolist() == expected
    assert to_index(plain.dictionary_encode(), look_up, fill).tolist() == expected


def test_hash_spreads_values_evenly_and_keeps_them() -> None:
    values = pa.array([f"v{n}" for n in range(20_000)])
    index = to_index(values, by_hash(50))
    assert to_index(values.slice(777), by_hash(50)).tolist() == index[777:].tolist()
    assert to_index(pa.array([None, "v5"]), by_hash(50)).tolist() == [0, index[5]]
    counts = np.bincount(index, minlength=52)
    assert counts[:2].tolist() == [0, 0]
    # Chi-square with 49 degrees of freedom: 99.99 % lie below 96.
    assert ((counts[2:] - 400) ** 2 / 400).sum() < 96


def test_buckets_against_scikit_learn() -> None:
    numbers = np.random.default_rng(0).normal(size=1_000)
    peer = KBinsDiscretizer(8, encode="ordinal", strategy="quantile", subsample=None)
    theirs = peer.fit_transform(numbers[:, None])[:, 0]
    mine = to_bucket(pa.array(numbers), peer.bin_edges_[0][1:-1])
    assert mine.tolist() == (theirs + 2).astype(int).tolist()


def test_buckets_against_spark_ml(spark) -> None:
    from pyspark.ml.feature import Bucketizer

    numbers, cuts = [-1.0, 0.0, 0.5, 1.0, 7.0, 3.0], [0.0, 1.0, 3.0]
    frame = spark.createDataFrame([(x,) for x in numbers], "x double")
    peer = Bucketizer(inputCol="x", outputCol="i", splits=[-np.inf, *cuts, np.inf])
    theirs = [row["i"] + 2 for row in peer.transform(frame).collect()]
    assert to_bucket(pa.array(numbers), cuts).tolist() == theirs


def test_missing_numbers_and_flags() -> None:
    column = pa.array([1.0, None, 5.0])
    assert to_bucket(column, [2.0]).tolist() == [2, 0, 3]
    assert to_flag(column).tolist() == [2, 0, 2]
    assert to_flag(pa.array(["a", None])).tolist() == [2, 0]
