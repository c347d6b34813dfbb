"""Values to indices: what a one-hot vector times an embedding table is.

Index 0 is missing, 1 unseen or too rare in training, 2… the vocabulary by falling frequency, ties
by value, or the buckets. Only a column's distinct values are looked up; its rows then take theirs.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.counting import coded
from features.spec import FIRST, MISSING, UNSEEN

Lookup = Callable[[pa.Array], NDArray[np.int32]]
"""Gives distinct strings (V,) their indices (V,)."""


def in_vocabulary(vocabulary: pa.Array) -> Lookup:
    """Looks values up in a vocabulary.

    Args:
        vocabulary: The field's values in the order of their indices.
    """

    def look_up(values: pa.Array) -> NDArray[np.int32]:
        if not len(vocabulary):
            return np.full(len(values), UNSEEN, np.int32)
        found = pc.fill_null(pc.index_in(values, value_set=vocabulary), UNSEEN - FIRST)
        index: NDArray[np.int32] = found.to_numpy(zero_copy_only=False).astype(np.int32)
        return index + np.int32(FIRST)

    return look_up


def by_hash(buckets: int) -> Lookup:
    """Spreads values over a number of buckets, by pandas' hash of strings (SipHash).

    Args:
        buckets: How many.
    """

    def look_up(values: pa.Array) -> NDArray[np.int32]:
        hashed = pd.util.hash_array(values.to_numpy(zero_copy_only=False), categorize=False)
        return (hashed % np.uint64(buckets)).astype(np.int32) + FIRST

    return look_up


def to_index(column: pa.Array, look_up: Lookup, fill: str | None = None) -> NDArray[np.int32]:
    """Gives values their indices.

    Args:
        column: Strings, dictionary-coded or not (B,).
        look_up: Gives distinct values their indices.
        fill: What replaces a null; None leaves it missing.

    Returns:
        Indices (B,).
    """
    values, codes = coded(column)
    of_null = MISSING if fill is None else look_up(pa.array([fill], pa.string()))[0]
    return np.append(look_up(values), np.int32(of_null))[codes]


def to_bucket(column: pa.Array, boundaries: Sequence[float]) -> NDArray[np.int32]:
    """Gives numbers the indices of their buckets.

    Args:
        column: Doubles (B,).
        boundaries: The smallest number of each bucket but the first, rising.

    Returns:
        Indices (B,).
    """
    numbers = column.to_numpy(zero_copy_only=False)  # nulls as NaN, which sorts last
    index = np.searchsorted(np.asarray(boundaries), numbers, side="right").astype(np.int32) + FIRST
    return np.where(np.isnan(numbers), np.int32(MISSING), index)


def to_indices(column: pa.ListArray, look_up: Lookup, width: int) -> NDArray[np.int32]:
    """Gives lists of values their indices.

    Args:
        column: Lists of strings, dictionary-coded or not (B,).
        look_up: Gives distinct values their indices.
        width: Values kept of each list, from the first.

    Returns:
        Indices (B, width), unused places 0.
    """
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False)
    flat = to_index(column.flatten(), look_up)
    row = np.repeat(np.arange(len(column)), lengths)
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    result = np.full((len(column), width), MISSING, np.int32)
    kept = place < width
    result[row[kept], place[kept]] = flat[kept]
    return result


def to_flag(column: pa.Array) -> NDArray[np.int32]:
    """Whether values are there: the index of a missing one, or the first (B,)."""
    missing = column.is_null().to_numpy(zero_copy_only=False)
    return np.where(missing, np.int32(MISSING), np.int32(FIRST))
