"""Crosses: the pair of two fields' indices as a field of its own.

A cross is missing where either parent is, and unseen where either parent or the pair is. Its
vocabulary is keyed by the code ``index_a · cardinality_b + index_b``.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.schema import Cross
from features.cross_table import CrossTable
from features.encode import split_vocabulary
from features.spec import FIRST


def code(cross: Cross, cardinalities: Mapping[str, int]) -> Column:
    """The code of a pair over encoded columns, as a string; null unless both values are known.

    Args:
        cross: The cross.
        cardinalities: Of the encoded fields.

    Returns:
        A column over the encoded table.
    """
    a, b = (F.col(name) for name in cross.fields)
    number = a.cast("bigint") * cardinalities[cross.fields[1]] + b
    return F.when((a >= FIRST) & (b >= FIRST), number.cast("string"))


def cross_tables(
    vocabulary: pa.Table, crosses: Sequence[Cross], cardinalities: Mapping[str, int]
) -> dict[str, CrossTable]:
    """The look-up tables of crosses.

    Args:
        vocabulary: The vocabulary table.
        crosses: The crosses in it.
        cardinalities: Of the encoded fields.

    Returns:
        A table per cross.
    """
    values = split_vocabulary(vocabulary, [c.name for c in crosses])
    tables = {}
    for cross in crosses:
        codes = values[cross.name].cast(pa.int64()).to_numpy(zero_copy_only=False)
        order = np.argsort(codes)
        tables[cross.name] = CrossTable(
            codes=codes[order],
            indices=(order + FIRST).astype(np.int32),
            cardinality_b=cardinalities[cross.fields[1]],
        )
    return tables
