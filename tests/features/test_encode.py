"""Values to indices: order of the vocabulary, missing and unseen apart, lists."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyspark.sql import functions as F

from features.encode import occurrences, rank_values, split_vocabulary, to_index, to_indices

texts = st.text(min_size=1, max_size=5)


def learn(spark, values: list[str | None], min_count: int = 1) -> pa.Table:
    frame = spark.createDataFrame([(v,) for v in values], "x string")
    found = occurrences(frame, {"x": F.array("x")})
    return rank_values(found, {"x": min_count}).toArrow()


def test_rank_values_by_falling_frequency_then_by_value(spark) -> None:
    table = learn(spark, ["b", "a", "c", "c", None, "b", "d"])
    assert split_vocabulary(table, ["x"])["x"].to_pylist() == ["b", "c", "a", "d"]
    assert sorted(table["index"].to_pylist()) == [2, 3, 4, 5]
    assert dict(zip(table["value"].to_pylist(), table["count"].to_pylist(), strict=True)) == {
        "b": 2,
        "c": 2,
        "a": 1,
        "d": 1,
    }


def test_rank_values_leaves_rare_values_out(spark) -> None:
    table = learn(spark, ["b", "a", "c", "c", "b"], min_count=2)
    assert split_vocabulary(table, ["x"])["x"].to_pylist() == ["b", "c"]


def test_occurrences_of_several_fields_keep_their_names(spark) -> None:
    frame = spark.createDataFrame([("p", ["q", "r"]), (None, None)], "a string, b array<string>")
    found = occurrences(frame, {"a": F.array("a"), "b": F.col("b")}).collect()
    assert sorted(map(tuple, found)) == [("a", "p"), ("b", "q"), ("b", "r")]


def test_against_spark_ml_string_indexer(spark) -> None:
    from pyspark.ml.feature import StringIndexer

    values = ["b", "a", "c", "c", "b", "e", "a", "a", "é", ""]
    frame = spark.createDataFrame([(v,) for v in values], "x string")
    labels = StringIndexer(inputCol="x", outputCol="i").fit(frame).labels
    mine = split_vocabulary(learn(spark, values), ["x"])["x"].to_pylist()
    assert mine == labels


@given(st.lists(st.none() | texts), st.lists(texts, unique=True))
def test_to_index_against_a_dictionary(values: list[str | None], vocabulary: list[str]) -> None:
    known = {v: i + 2 for i, v in enumerate(vocabulary)}
    expected = [0 if v is None else known.get(v, 1) for v in values]
    mine = to_index(pa.array(values, pa.string()), pa.array(vocabulary, pa.string()))
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
    mine = to_indices(column, pa.array(vocabulary, pa.string()), width)
    assert mine.shape == (len(rows), width)
    assert mine.tolist() == expected


@pytest.mark.parametrize("start", [0, 2])
def test_to_indices_of_a_sliced_column(start: int) -> None:
    column = pa.array([["a"], ["b", "a"], None, ["b"]], pa.list_(pa.string())).slice(start)
    mine = to_indices(column, pa.array(["a", "b"]), 2)
    assert mine.tolist() == [[2, 0], [3, 2], [0, 0], [3, 0]][start:]


def test_split_vocabulary_of_a_field_without_values() -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"field": ["a"], "value": ["p"], "index": [2]}))
    assert len(split_vocabulary(table, ["b"])["b"]) == 0
