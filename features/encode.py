"""Values to indices: what a one-hot vector times an embedding table is.

Index 0 is missing, 1 unseen or too rare in training, 2… the vocabulary by falling frequency, ties
by value. The vocabulary is learned with Spark SQL; looking values up is Arrow, a column at a time.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from features.spec import FIRST, MISSING, UNSEEN


def rank_values(occurrences: DataFrame, min_counts: Mapping[str, int]) -> DataFrame:
    """Learns vocabularies, all in one shuffle.

    Args:
        occurrences: ``field`` and ``value``, a row per occurrence in training.
        min_counts: For each field, the occurrences that a value needs.

    Returns:
        The vocabulary: ``field``, ``value``, ``index`` and ``count``.
    """
    enough = F.create_map(*[F.lit(x) for pair in min_counts.items() for x in pair])
    counts = occurrences.groupBy("field", "value").count()
    by_frequency = Window.partitionBy("field").orderBy(F.desc("count"), F.asc("value"))
    return counts.where(F.col("count") >= enough[F.col("field")]).select(
        "field",
        "value",
        (F.row_number().over(by_frequency) + (FIRST - 1)).alias("index"),
        "count",
    )


def occurrences(train: DataFrame, fields: Mapping[str, Column]) -> DataFrame:
    """Unpivots columns of strings, or of arrays of strings, for :func:`rank_values`.

    Args:
        train: Training rows.
        fields: For each field its values, as an array column.

    Returns:
        ``field`` and ``value``; nulls are left out.
    """
    # Named by a function of its own: a lambda in the loop would see the last name only.
    named = [_with_name(name, values) for name, values in fields.items()]
    pairs = train.select(F.explode(F.concat(*named)).alias("pair"))
    return pairs.select("pair.field", "pair.value").where(F.col("value").isNotNull())


def _with_name(name: str, values: Column) -> Column:
    present = F.coalesce(values, F.array().cast("array<string>"))
    return F.transform(present, lambda v: F.struct(F.lit(name).alias("field"), v.alias("value")))


def to_index(column: pa.Array, vocabulary: pa.Array) -> NDArray[np.int32]:
    """Looks values up.

    Args:
        column: Strings (B,).
        vocabulary: The field's values in the order of their indices.

    Returns:
        Indices (B,).
    """
    if not len(vocabulary):
        return np.where(_nulls(column), MISSING, UNSEEN).astype(np.int32)
    found = pc.add(pc.index_in(column, value_set=vocabulary), FIRST)
    known = pc.fill_null(found, UNSEEN).to_numpy(zero_copy_only=False)
    index: NDArray[np.int32] = known.astype(np.int32)
    index[_nulls(column)] = MISSING
    return index


def to_indices(column: pa.ListArray, vocabulary: pa.Array, width: int) -> NDArray[np.int32]:
    """Looks lists of values up.

    Args:
        column: Lists of strings (B,).
        vocabulary: The field's values in the order of their indices.
        width: Values kept of each list, from the first.

    Returns:
        Indices (B, width), unused places 0.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    flat = to_index(column.flatten(), vocabulary)
    row = np.repeat(np.arange(len(column)), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result = np.full((len(column), width), MISSING, np.int32)
    kept = place < width
    result[row[kept], place[kept]] = flat[kept]
    return result


def split_vocabulary(table: pa.Table, fields: Sequence[str]) -> dict[str, pa.Array]:
    """The values of each field, in the order of their indices.

    Args:
        table: The vocabulary table.
        fields: The fields that have one.

    Returns:
        An array of strings per field, empty where nothing was frequent enough.
    """
    table = table.sort_by([("field", "ascending"), ("index", "ascending")])
    return {
        name: table.filter(pc.field("field") == name)["value"].combine_chunks() for name in fields
    }


def _nulls(column: pa.Array) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = column.is_null().to_numpy(zero_copy_only=False)
    return result
