"""Rows of the table ``scores`` as Parquet files, written by the tasks that make them.

Rows never pass through the JVM, whose writer takes longer than most of scoring. A task writes under
a name that nobody else has; one commit publishes what all of them wrote.
"""

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
from pyarrow import parquet
from pyspark.sql import DataFrame

from conf.names import is_url
from features.new_files import NewFile
from features.python_tasks import Work, map_in_arrow
from features.runs import starts
from features.spec import USER

_ROWS_PER_GROUP = 65_536
"""Few, so that who wants one user's rows reads little more."""


@dataclass(frozen=True)
class Written:
    """Files of a table that no version of it mentions yet."""

    files: tuple[NewFile, ...]
    users: int
    """Users that have rows in them."""
    rows: int

    def to_json(self) -> str:
        """As text."""
        files = [f.to_json() for f in self.files]
        return json.dumps({"files": files, "users": self.users, "rows": self.rows})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """What :meth:`to_json` wrote."""
        found = json.loads(text)
        files = tuple(NewFile.from_json(f) for f in found["files"])
        return cls(files, found["users"], found["rows"])


def writes_files(frame: DataFrame, root: str) -> bool:
    """Whether Python finds the tables' files as paths.

    Args:
        frame: One of the tables.
        root: Their folder.
    """
    return not is_url(root) and all(uri.startswith("file:") for uri in frame.inputFiles())


def write_files(
    frame: DataFrame, work: Work, schema: pa.Schema, folder: Path, prefix: str
) -> Written:
    """Writes what tasks make of a frame.

    Args:
        frame: What they get.
        work: Makes rows of its batches, those of a user together.
        schema: Of these rows.
        folder: Of the table, the same path on all machines.
        prefix: What the files' names begin with.

    Returns:
        The files.
    """

    def write(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        target = folder / f"{prefix}-{uuid.uuid4()}.parquet"
        written = _write(work(batches), schema, target)
        if written is not None:
            yield pa.RecordBatch.from_arrays([pa.array([written.to_json()])], names=["written"])

    folder.mkdir(parents=True, exist_ok=True)
    done = [
        Written.from_json(row["written"])
        for row in map_in_arrow(frame, write, "written STRING").collect()
    ]
    return joined(done)


def joined(parts: Iterable[Written]) -> Written:
    """What several have written, each other users."""
    some = list(parts)
    files = tuple(f for part in some for f in part.files)
    return Written(files, sum(p.users for p in some), sum(p.rows for p in some))


def _write(batches: Iterator[pa.RecordBatch], schema: pa.Schema, target: Path) -> Written | None:
    writer, users, last = None, 0, None
    # Keys and names repeat; the numbers hardly do, and would only be looked up for nothing.
    repeated = [
        *(name for name in schema.names if name not in ("probability", "logit", "explanation")),
        "explanation.list.element.field_a",
        "explanation.list.element.field_b",
    ]
    for batch in batches:
        if not batch.num_rows:
            continue
        table = _like(batch, schema)
        if writer is None:
            writer = parquet.ParquetWriter(
                target,
                table.schema,
                use_dictionary=repeated,
                compression="SNAPPY",
                store_schema=False,
                write_statistics=[name for name in schema.names if name != "explanation"],
            )
        writer.write_table(table, row_group_size=_ROWS_PER_GROUP)
        keys = batch.column(USER)
        users += int(starts(keys, last).sum())
        last = keys[-1]
    if writer is None:
        return None
    writer.close()
    footer = parquet.read_metadata(target)
    file = NewFile.of(target.name, {}, footer, target.stat().st_size)
    return Written((file,), users, footer.num_rows)


def _like(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    """A batch with the columns of a schema, but names in explanations as numbers and a dictionary.

    Parquet has them like that, and a name is not written out for each row first.
    """
    table = pa.Table.from_batches([batch])
    at = schema.get_field_index("explanation")
    return table.cast(schema.set(at, table.schema.field("explanation")))
