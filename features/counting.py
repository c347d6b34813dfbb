"""What training rows tell, in parts that can be merged: value counts, and moments of numbers.

A task counts the row groups it reads and yields a few rows, each with the counts of a share of all
values; the shares meet in one shuffle, where :func:`merge_counts` adds them up. Of a field only
distinct values travel, so the traffic does not grow with the rows of a task.
"""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from features.row_groups import Columns

VALUE, SECOND, COUNT = "value", "second", "count"

PARTIAL = "part INT, field STRING, counts BINARY, moments STRING"
"""Rows of a task: the counts of a share of a field's values, or the moments of all its rows."""
MERGED = "field STRING, rows BIGINT, counts BINARY, moments STRING"
"""Rows after the shuffle: a share of a field's values, or the moments of a task's rows."""

_COMPACT_AT = 4_000_000
_IN_CACHE = 32_768
"""Numbers that are added up at once, in the processor's cache."""


Chosen = NDArray[np.bool_] | None
"""Which rows count (B,); all if None."""


class Wanted(NamedTuple):
    """What is to be learned of the readable columns."""

    texts: Mapping[str, str | None]
    """Fields of strings, or of lists of them, whose values are counted, and for which value a
    missing one counts, if for any."""
    numbers: tuple[str, ...]
    """Fields of numbers whose values are counted."""
    pairs: Mapping[str, tuple[str, str]]
    """Crosses, and the two fields of strings whose pairs of values are counted."""
    moments: tuple[str, ...]
    """Fields of numbers whose moments are taken."""

    @property
    def columns(self) -> set[str]:
        """The columns that it takes."""
        paired = {name for pair in self.pairs.values() for name in pair}
        return {*self.texts, *self.numbers, *self.moments, *paired}


@dataclass(frozen=True)
class Moments:
    """Statistics of a numeric column over some rows; of no number at all if none is present."""

    present: int = 0
    missing: int = 0
    mean: float = 0.0
    variance: float = 0.0
    """Population variance."""
    minimum: float = math.inf
    maximum: float = -math.inf

    @classmethod
    def of(cls, column: pa.Array, chosen: Chosen = None) -> "Moments":
        """The moments of a column of doubles (B,), or of those that are chosen."""
        total = cls()
        for start in range(0, len(column), _IN_CACHE):
            stretch = slice(start, start + _IN_CACHE)
            total += cls._of(column[stretch], None if chosen is None else chosen[stretch])
        return total

    @classmethod
    def _of(cls, column: pa.Array, chosen: Chosen) -> "Moments":
        rows = len(column) if chosen is None else int(np.count_nonzero(chosen))
        numbers: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
        present = _present(column, chosen)
        if present is None:
            present = np.ones(rows, np.bool_)
        count = int(np.count_nonzero(present))
        if not count:
            return cls(missing=rows)
        # Filling gaps, by any of the numbers, is several times faster than leaving them out.
        some = float(numbers[present.argmax()])
        filled = np.where(present, numbers, some)
        mean = some + float((filled - some).sum()) / count
        deviation = np.where(present, filled - mean, 0.0)
        return cls(
            present=count,
            missing=rows - count,
            mean=mean,
            variance=float(deviation @ deviation) / count,
            minimum=float(filled.min()),
            maximum=float(filled.max()),
        )

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both rows together (Chan, Golub and LeVeque, 1983).

        >>> Moments.of(pa.array([1.0, 3.0])) + Moments.of(pa.array([5.0, None, 7.0]))
        Moments(present=4, missing=1, mean=4.0, variance=5.0, minimum=1.0, maximum=7.0)
        """
        present = self.present + other.present
        share = other.present / present if present else 0.0
        gap = other.mean - self.mean
        within = (1 - share) * self.variance + share * other.variance
        return Moments(
            present=present,
            missing=self.missing + other.missing,
            mean=self.mean + share * gap,
            variance=within + share * (1 - share) * gap**2,
            minimum=min(self.minimum, other.minimum),
            maximum=max(self.maximum, other.maximum),
        )

    def imputed(self, fill: float) -> "Moments":
        """The statistics after missing values were replaced, without another pass.

        >>> Moments(3, 1, 2.0, 2.0, 0.0, 3.0).imputed(6.0)
        Moments(present=4, missing=0, mean=3.0, variance=4.5, minimum=0.0, maximum=6.0)
        """
        if not self.missing:
            return self
        filled = Moments(self.missing, 0, fill, 0.0, fill, fill)
        return Moments(self.present, 0, self.mean, self.variance, self.minimum, self.maximum) + (
            filled
        )

    def rounded(self) -> "Moments":
        """12 significant digits: the last bits of a sum depend on how rows met in tasks."""
        return Moments(
            self.present,
            self.missing,
            *(float(f"{x:.12g}") for x in (self.mean, self.variance, self.minimum, self.maximum)),
        )


@dataclass
class Partial:
    """What the rows seen so far tell."""

    wanted: Wanted
    counts: dict[str, list[pa.Table]] = field(default_factory=dict)
    moments: dict[str, Moments] = field(default_factory=dict)

    def add(self, columns: Columns, chosen: Chosen) -> None:
        """Counts some rows.

        Args:
            columns: The rows.
            chosen: Which of them count.
        """
        wanted = self.wanted
        paired = {name for pair in wanted.pairs.values() for name in pair}
        kept: dict[str, pa.Array] = {}
        for name in sorted(wanted.columns):
            column = columns(name)
            if name in wanted.texts:
                self._add(name, count_texts(column, chosen, wanted.texts[name]))
            if name in wanted.numbers:
                self._add(name, count_numbers(column, chosen))
            if name in wanted.moments:
                self.moments[name] = self.moments.get(name, Moments()) + Moments.of(column, chosen)
            if name in paired:
                kept[name] = column
        for name, (a, b) in wanted.pairs.items():
            self._add(name, count_pairs(kept[a], kept[b], chosen))

    def _add(self, name: str, counts: pa.Table) -> None:
        tables = self.counts.setdefault(name, [])
        tables.append(counts)
        if sum(map(len, tables)) > _COMPACT_AT:
            self.counts[name] = [added(tables)]

    def batches(self, parts: int) -> Iterator[pa.RecordBatch]:
        """The rows that go into the shuffle.

        Args:
            parts: Into how many shares the values are spread, the same for all tasks.
        """
        for name, tables in self.counts.items():
            counts = added(tables)
            part = _hash(counts) % np.uint64(parts)
            order = np.argsort(part, kind="stable")
            ends = np.searchsorted(part[order], np.arange(parts + 1, dtype=np.uint64)).tolist()
            counts = counts.take(pa.array(order))
            for number, (start, end) in enumerate(pairwise(ends)):
                if end > start:
                    share = packed(counts.slice(start, end - start))
                    yield _row(PARTIAL, number, name, share, None)
        moments = {name: asdict(m) for name, m in self.moments.items()}
        yield _row(PARTIAL, 0, None, None, json.dumps(moments))


def merge_counts(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Adds up the shares that met in a partition after the shuffle.

    Args:
        batches: Rows of :data:`PARTIAL`.

    Yields:
        Rows of :data:`MERGED`: one per field, and the moments as they came.
    """
    counts: dict[str, list[pa.Table]] = {}
    for batch in batches:
        for row in batch.to_pylist():
            if row["moments"] is not None:
                yield _row(MERGED, None, 0, None, row["moments"])
                continue
            tables = counts.setdefault(row["field"], [])
            tables.append(unpacked(row["counts"]))
            if sum(map(len, tables)) > _COMPACT_AT:
                counts[row["field"]] = [added(tables)]
    for name, tables in counts.items():
        total = added(tables)
        yield _row(MERGED, name, len(total), packed(total), None)


def moments_of(texts: Sequence[str]) -> dict[str, Moments]:
    """Adds up what tasks say of their rows' moments.

    Args:
        texts: The column ``moments`` of :data:`MERGED`, in any order.

    Returns:
        The moments of each field over all rows.
    """
    total: dict[str, Moments] = {}
    for text in sorted(texts):
        for name, moments in json.loads(text).items():
            total[name] = total.get(name, Moments()) + Moments(**moments)
    return total


def count_texts(column: pa.Array, chosen: Chosen = None, fill: str | None = None) -> pa.Table:
    """How often each string of a column occurs; a list counts for each of its values.

    Args:
        column: Strings, dictionary-coded or not, or lists of them (B,).
        chosen: Which rows count.
        fill: The string that a null counts for; if None, nulls do not count.

    Returns:
        ``value`` and ``count``.
    """
    if pa.types.is_list(column.type):
        rows = column if chosen is None else column.filter(pa.array(chosen))
        return count_texts(rows.flatten())
    values, codes = coded(column)
    if chosen is not None:
        codes = np.where(chosen, codes, np.int32(len(values) + 1))
    counts = np.bincount(codes, minlength=len(values) + 2)
    table = pa.table({VALUE: values, COUNT: counts[: len(values)]})
    if fill is not None and counts[len(values)]:
        nulls = pa.array([counts[len(values)]])
        filled = pa.table({VALUE: pa.array([fill], values.type), COUNT: nulls})
        table = grouped(pa.concat_tables([table, filled]))
    return table.filter(pc.field(COUNT) > 0)


def count_numbers(column: pa.Array, chosen: Chosen = None) -> pa.Table:
    """How often each number of a column occurs; nulls do not count.

    Args:
        column: Doubles (B,).
        chosen: Which rows count.

    Returns:
        ``value`` and ``count``.
    """
    counted = pc.value_counts(pa.array(_numbers(column, chosen)))
    return pa.table({VALUE: counted.field(0), COUNT: counted.field(1)})


def _numbers(column: pa.Array, chosen: Chosen) -> NDArray[np.float64]:
    """The numbers of a column of doubles (B,), without nulls, of the rows that are chosen."""
    numbers: NDArray[np.float64] = column.to_numpy(zero_copy_only=False)
    present = _present(column, chosen)
    return numbers if present is None else numbers[present]


def _present(column: pa.Array, chosen: Chosen) -> Chosen:
    """Which rows are chosen and have a value."""
    if not column.null_count:
        return chosen
    valid: NDArray[np.bool_] = column.is_valid().to_numpy(zero_copy_only=False)
    return valid if chosen is None else valid & chosen


def count_pairs(a: pa.Array, b: pa.Array, chosen: Chosen = None) -> pa.Table:
    """How often each pair of strings occurs, null being one of them.

    Args:
        a: Strings, dictionary-coded or not (B,).
        b: Likewise.
        chosen: Which rows count.

    Returns:
        ``value``, ``second`` and ``count``.
    """
    (values_a, codes_a), (values_b, codes_b) = coded(a), coded(b)
    width = len(values_b) + 1  # the last code is that of null
    codes = codes_a.astype(np.int64) * width + codes_b
    counted = pc.value_counts(pa.array(codes if chosen is None else codes[chosen]))
    place_a, place_b = np.divmod(counted.field(0).to_numpy(), width)
    return pa.table(
        {
            VALUE: values_a.take(pa.array(place_a, mask=place_a == len(values_a))),
            SECOND: values_b.take(pa.array(place_b, mask=place_b == len(values_b))),
            COUNT: counted.field(1),
        }
    )


def coded(column: pa.Array) -> tuple[pa.Array, NDArray[np.int32]]:
    """A column as its distinct values and codes into them.

    Args:
        column: Strings, dictionary-coded or not (B,).

    Returns:
        The values (V,), and for each row the place of its value, V for null (B,).
    """
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    codes = column.indices
    if codes.null_count:
        codes = codes.fill_null(len(column.dictionary))
    return column.dictionary, codes.to_numpy(zero_copy_only=False)


def added(tables: Sequence[pa.Table]) -> pa.Table:
    """Counts of the same field, each value once in a table, added up by value."""
    return tables[0] if len(tables) == 1 else grouped(pa.concat_tables(tables))


def grouped(counts: pa.Table) -> pa.Table:
    """Counts added up by value."""
    keys = [name for name in counts.column_names if name != COUNT]
    total = counts.group_by(keys, use_threads=False).aggregate([(COUNT, "sum")])
    return total.select([*keys, f"{COUNT}_sum"]).rename_columns([*keys, COUNT])


def packed(table: pa.Table) -> bytes:
    """A table as a binary value: an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def unpacked(stream: bytes) -> pa.Table:
    """What :func:`packed` has packed."""
    return pa.ipc.open_stream(stream).read_all()


def _hash(counts: pa.Table) -> NDArray[np.uint64]:
    columns = [counts.column(name) for name in counts.column_names if name != COUNT]
    total = np.zeros(len(counts), np.uint64)
    for column in columns:
        hashed = pd.util.hash_array(column.to_numpy(), categorize=False)
        total = total * np.uint64(31) + hashed
    return total


def _row(schema: str, *values: object) -> pa.RecordBatch:
    """A row of PARTIAL or of MERGED."""
    types = {"INT": pa.int32(), "BIGINT": pa.int64(), "STRING": pa.string(), "BINARY": pa.binary()}
    columns = [column.split() for column in schema.split(", ")]
    arrays = [pa.array([v], types[t]) for v, (_, t) in zip(values, columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=[name for name, _ in columns])
