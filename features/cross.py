"""Crosses: the pair of two fields' indices as a field of its own.

A cross is missing where either parent is, and unseen where either parent or the pair is. Its
vocabulary is keyed by the code of :func:`features.cross_table.codes_of`.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.features import Cross
from features.counting import COUNT, VALUE, grouped
from features.cross_table import CrossTable, HashedPairs, ListedPairs, codes_of
from features.spec import FIRST
from features.vocabulary import split_vocabulary


def counts_by_code(
    a: NDArray[np.int32], b: NDArray[np.int32], counts: pa.Array, cardinality_b: int
) -> pa.Table:
    """Counts of pairs of indices, by their code.

    Args:
        a: Indices of the first parent (P,).
        b: Indices of the second (P,).
        counts: How often each pair occurs (P,).
        cardinality_b: Of the second parent.

    Returns:
        ``value``, the code as a string, and ``count``; pairs with a parent that is missing or
        unseen are left out.
    """
    known = (a >= FIRST) & (b >= FIRST)
    values = pa.array(codes_of(a[known], b[known], cardinality_b)).cast(pa.string())
    table = pa.table({VALUE: values, COUNT: counts.filter(pa.array(known))})
    return grouped(table)


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
    values = split_vocabulary(vocabulary, [c.name for c in crosses if c.buckets is None])
    tables: dict[str, CrossTable] = {}
    for cross in crosses:
        cardinality_b = cardinalities[cross.fields[1]]
        if cross.buckets is not None:
            tables[cross.name] = HashedPairs(cross.buckets, cardinality_b)
            continue
        codes = values[cross.name].cast(pa.int64()).to_numpy(zero_copy_only=False)
        order = np.argsort(codes)
        tables[cross.name] = ListedPairs(
            codes=codes[order],
            indices=(order + FIRST).astype(np.int32),
            cardinality_b=cardinality_b,
        )
    return tables
