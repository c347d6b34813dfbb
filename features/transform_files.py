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
from features.new_files import NewFile
from features.row_groups import RowGroup, RowGroups, columns_of, run_tasks
from features.spec import LABEL, ROW, SPLIT, SPLITS, WEIGHT, Input
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
                table = rows_of_part.table(number)
                if len(table):
                    group = len(table) * files // _GROUPS_WANTED
                    group = min(max(group, _SMALLEST_GROUP), _ROWS_PER_GROUP)
                    file = _write(table, name, folder, inputs, group)
                    yield pa.RecordBatch.from_arrays([pa.array([file.to_json()])], names=["file"])

    done = run_tasks(spark, hands, encode, "file STRING").collect()
    return [NewFile.from_json(row["file"]) for row in done]


@dataclass(frozen=True)
class _Rows:
    """Encoded rows of a task."""

    kept: Mapping[str, pa.Array]
    encoded: Mapping[str, NDArray[np.generic]]
    ends: NDArray[np.int64]
    """How many rows there are up to the end of each split, in the order of SPLITS."""

    @classmethod
    def of(cls, hand: Sequence[RowGroup], encoder: Encoder, keep: Sequence[str]) -> Self:
        columns = columns_of(hand)
        names, codes = coded(columns(SPLIT))
        split = pc.index_in(names, pa.array(SPLITS)).to_numpy().astype(np.int8)[codes]
        row = columns(ROW).to_numpy()
        order = _order(split, row)
        ends = np.cumsum(np.bincount(split, minlength=len(SPLITS)))
        kept = {name: _plain(columns(name)).take(pa.array(order)) for name in keep}
        encoded = encoder.encode(columns, encoder.spec.inputs, order)
        weights = {n: kept[n].to_numpy() for n in kept if n == WEIGHT}
        again = _tied(split[order], row[order], kept[LABEL].to_numpy(), {**encoded, **weights})
        if again is not None:
            kept = {name: column.take(pa.array(again)) for name, column in kept.items()}
            encoded = {name: array[again] for name, array in encoded.items()}
        return cls(kept, encoded, ends)

    def table(self, split: int) -> pa.Table:
        """The rows of a split."""
        start, end = (int(n) for n in np.append(0, self.ends)[split : split + 2])
        columns = {name: column[start:end] for name, column in self.kept.items()}
        columns |= {name: to_arrow(array[start:end]) for name, array in self.encoded.items()}
        # Parquet writes and reads columns that say so twice as fast.
        never_null = {LABEL, WEIGHT, ROW, *self.encoded}
        fields = [pa.field(n, c.type, n not in never_null) for n, c in columns.items()]
        return pa.table(columns, schema=pa.schema(fields))


def _plain(array: pa.Array) -> pa.Array:
    """As Delta stores it: strings, and moments in microseconds of UTC."""
    if pa.types.is_dictionary(array.type):
        return array.dictionary_decode()
    if pa.types.is_timestamp(array.type):  # Spark writes them without a zone
        return array.cast(pa.timestamp("us", "UTC"))
    return array


def _order(split: NDArray[np.int8], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows (B,) by split and ``row``."""
    # NumPy sorts numbers of 16 bits by radix, many times faster than others: first by the lower
    # half of a number with the split and the upper bits of the row, then by its upper half.
    upper = (row.view(np.uint64) ^ np.uint64(1 << 63)) >> np.uint64(34)
    keys = (split.astype(np.uint32) << np.uint32(30)) | upper.astype(np.uint32)
    order = np.argsort(keys.astype(np.uint16), kind="stable")
    order = order[np.argsort((keys >> np.uint32(16)).astype(np.uint16)[order], kind="stable")]
    places = _runs(keys[order])
    tied = order[places]
    order[places] = tied[np.lexsort([row[tied], keys[tied]])]
    result: NDArray[np.int64] = order
    return result


def _tied(
    split: NDArray[np.int8],
    row: NDArray[np.int64],
    label: NDArray[np.generic],
    encoded: Mapping[str, NDArray[np.generic]],
) -> NDArray[np.int64] | None:
    """The order of rows that are in order but for equal ``row``: by label and content.

    Returns:
        The rows (B,) in order; None if they are.
    """
    places = _runs(row)
    if not len(places):
        return None
    content = [array[places].reshape(len(places), -1).T for array in encoded.values()]
    by = [*reversed(np.concatenate(content)), label[places], row[places], split[places]]
    order = np.arange(len(row))
    order[places] = places[np.lexsort(by)]
    return order


def _runs(keys: NDArray[np.generic]) -> NDArray[np.int64]:
    """Places of keys (B,) that equal one next to them."""
    same = keys[1:] == keys[:-1]
    return np.flatnonzero(np.append(same, False) | np.append(False, same))


def _write(
    table: pa.Table, split: str, folder: str, inputs: Sequence[Input], group_rows: int
) -> NewFile:
    path = f"{SPLIT}={split}/part-{uuid.uuid4()}.parquet"
    target = Path(folder) / path
    target.parent.mkdir(parents=True, exist_ok=True)
    # Indices shrink by their differences. Compressing them besides takes longer to write and twice
    # as long to read. Nobody filters by them.
    indices = [
        f"{i.name}.list.element" if i.encode == "multi" else i.name
        for i in inputs
        if i.encode != "value"
    ]
    kept = [name for name in table.column_names if name not in {i.name for i in inputs}]
    with parquet.ParquetWriter(
        target,
        table.schema,
        use_dictionary=False,
        column_encoding=dict.fromkeys(indices, "DELTA_BINARY_PACKED"),
        compression=dict.fromkeys(kept, "SNAPPY"),
        write_statistics=kept,
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=group_rows)
    footer = parquet.read_metadata(target)
    return NewFile.of(path, {SPLIT: split}, footer, target.stat().st_size)
