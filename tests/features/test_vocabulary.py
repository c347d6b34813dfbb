"""Vocabularies: their order, on the driver and by Spark."""

import pandas as pd
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from features.counting import count_texts
from features.vocabulary import Vocabulary, ranked, ranked_by_spark, split_vocabulary


def learn(values: list[str | None], min_count: int = 1) -> pa.Table:
    return ranked("x", count_texts(pa.array(values, pa.string())), min_count)


def test_ranked_by_falling_frequency_then_by_value() -> None:
    table = learn(["b", "a", "c", "c", None, "b", "d"])
    assert table["value"].to_pylist() == ["b", "c", "a", "d"]
    assert table["index"].to_pylist() == [2, 3, 4, 5]
    assert table["count"].to_pylist() == [2, 2, 1, 1]


def test_ranked_leaves_rare_values_out() -> None:
    assert learn(["b", "a", "c", "c", "b"], min_count=2)["value"].to_pylist() == ["b", "c"]


def test_against_spark_ml_string_indexer(spark) -> None:
    from pyspark.ml.feature import StringIndexer

    values = ["b", "a", "c", "c", "b", "e", "a", "a", "é", ""]
    frame = spark.createDataFrame([(v,) for v in values], "x string")
    labels = StringIndexer(inputCol="x", outputCol="i").fit(frame).labels
    assert learn(values)["value"].to_pylist() == labels


@given(st.lists(st.text(max_size=3), max_size=60), st.integers(1, 3))
def test_ranked_against_a_sort(values: list[str], min_count: int) -> None:
    counts = pd.Series(values, dtype=object).value_counts()
    expected = sorted((v for v in counts.index if counts[v] >= min_count), key=lambda v: v.encode())
    expected = sorted(expected, key=lambda v: -counts[v])
    assert learn(list(values), min_count)["value"].to_pylist() == expected


def test_spark_ranks_as_the_driver_does(spark) -> None:
    values = [f"v{n * n % 97}" for n in range(400)]
    counts = count_texts(pa.array(values))
    small = ranked("x", counts, 3)
    frame = spark.createDataFrame(counts).repartition(3)
    large = ranked_by_spark("x", frame, 3, held=10)
    assert large.size("x") == len(small) > 10
    assert large.held.equals(small.slice(0, 10))
    whole = large.frame(spark).orderBy("index").toArrow()
    assert whole.select(small.column_names).cast(small.schema).equals(small)


def test_split_vocabulary_of_a_field_without_values() -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"field": ["a"], "value": ["p"], "index": [2]}))
    assert len(split_vocabulary(table, ["b"])["b"]) == 0


def test_digest_follows_values_and_their_order() -> None:
    def digest(*values: str) -> str:
        return Vocabulary(learn([*"zzz", *values]).slice(1)).digest()

    assert digest("a", "b") == digest("b", "a") == digest("b", "a", "z")
    assert len({digest("a", "b"), digest("ab"), digest("b", "b", "a")}) == 3
    assert len(Vocabulary(learn([])).digest()) == 16
