"""Encodes readable rows from files to files: the fast way, where Python can read and write paths.

Each task reads row groups with Arrow, encodes them and writes Parquet under a name that nobody else
has; one Delta commit publishes what all tasks wrote. A task that fails or runs twice leaves files
that no table mentions, which VACUUM removes.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet
from pyspark.sql import SparkSession

from features.counting import coded
from features.row_groups import RowGroup, RowGroups, run_tasks
from features.spec import LABEL, ROW, SPLIT, SPLITS, Input
from features.tables import NewFile
from features.transform import Encoder
from features.transform_frame import to_arrow

_CELLS_AT_ONCE = 40_000_000
"""Encoded numbers that a task holds: what bounds its memory."""
_ROWS_PER_TASK = 4_000_000
_FEW_ROWS = 262_144
"""So many rows are one task's: they come out in the same order, however they were stored."""
_ROWS_PER_GROUP = 65_536
_GROUPS_WANTED = 16
"""Training hands out row groups: of each split enough for 16 ranks, if one is worth opening."""
_SMALLEST_GROUP = 1_024
_FEW_VALUES = 256


def encode_files(
    spark: SparkSession, rows: RowGroups, encoder: Encoder, keep: Sequence[str], folder: str
) -> list[NewFile]:
    """Encodes the rows of a table and writes them below a folder, a subfolder for each split.

    Args:
        spark: The session.
        rows: Readable rows with the columns ``split`` and ``row``.
        encoder: The spec, and its vocabularies as a whole.
        keep: Columns to take along as they are.
        folder: Of the table ``features``; the same path on all machines.

    Returns:
        What was written, for a commit. In each file the rows stand in the order of ``row``, a
        seeded hash, so that any stretch of them is a random sample of the file's rows, and those
        come from all over the table.
    """
    inputs = encoder.spec.inputs
    width = len(keep) + sum(i.width for i in inputs)
    cores = spark.sparkContext.defaultParallelism
    tasks = max(min(cores, -(-rows.rows // _FEW_ROWS)), -(-rows.rows // _ROWS_PER_TASK))
    hands = [
        RowGroups(hand).dealt(-(-sum(g.rows for g in hand) * width // _CELLS_AT_ONCE))
        for hand in rows.dealt(tasks)
    ]
    files = sum(map(len, hands))
    shared = spark.sparkContext.broadcast(encoder)

    def encode(hand: Sequence[Sequence[RowGroup]]) -> Iterator[pa.RecordBatch]:
        for part in hand:
            rows_of_part = _Rows.of(part, shared.value, keep)
            for number, name in enumerate(SPLITS):
                places = rows_of_part.places(number)
                if len(places):
                    group = len(places) * files // _GROUPS_WANTED
                    group = min(max(group, _SMALLEST_GROUP), _ROWS_PER_GROUP)
                    file = _write(rows_of_part.table(places), name, folder, inputs, group)
                    yield pa.RecordBatch.from_arrays([pa.array([file.to_json()])], names=["file"])

    done = run_tasks(spark, hands, encode, "file STRING").collect()
    return [NewFile.from_json(row["file"]) for row in done]


@dataclass(frozen=True)
class _Rows:
    """Encoded rows of a task."""

    kept: Mapping[str, pa.Array]
    encoded: Mapping[str, NDArray[np.generic]]
    split: NDArray[np.int8]
    """Number of each row's split (B,)."""
    order: NDArray[np.int64]
    """The rows by split, then by ``row`` (B,)."""

    @classmethod
    def of(cls, hand: Sequence[RowGroup], encoder: Encoder, keep: Sequence[str]) -> Self:
        kept: dict[str, list[pa.Array]] = {}
        encoded: dict[str, list[NDArray[np.generic]]] = {}
        splits = []
        for group in hand:
            columns = group.columns()
            for name in keep:
                kept.setdefault(name, []).append(columns(name))
            for name, array in encoder.encode(columns, encoder.spec.inputs).items():
                encoded.setdefault(name, []).append(array)
            names, codes = coded(columns(SPLIT))
            number = pc.index_in(names, pa.array(SPLITS)).to_numpy().astype(np.int8)
            splits.append(number[codes])
        joined = {name: _joined(arrays) for name, arrays in kept.items()}
        arrays = {n: p[0] if len(p) == 1 else np.concatenate(p) for n, p in encoded.items()}
        split = np.concatenate(splits)
        return cls(joined, arrays, split, _order(split, joined[ROW], joined[LABEL], arrays))

    def places(self, split: int) -> NDArray[np.int64]:
        """Where the rows of a split stand, in their order."""
        start, end = np.searchsorted(self.split[self.order], [split, split + 1])
        return self.order[start:end]

    def table(self, places: NDArray[np.int64]) -> pa.Table:
        """Some of the rows."""
        which = pa.array(places)
        columns = {name: column.take(which) for name, column in self.kept.items()}
        columns |= {name: to_arrow(array[places]) for name, array in self.encoded.items()}
        return pa.table(columns)


def _joined(arrays: Sequence[pa.Array]) -> pa.Array:
    return pa.concat_arrays([_plain(array) for array in arrays])


def _plain(array: pa.Array) -> pa.Array:
    """As Delta stores it: strings, and moments in microseconds of UTC."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_timestamp(array.type):  # Spark writes nanoseconds without a zone
        return array.cast(pa.timestamp("us", "UTC"))
    return array


def _order(
    split: NDArray[np.int8],
    row: pa.Array,
    label: pa.Array,
    encoded: Mapping[str, NDArray[np.generic]],
) -> NDArray[np.int64]:
    """By split and row; what has the same row, by label and content, so that it is one order."""
    rows, labels = row.to_numpy(), label.to_numpy()
    # NumPy sorts numbers of 16 bits by radix, many times faster than others: first by the lower
    # half of a number with the split and the upper bits of the row, then by its upper half.
    upper = (rows.view(np.uint64) ^ np.uint64(1 << 63)) >> np.uint64(34)
    keys = (split.astype(np.uint32) << np.uint32(30)) | upper.astype(np.uint32)
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    order = order[np.argsort((keys >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    same = np.diff(keys[order]) == 0
    if same.any():
        tied = np.append(same, False) | np.append(False, same)
        places = order[tied]
        content = [array[places].reshape(len(places), -1).T for array in encoded.values()]
        by = [*reversed(np.concatenate(content)), labels[places], rows[places], split[places]]
        order[tied] = places[np.lexsort(by)]
    result: NDArray[np.int64] = order
    return result


def _write(
    table: pa.Table, split: str, folder: str, inputs: Sequence[Input], group_rows: int
) -> NewFile:
    path = f"{SPLIT}={split}/part-{uuid.uuid4()}.parquet"
    target = Path(folder) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Indices shrink by a dictionary where they are few, else by their differences. Compressing them
    # besides takes longer to write and twice as long to read. Nobody filters by them.
    encoded = {f"{i.name}.list.element" if i.encode == "multi" else i.name: i for i in inputs}
    indices = {leaf: i.cardinality for leaf, i in encoded.items() if i.encode != "value"}
    kept = [name for name in table.column_names if name not in {i.name for i in inputs}]
    with parquet.ParquetWriter(
        target,
        table.schema,
        use_dictionary=[leaf for leaf, size in indices.items() if size <= _FEW_VALUES],
        column_encoding={
            leaf: "DELTA_BINARY_PACKED" for leaf, size in indices.items() if size > _FEW_VALUES
        },
        compression=dict.fromkeys(kept, "SNAPPY"),
        write_statistics=kept,
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=group_rows)
    footer = parquet.read_metadata(target)
    return NewFile.of(path, {SPLIT: split}, footer, target.stat().st_size)
