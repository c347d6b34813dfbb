"""The row groups of a Parquet table, read with Arrow inside Spark tasks.

Spark schedules and retries; Arrow reads. Rows never pass through the JVM, and a string column
arrives as its own Parquet dictionary and codes into it, so that whatever is done to values is done
once per distinct value.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Self, TypeVar
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet
from pyspark.sql import DataFrame, SparkSession

from features.python_tasks import map_in_arrow

Hand = TypeVar("Hand")

Columns = Callable[[str], pa.Array]
"""Some rows, column by column: a name gives its values, strings perhaps dictionary-coded."""


@dataclass(frozen=True)
class RowGroup:
    """A row group of a file."""

    path: str
    index: int
    rows: int
    names: tuple[str, ...]
    """Its columns."""


@dataclass(frozen=True)
class RowGroups:
    """The row groups of a table, in the order of its files' names."""

    groups: tuple[RowGroup, ...]

    @classmethod
    def of(cls, frame: DataFrame) -> Self | None:
        """Finds the row groups behind a frame that reads a Parquet or Delta table as it is.

        Args:
            frame: The table, in the version wanted, without filters or computed columns.

        Returns:
            Its row groups; None where Python cannot read the files as paths, or they lack a
            column (a partition column, say).
        """
        locations = [urlsplit(uri) for uri in frame.inputFiles()]
        if not locations or any(at.scheme != "file" for at in locations):
            return None
        paths = sorted(unquote(at.path) for at in locations)
        with ThreadPoolExecutor(16) as pool:
            footers = list(pool.map(parquet.read_metadata, paths))
        if any(set(frame.columns) - set(f.schema.to_arrow_schema().names) for f in footers):
            return None
        names = tuple(frame.columns)
        return cls(
            tuple(
                RowGroup(path, index, footer.row_group(index).num_rows, names)
                for path, footer in zip(paths, footers, strict=True)
                for index in range(footer.num_row_groups)
                if footer.row_group(index).num_rows
            )
        )

    @property
    def rows(self) -> int:
        """Rows of the table."""
        return sum(group.rows for group in self.groups)

    def dealt(self, tasks: int) -> list[tuple[RowGroup, ...]]:
        """Deals row groups to tasks, so that each sees the whole range of rows, and equally many.

        Args:
            tasks: Into how many hands, if there are as many row groups.

        Returns:
            The hands, none of them empty.
        """
        hands: list[list[RowGroup]] = [[] for _ in range(min(tasks, len(self.groups)))]
        held = [(0, number) for number in range(len(hands))]  # a heap, the emptiest hand on top
        for group in sorted(self.groups, key=lambda g: -g.rows):
            rows, number = heappop(held)
            hands[number].append(group)
            heappush(held, (rows + group.rows, number))
        return [tuple(hand) for hand in hands]


def run_tasks(
    spark: SparkSession,
    hands: Sequence[Hand],
    work: Callable[[Hand], Iterator[pa.RecordBatch]],
    schema: str,
) -> DataFrame:
    """One Spark task for each hand.

    Args:
        spark: The session.
        hands: What each task has to do, row groups mostly.
        work: What a task does with its hand.
        schema: Of what it yields, as DDL.

    Returns:
        What all tasks yield, lazily.
    """
    shared = spark.sparkContext.broadcast(list(hands))

    def task(numbers: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in numbers:
            for number in batch.column("id").to_pylist():
                yield from work(shared.value[number])

    return map_in_arrow(spark.range(0, len(hands), 1, len(hands)), task, schema)


def columns_of(groups: Sequence[RowGroup]) -> Columns:
    """The columns of some row groups, one after the other, each read when it is asked for.

    Args:
        groups: Row groups of the same columns.

    Returns:
        Their columns. A value may stand several times in the dictionary of one.
    """
    files = [_open(group.path) for group in groups]

    def column(name: str) -> pa.Array:
        chunks: list[pa.Array] = []
        for group, file in zip(groups, files, strict=True):
            table = file.read_row_group(group.index, columns=[name], use_threads=False)
            chunks += table.column(name).chunks
        return _joined(chunks)

    return column


def _open(path: str) -> parquet.ParquetFile:
    footer = parquet.read_metadata(path)
    coded = [leaf for field in footer.schema.to_arrow_schema() for leaf in _string_leaves(field)]
    return parquet.ParquetFile(
        path,
        metadata=footer,
        read_dictionary=coded,
        memory_map=True,
        # Spark's own timestamps; nanoseconds would hold the years 1677 to 2262 only, and go round.
        coerce_int96_timestamp_unit="us",
    )


def _joined(chunks: Sequence[pa.Array]) -> pa.Array:
    if len(chunks) == 1:
        return chunks[0]
    if not pa.types.is_dictionary(chunks[0].type):
        # Of lists of coded strings, the dictionaries are merged; of others there is none.
        return pa.chunked_array(chunks).unify_dictionaries().combine_chunks()
    # Not merged: what is done once per value is cheaper done twice than values are compared.
    starts = np.cumsum([0, *(len(chunk.dictionary) for chunk in chunks[:-1])])
    codes = [
        pc.add(chunk.indices, pa.scalar(start, pa.int32()))
        for chunk, start in zip(chunks, starts, strict=True)
    ]
    values = pa.concat_arrays([chunk.dictionary for chunk in chunks])
    return pa.DictionaryArray.from_arrays(pa.concat_arrays(codes), values)


def _string_leaves(field: pa.Field) -> list[str]:
    if pa.types.is_string(field.type):
        return [field.name]
    if pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
        return [f"{field.name}.list.element"]
    return []
