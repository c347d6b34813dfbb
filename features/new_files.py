"""Parquet files that are written without Spark, and made the content of a Delta table."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, CommitProperties, create_table_with_add_actions
from pyarrow.parquet import FileMetaData

_WITH_BOUNDS = ("NONE", "INT", "STRING")
"""Kinds of columns whose bounds a file is described by; Python has no moments before year 1."""


@dataclass(frozen=True)
class NewFile:
    """A Parquet file below a table's folder that no version of the table mentions yet."""

    path: str
    partition: dict[str, str]
    size: int
    """Bytes."""
    stats: dict[str, Any]
    """Delta's statistics: ``numRecords``, ``minValues``, ``maxValues``, ``nullCount``."""

    @classmethod
    def of(cls, path: str, partition: dict[str, str], footer: FileMetaData, size: int) -> Self:
        """Describes a file by its footer.

        Args:
            path: Relative to the table's folder.
            partition: The value of each partition column.
            footer: The file's Parquet metadata.
            size: Of the file, in bytes.
        """
        low: dict[str, Any] = {}
        high: dict[str, Any] = {}
        nulls: dict[str, int] = {}
        for g in range(footer.num_row_groups):
            for c in range(footer.num_columns):
                column = footer.row_group(g).column(c)
                name, known = column.path_in_schema, column.statistics
                if known is None or "." in name:
                    continue
                nulls[name] = nulls.get(name, 0) + known.null_count
                if known.has_min_max and known.logical_type.type in _WITH_BOUNDS:
                    low[name] = min(low.get(name, known.min), known.min)
                    high[name] = max(high.get(name, known.max), known.max)
        bounds = {"minValues": low, "maxValues": high, "nullCount": nulls}
        return cls(path, partition, size, {"numRecords": footer.num_rows, **bounds})

    def to_json(self) -> str:
        """As a line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote."""
        return cls(**json.loads(text))


def commit_files(
    path: str,
    files: Sequence[NewFile],
    schema: pa.Schema,
    metadata: Mapping[str, str],
    *,
    partition_by: Sequence[str],
    append: bool = False,
) -> int:
    """Makes files that are there already the content of a table, or adds them to it, in one commit.

    Args:
        path: The table's folder, which is no URL.
        files: The files, below it.
        schema: Columns of the table, with those it is partitioned by.
        metadata: What the commit says of itself.
        partition_by: Partition columns.
        append: Keep what the table has.

    Returns:
        The version that was committed.
    """
    now = int(time.time() * 1000)
    actions = [
        AddAction(f.path, f.size, f.partition, now, True, json.dumps(f.stats)) for f in files
    ]
    # What Spark calls userMetadata is a key of the commit like any other.
    said = {"userMetadata": json.dumps(dict(metadata), sort_keys=True)}
    commit = CommitProperties(custom_metadata=said)
    mode: Literal["append", "overwrite"] = "append" if append else "overwrite"
    columns = Schema.from_arrow(schema)
    if DeltaTable.is_deltatable(path):
        table = DeltaTable(path)
        table.create_write_transaction(
            actions, mode, columns, list(partition_by), commit_properties=commit
        )
    else:
        create_table_with_add_actions(
            path, columns, actions, mode, list(partition_by), commit_properties=commit
        )
        table = DeltaTable(path)
    table.update_incremental()
    return int(table.version())
