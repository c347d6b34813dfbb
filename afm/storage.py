"""Where files lie: the one place that opens those which a Delta log names.

delta-rs and Petastorm each know URLs of their own. What both need for S3 comes from the environment
that Amazon's tools use: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ENDPOINT_URL
for a server of one's own; docs/s3.md has it all.
"""

import os
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.arrow import ArrowFSWrapper
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from pyarrow.filesystem import FileSystem
from pyarrow.fs import S3FileSystem

from conf.names import is_url


def table_uri(root: str, name: str) -> str:
    """Where a table lies: below a URL, or below a folder that need not be absolute."""
    if is_url(root):
        return f"{root.rstrip('/')}/{name}"
    return str(Path(root).resolve() / name)


def open_files(urls: Sequence[str]) -> tuple[Any, list[str]]:
    """Finds the file system of some files.

    Args:
        urls: Of the files, all on the same one.

    Returns:
        The file system, as Petastorm takes it, and the files' paths on it.

    Raises:
        OSError: It cannot be reached.
        ValueError: Nobody knows such URLs.
    """
    if _on_s3(urls[0]):
        return _Files(_s3()), [url.partition("://")[2] for url in urls]
    quieten_petastorm()
    filesystem, paths = get_filesystem_and_path_or_paths(list(urls))
    if isinstance(filesystem, AbstractFileSystem):
        filesystem = _Files(filesystem)
    return filesystem, paths


def files_below(uri: str) -> dict[str, int]:
    """The files of a table, whether its log names them or not.

    Args:
        uri: Where it lies.

    Returns:
        Their sizes in bytes, by path within the table.
    """
    if not is_url(uri):
        files = [path for path in Path(uri).rglob("*") if path.is_file()]
        return {path.relative_to(uri).as_posix(): path.stat().st_size for path in files}
    filesystem, root = (_s3(), uri.partition("://")[2]) if _on_s3(uri) else url_to_fs(uri)
    found = filesystem.find(root, detail=True)
    return {name.removeprefix(f"{root}/"): about["size"] for name, about in found.items()}


def quieten_petastorm() -> None:
    """It uses what pyarrow 14 calls deprecated, dozens of times per file."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="petastorm")


class _Files(FileSystem):  # type: ignore[misc]
    """Files that a log names, by the interface that Petastorm makes pyarrow 14 use.

    Petastorm hands on what fsspec gives, which that interface takes for the new one and refuses.
    """

    def __init__(self, files: AbstractFileSystem) -> None:
        self._files = files

    def open(self, path: str, mode: str = "rb") -> Any:
        return self._files.open(path, mode=mode)

    def isfile(self, path: str) -> bool:
        return True  # the log says so

    def isdir(self, path: str) -> bool:
        return False

    def exists(self, path: str) -> bool:
        return True

    def _isfilestore(self) -> bool:
        return False


def _on_s3(url: str) -> bool:
    return urlsplit(url).scheme in ("s3", "s3a")


@cache
def _s3() -> ArrowFSWrapper:
    """S3 by pyarrow, which finds credentials itself. Petastorm's own way needs s3fs."""
    endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
    return ArrowFSWrapper(
        S3FileSystem(
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
            scheme=endpoint.scheme or None,
            endpoint_override=endpoint.netloc or None,
        )
    )
