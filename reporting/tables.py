"""A pipeline's Delta tables, read by delta-rs: no JVM, and a row group at a time.

They may lie at a path, or at a URL that delta-rs knows (``s3://``, ``gs://``, ``abfss://``,
``hdfs://`` …, with the credentials that it finds in the environment).
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError
from pyarrow import ArrowException
from pydantic import ValidationError

from afm.errors import TableError
from conf.names import is_url
from features.spec import Prepared
from reporting.missing import MissingStep

_ROWS_AT_ONCE = 8_192
_COLOURS = re.compile(r"\x1b\[[\d;]*m")  # for terminals, in what delta-rs says


@dataclass(frozen=True)
class Commit:
    """A commit of a table."""

    version: int
    time: datetime
    about: dict[str, str]
    """What the job that made it says of itself."""


@dataclass(frozen=True)
class Tables:
    """The tables below a folder."""

    root: str

    def has(self, name: str) -> bool:
        """Whether there is such a table."""
        uri = self._uri(name)
        with _readable(uri):
            try:
                DeltaTable(uri)
            except TableNotFoundError as error:
                if "Unknown scheme" in str(error):  # then nobody knows whether it is there
                    raise OSError(str(error)) from None
                return False
            return True

    def read(
        self,
        name: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        """Rows of a table that fit into memory.

        Args:
            name: The table.
            version: Its version, the newest if left out.
            columns: Which ones, all if left out.
            where: Which rows, all if left out.

        Returns:
            The rows.

        Raises:
            TableError: It cannot be read.
        """
        with _readable(self._uri(name)):
            return self._dataset(name, version).to_table(columns=columns, filter=where)

    def batches(
        self,
        name: str,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Rows of a table of any size, some at a time.

        Args:
            name: The table.
            version: Its version, the newest if left out.
            columns: Which ones, all if left out.
            where: Which rows, all if left out.

        Yields:
            Some rows, never none.

        Raises:
            TableError: It cannot be read.
        """
        with _readable(self._uri(name)):
            dataset = self._dataset(name, version)
            for batch in dataset.to_batches(
                columns=columns,
                filter=where,
                batch_size=_ROWS_AT_ONCE,
                batch_readahead=4,
                fragment_readahead=1,
            ):
                if len(batch):
                    yield batch

    def count(self, name: str, version: int | None, where: pc.Expression | None = None) -> int:
        """How many rows a table has, or those of them that are wanted."""
        with _readable(self._uri(name)):
            return int(self._dataset(name, version).count_rows(filter=where))

    def commits(self, name: str) -> list[Commit]:
        """The commits of a table, the newest first.

        Args:
            name: The table.

        Returns:
            Those that its log still has.

        Raises:
            TableError: It cannot be read.
        """
        with _readable(self._uri(name)):
            history = DeltaTable(self._uri(name)).history()
        return [
            Commit(
                version=int(commit["version"]),
                time=datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
                about=json.loads(commit.get("userMetadata") or "{}"),
            )
            for commit in history
        ]

    def _uri(self, name: str) -> str:
        if is_url(self.root):
            return f"{self.root.rstrip('/')}/{name}"
        return str(Path(self.root).resolve() / name)

    def _dataset(self, name: str, version: int | None) -> Any:
        uri = self._uri(name)
        table = DeltaTable(uri, version=version)
        # Its files hold rows that do not count, or call columns otherwise.
        mapped = table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none"
        if mapped or any(True for _ in table.deletion_vectors()):
            raise TableError(
                f"{uri} has deletion vectors or mapped columns, which plain readers of Parquet "
                "read wrongly. Write it anew with the job that made it"
            )
        return table.to_pyarrow_dataset()


def read_prepared(tables: Tables, spec_hash: str | None) -> Prepared:
    """What a finished ``prepare`` published.

    Args:
        tables: The tables.
        spec_hash: Of the model's spec: the last tables that have it are taken, as jobs/evaluate.py
            does. The newest if left out, or if none have it.

    Returns:
        Its spec and table versions.

    Raises:
        MissingStep: None has finished yet.
        TableError: It cannot be read.
    """
    if not tables.has("prepared"):
        raise MissingStep("The tables are not prepared yet.", "prepare")
    versions = [c.version for c in tables.commits("prepared") if c.about.get("spec") == spec_hash]
    rows = tables.read("prepared", versions[0] if versions else None).to_pylist()
    try:
        (row,) = rows
        return Prepared.model_validate_json(row["prepared"])
    except (ValueError, ValidationError):
        raise TableError(
            f"the table prepared in {tables.root} was written by another version of this code. "
            "Run jobs/prepare.py again"
        ) from None


@contextmanager
def _readable(uri: str) -> Iterator[None]:
    """Says which table cannot be read, and what can."""
    try:
        yield
    except TableNotFoundError:
        raise TableError(f"there is no table {uri}") from None
    except (DeltaError, OSError, ArrowException) as error:
        reason = " ".join(_COLOURS.sub("", str(error)).split())
        raise TableError(
            f"cannot read {uri} ({reason}). The report reads tables at paths "
            "and at the URLs that delta-rs knows, with credentials of the environment. If files "
            "were vacuumed, run the job that made the table again"
        ) from None
