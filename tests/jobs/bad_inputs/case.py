"""A pipeline with something wrong, and the ways to write its log."""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
import yaml
from pyarrow import parquet

from tests.features.conftest import FIELDS

Ending = Literal["result", "message", "either"]
Write = Callable[[Path], str]
"""Writes a log below a folder and returns its name there."""

KEYS = {"user": "u", "item": "i", "time": "t"}
NARROW: dict[str, Any] = {
    "keys": {"time": KEYS["time"]},
    "fields": [{**field, "side": "context"} for field in FIELDS],
}
"""Sections for cases of how a log is read: no tables of users and items, which take their time."""
ROWS = 120


@dataclass(frozen=True)
class Case:
    """A pipeline with something wrong."""

    name: str
    write: Write
    ending: Ending
    sections: Mapping[str, Any] = field(default_factory=dict)
    """Of the configuration, beside the usual ones."""
    table: Mapping[str, Any] = field(default_factory=dict)
    """Keys of ``source.interactions``."""
    rows: int | None = None
    """Rows that the log has, where that is known."""
    kept: tuple[str, ...] = ()
    """Values of the log that the tables have to have as they are: as users and as cities."""
    yaml: bytes | None = None
    """The YAML, instead of one made of the sections."""
    root: str = "tables"
    """Name of the tables' folder."""

    def pipeline(self, folder: Path) -> Path:
        """Writes all files.

        Args:
            folder: An empty folder.

        Returns:
            The YAML.
        """
        name = self.write(folder)
        path = folder / "bad.yaml"
        if self.yaml is not None:
            path.write_bytes(self.yaml)
            return path
        formats = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
        kind = formats[Path(name).suffix]
        table = {"format": kind, "path": str(folder / name)} | dict(self.table)
        base = {
            "source": {"interactions": table},
            "label": "clicked",
            "keys": KEYS,
            "fields": FIELDS,
            "split": {"validation": 0.2, "test": 0.2},
            "tables": {"root": str(folder / self.root)},
        }
        text = yaml.safe_dump(base | dict(self.sections), sort_keys=False, allow_unicode=True)
        path.write_text(text, encoding="utf-8")
        return path


def log(rows: int = ROWS, **columns: Any) -> pd.DataFrame:
    """A good log; keyword arguments replace or add columns, or drop them where None."""
    n = pd.Series(range(rows))
    frame = pd.DataFrame(
        {
            "u": "u" + (n % 11).astype(str),
            "i": n * 7 % 13,
            "t": 1_700_000_000 + n * 60,
            "age": (n % 11 * 3.5).where(n % 5 != 0),
            "city": ("c" + (n % 6).astype(str)).where(n % 7 != 0),
            "tags": ("x|y|w" + (n % 3).astype(str)).where(n % 4 != 0),
            "clicked": n * n // 3 % 2,
        }
    )
    gone = [name for name, values in columns.items() if values is None]
    return frame.assign(**{k: v for k, v in columns.items() if v is not None}).drop(columns=gone)


def some(column: str, value: Any, every: int = 12, rows: int = ROWS) -> "pd.Series[Any]":
    """A column of the good log with another value in some rows."""
    good = log(rows)[column].astype(object)
    return good.where(good.index % every != 1, value)


def as_parquet(frame: pd.DataFrame) -> Write:
    """A log in Parquet."""

    def write(folder: Path) -> str:
        frame.to_parquet(folder / "log.parquet", index=False)
        return "log.parquet"

    return write


def as_arrow(table: pa.Table) -> Write:
    """A log in Parquet, of types that pandas does not have."""

    def write(folder: Path) -> str:
        parquet.write_table(table, folder / "log.parquet")
        return "log.parquet"

    return write


def as_bytes(name: str, content: bytes) -> Write:
    """A file."""

    def write(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return name

    return write


def as_files(files: Mapping[str, bytes], name: str) -> Write:
    """A folder of files."""

    def write(folder: Path) -> str:
        for path, content in files.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_bytes(content)
        return name

    return write


def csv_of(frame: pd.DataFrame, **options: Any) -> bytes:
    """The same as CSV."""
    return frame.to_csv(index=False, **options).encode()


def parquet_of(frame: pd.DataFrame) -> bytes:
    """The same as Parquet."""
    sink = io.BytesIO()
    frame.to_parquet(sink, index=False)
    return sink.getvalue()


def lines_of(frame: pd.DataFrame) -> list[str]:
    """The same as lines of JSON."""
    return [json.dumps(row, ensure_ascii=False) for row in frame.to_dict("records")]
