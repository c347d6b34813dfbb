"""Exact order statistics of numbers, from the counts of their distinct values.

Where the counts fit on the driver they are sorted there. Where they do not, each share of them
names a thousand of its values, the driver counts on all shares how many numbers lie up to each of
these, and fetches only the values between the two that enclose a wanted rank.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame

from features.counting import COUNT, VALUE, packed, unpacked
from features.python_tasks import map_in_arrow

_MARKS = 1_000


class Counted(NamedTuple):
    """The distinct values of a field, on the driver or as shares on a cluster."""

    counts: pa.Table | None
    """``value`` and ``count``; None where they are too many."""
    shares: Callable[[], DataFrame]
    """Gives rows with the column ``counts``, as :data:`features.counting.MERGED` has."""

    def at_ranks(self, ranks: Sequence[int]) -> list[float]:
        """The r-th smallest number, for each rank r from 1 to the number of numbers."""
        if self.counts is not None:
            return list(map(float, _at_ranks(self.counts, np.asarray(ranks))))
        return _at_ranks_of_shares(self.shares(), np.asarray(ranks))

    def mode(self) -> float | str | None:
        """The most frequent value, the smallest of several; None if there is none."""
        counts = self.counts
        if counts is None:
            counts = pa.concat_tables(map(unpacked, _each(self.shares(), _most_frequent)))
        return unpacked(_most_frequent(counts))[VALUE][0].as_py() if len(counts) else None


def median(numbers: Counted, present: int) -> float | None:
    """The middle number, or the mean of the two middle ones; None if there is none.

    Args:
        numbers: The numbers.
        present: How many there are.
    """
    if not present:
        return None
    low, high = numbers.at_ranks([(present + 1) // 2, present // 2 + 1])
    return (low + high) / 2


def boundaries(numbers: Counted, present: int, buckets: int) -> tuple[float, ...]:
    """Where the numbers are cut into buckets of equal size, as far as equal numbers allow.

    Bucket i of n begins at the smallest number that at least i/n of all numbers do not exceed
    (NumPy's ``inverted_cdf``); cuts that coincide, or that nothing lies below, are left out.

    Args:
        numbers: The numbers.
        present: How many there are.
        buckets: How many buckets to make.

    Returns:
        The smallest number of each bucket but the first, rising.
    """
    if not present:
        return ()
    ranks = [1, *(-(-i * present // buckets) for i in range(1, buckets))]
    minimum, *cuts = numbers.at_ranks(ranks)
    return tuple(sorted({cut for cut in cuts if cut > minimum}))


def _at_ranks(counts: pa.Table, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    values, up_to = _cumulated(counts)
    result: NDArray[np.float64] = values[np.searchsorted(up_to, ranks)]
    return result


def _at_ranks_of_shares(shares: DataFrame, ranks: NDArray[np.int64]) -> list[float]:
    marks = np.unique(np.concatenate([np.frombuffer(m) for m in _each(shares, _marks)]))

    def up_to_marks(counts: pa.Table) -> bytes:
        values, up_to = _cumulated(counts)
        return bytes(np.append(0, up_to)[np.searchsorted(values, marks, side="right")])

    up_to = np.sum([np.frombuffer(n, np.int64) for n in _each(shares, up_to_marks)], axis=0)
    # Each share marks its largest value, so no rank lies beyond the last mark.
    upper = np.searchsorted(up_to, ranks)
    low, high = np.append(-np.inf, marks)[upper], marks[upper]
    before = np.append(0, up_to)[upper]

    def enclosed(counts: pa.Table) -> bytes:
        kept = [_between(counts, *bounds) for bounds in {*zip(low, high, strict=True)}]
        return packed(pa.concat_tables(kept))

    near = pa.concat_tables(map(unpacked, _each(shares, enclosed)))
    return [
        float(_at_ranks(_between(near, lo, hi), rank - skipped))
        for rank, lo, hi, skipped in zip(ranks, low, high, before, strict=True)
    ]


def _marks(counts: pa.Table) -> bytes:
    """Up to a thousand values of a share, evenly spread over its numbers, and its largest."""
    values, up_to = _cumulated(counts)
    ranks = np.linspace(1, up_to[-1], _MARKS).astype(np.int64)
    return bytes(np.unique(values[np.searchsorted(up_to, ranks)]))


def _between(counts: pa.Table, low: float, high: float) -> pa.Table:
    return counts.filter((pc.field(VALUE) > low) & (pc.field(VALUE) <= high))


def _most_frequent(counts: pa.Table) -> bytes:
    order = [(COUNT, "descending"), (VALUE, "ascending")]
    return packed(counts.take(pc.select_k_unstable(counts, 1, order)))


def _cumulated(counts: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The values in rising order, and how many numbers lie up to each."""
    counts = counts.sort_by(VALUE)
    values, occurrences = (counts[name].to_numpy() for name in (VALUE, COUNT))
    return values, np.cumsum(occurrences)


def _each(shares: DataFrame, reduce: Callable[[pa.Table], bytes]) -> list[bytes]:
    """What a function makes of each share, with a Spark task for each."""

    def reduced(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            results = [reduce(unpacked(stream)) for stream in batch.column("counts").to_pylist()]
            yield pa.RecordBatch.from_arrays([pa.array(results, pa.binary())], names=["result"])

    results = map_in_arrow(shares.select("counts"), reduced, "result BINARY")
    return [row["result"] for row in results.collect()]
