"""What disks and files did to a job, in words: where, and what to do.

Spark, Arrow, delta-rs and PyTorch each say it in their own way, some without saying where.
"""

import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import psutil

from conf.names import is_url
from conf.schema import Config

_FULL = re.compile(r"No space left on device|Disk quota exceeded|\bos error 28\b")
_READ_ONLY = re.compile(r"Read-only file system|\bos error 30\b")
_FILES = [
    re.compile(r"Encountered error while reading file (\S+?)\.?(?:\s|$)"),
    re.compile(r"Failed to open local file '([^']+)'"),
    re.compile(r"File (file:\S+) does not exist"),
    re.compile(r"(file:\S+) is not a Parquet file"),
    re.compile(r"Checksum error: (file:\S+) at"),
]
_NOT_MADE = re.compile(
    r"\[Errno \d+\] (No such file or directory|Not a directory|File exists|Permission denied): "
    r"'([^']+)'$",
    re.MULTILINE,
)
_WORKER = re.compile(r"Python worker (?:exited unexpectedly|.*crashed|failed to connect back)")
_AGAIN = "run the same command again: what was published before is whole"


def explained(text: str, config: Config | None) -> str | None:
    """Says what happened if a disk, a file or a lost process is behind an error.

    Args:
        text: The error with its causes.
        config: The pipeline, if it is known.

    Returns:
        A message; None for all other errors.
    """
    places = _places(config)
    if _FULL.search(text):
        return _full(places)
    if _READ_ONLY.search(text):
        return _read_only(places)
    if config is not None and (lacking := _missing_commit(config.tables.root, text)):
        return lacking
    for pattern in _FILES:
        if found := pattern.search(text):
            return _damaged(found[1], config, "does not exist" in text or "No such file" in text)
    if (found := _NOT_MADE.search(text)) and (key := _key_of(found[2], places)):
        return f"{key}: the folder {found[2]} cannot be made: {found[1]}. Choose another one"
    if _WORKER.search(text):
        return (
            "a Python worker of Spark ended before its work was done. Mostly memory ran out: give "
            f"tasks more, or fewer cores at once (spark-submit --master 'local[2]'); then {_AGAIN}"
        )
    return None


class _Place(NamedTuple):
    """Where a job writes, and what says so."""

    key: str
    path: str

    @property
    def there(self) -> Path:
        """The folder, or the one above it that is there."""
        folder = Path(self.path).absolute()
        return next(parent for parent in (folder, *folder.parents) if parent.exists())

    @property
    def free(self) -> int:
        """Bytes."""
        return int(psutil.disk_usage(str(self.there)).free)

    @property
    def is_read_only(self) -> bool:
        """Whether its disk is."""
        return bool(os.statvfs(self.there).f_flag & os.ST_RDONLY)


def _places(config: Config | None) -> list[_Place]:
    """URLs aside."""
    scratch = os.environ.get("SPARK_LOCAL_DIRS", tempfile.gettempdir()).split(",")
    places = [_Place("temporary files (SPARK_LOCAL_DIRS, TMPDIR)", path) for path in scratch]
    if config is not None:
        places.append(_Place("tables.root", config.tables.root))
        places.append(_Place("tables.models", config.models_root))
    return [place for place in places if not is_url(place.path)]


def _key_of(path: str, places: Sequence[_Place]) -> str | None:
    """What sets a folder that cannot be made: a place that it is, or is above of."""
    for place in places:
        folder = Path(place.path).absolute()
        if Path(path).absolute() in (folder, *folder.parents) and not folder.is_dir():
            return place.key
    return None


def _full(places: Sequence[_Place]) -> str:
    least = min(place.free for place in places)
    return (
        f"no space is left on the disk of {_listed(p for p in places if p.free == least)} "
        f"({least / 1e6:,.1f} MB are free). Free some, or set it to another disk, and {_AGAIN}"
    )


def _read_only(places: Sequence[_Place]) -> str:
    which = _listed(p for p in places if p.is_read_only) or "a folder"
    return (
        f"{which} is on a disk that is read-only. Make it writable, or set it to another one, and "
        f"{_AGAIN}"
    )


def _listed(places: Iterable[_Place]) -> str:
    return ", ".join(f"{place.key}: {place.path}" for place in places)


def _damaged(uri: str, config: Config | None, is_gone: bool) -> str:
    path = unquote(urlsplit(uri).path) if uri.startswith("file:") else uri
    root = None if config is None else str(Path(config.tables.root).absolute())
    what = f"{path} {'is not there' if is_gone else 'cannot be read: it is damaged'}"
    if root is None or not path.startswith(f"{root}/"):
        return f"{what}. Put a whole file in its place, or take it out of the source"
    return f"{what}, but the table needs it. Restore it, or make the tables anew: jobs/prepare.py"


def _missing_commit(root: str, text: str) -> str | None:
    """Names the file that lacks in the log of a table that an error is about."""
    about = re.search(r"DELTA_VERSIONS_NOT_CONTIGUOUS|DELTA_TRUNCATED_TRANSACTION_LOG", text)
    for log in [] if is_url(root) else sorted(Path(root).absolute().glob("*/_delta_log")):
        if (about or str(log.parent) in text) and (lacking := next(_gaps(log), None)) is not None:
            return (
                f"{log / f'{lacking:020}.json'} is missing, a commit of the table "
                f"{log.parent.name}. Restore it, or delete the folder {log.parent} and make the "
                "table anew: jobs/prepare.py, or the job that wrote it"
            )
    return None


def _gaps(log: Path) -> Iterator[int]:
    """Versions that lack between the first and the newest that a log has to have."""
    commits = {int(f.stem) for f in log.glob("*.json") if f.stem.isdigit()}
    checkpoints = {int(f.name[:20]) for f in log.glob("*.checkpoint*.parquet")}
    first = 0 if 0 in commits or not checkpoints else min(checkpoints)
    return (v for v in range(first, max(commits, default=0) + 1) if v not in commits)
