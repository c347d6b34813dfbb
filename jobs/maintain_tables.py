"""Compacts and vacuums a pipeline's tables, without losing a version that something refers to.

All through delta-rs, which reads the same folders and URLs as training does.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pyarrow as pa
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError
from deltalake.transaction import CommitProperties

from afm.artifact import Manifest
from afm.storage import files_below, table_uri
from conf.names import is_url
from conf.results import MaintainConfig
from features.spec import Prepared

GROWING = ("interactions", "features", "quarantine")
"""Tables that batches are added to. The others are written whole, in files as their readers want
them: those of `scores` each hold a range of users."""
_TABLES = (
    *GROWING,
    *("quality", "vocabulary", "users", "items", "prepared"),
    *("scores", "metrics", "rankings", "monitor"),
)
_VACUUM = ("VACUUM START", "VACUUM END")
_ROWS_PER_GROUP = 65_536
"""As `prepare` has it: training hands out row groups."""


class Removed(NamedTuple):
    """What went, or would go."""

    files: int
    bytes: int


def tables_of(root: str) -> list[str]:
    """The tables of a pipeline that are there."""
    return [name for name in _TABLES if DeltaTable.is_deltatable(table_uri(root, name))]


def compact(root: str, prepared: Prepared, settings: MaintainConfig) -> Iterator[str]:
    """Compacts the tables that batches are added to, and publishes what became of them.

    Args:
        root: Folder of the tables.
        prepared: What is published.
        settings: How many files are too many.

    Yields:
        A line for each table that has more, and for each that has to be left alone.
    """
    versions = dict(prepared.versions)
    for name in GROWING:
        table = DeltaTable(table_uri(root, name))
        since = [c for c in table.history() if c["version"] > versions[name]]
        since = [c for c in since if c["operation"] not in _VACUUM]
        if any(c["operation"] != "OPTIMIZE" for c in since):
            yield f"{name}: left as it is; it has rows of a prepare that did not finish"
            continue
        # Of a maintain that was killed before it could publish them.
        versions[name] = max([versions[name], *(c["version"] for c in since)])
        files = len(table.file_uris())
        if files <= settings.compact_files:
            continue
        if settings.dry_run:
            yield f"{name}: {files:,} files would become few"
            continue
        done = table.optimize.compact(
            writer_properties=WriterProperties(
                compression="SNAPPY", max_row_group_size=_ROWS_PER_GROUP
            ),
            commit_properties=_says(job="maintain", spec=prepared.spec.hash),
        )
        if done["numFilesRemoved"]:
            versions[name] = table.version()
            yield f"{name}: {files:,} files became {len(table.file_uris()):,}"
    if versions != prepared.versions and not settings.dry_run:
        text = prepared.model_copy(update={"versions": versions}).model_dump_json()
        write_deltalake(
            table_uri(root, "prepared"),
            pa.table({"prepared": [text], "spec_hash": [prepared.spec.hash]}),
            mode="overwrite",
            commit_properties=_says(job="maintain", spec=prepared.spec.hash),
        )


def pinned(root: str, models: Iterable[Manifest]) -> dict[str, set[int]]:
    """The versions that something refers to.

    Args:
        root: Folder of the tables.
        models: All models that may be used on them.

    Returns:
        Of each table its versions: those of the last `prepare`, and of the last one with the spec
        of each model; those that models were trained on; those that the scores were made from,
        which `score mode=changed` compares; and those that the monitor compares.
    """
    found: defaultdict[str, set[int]] = defaultdict(set)
    commits = _commits(root, "prepared")
    newest_with = {said.get("spec"): version for version, said in reversed(commits)}
    trained = [model for model in models if model.spec_hash in newest_with]
    found["features"] |= {model.features.version for model in trained}
    for version in {commits[0][0], *(newest_with[model.spec_hash] for model in trained)}:
        found["prepared"].add(version)
        for name, pin in _prepared_at(root, version)["versions"].items():
            found[name].add(pin)
    for _, said in _commits(root, "scores"):
        if said.get("job") == "score":
            for name in ("users", "items", "features"):
                found[name].add(int(said[name]))
            break
    published = _prepared_at(root, commits[0][0])
    for name in ("features", "interactions"):
        found[name] |= _compared(_commits(root, name), published, commits[0][1].get("spec"))
    return found


def vacuum(root: str, name: str, keep: set[int], settings: MaintainConfig) -> Removed:
    """Removes the files of a table that no version needs any more, and those that never had one.

    Args:
        root: Folder of the tables.
        name: The table.
        keep: Versions that stay readable, beside the newest.
        settings: How long files stay, and whether to remove any.

    Returns:
        What was removed, or would be.
    """
    uri = table_uri(root, name)
    table = DeltaTable(uri)

    def go(dry_run: bool) -> list[str]:
        return table.vacuum(
            settings.retention_hours,
            dry_run=dry_run,
            enforce_retention_duration=False,
            full=True,
            keep_versions=[version for version in sorted(keep) if _opens(uri, version)],
        )

    there = files_below(uri)
    # The log also names files that an earlier vacuum removed.
    gone = {_relative(uri, path) for path in go(dry_run=True)} & there.keys()
    if not settings.dry_run:
        if gone:
            go(dry_run=False)
        _remove_checksums(uri, settings.retention_hours)
    return Removed(len(gone), sum(there[path] for path in gone))


def _remove_checksums(uri: str, hours: float) -> None:
    """Removes what Hadoop keeps beside files, where these are gone. delta-rs does not see it."""
    if is_url(uri):
        return
    old = time.time() - hours * 3600
    for checksum in Path(uri).rglob(".*.crc"):
        if "_delta_log" in checksum.parts or checksum.with_name(checksum.stem[1:]).exists():
            continue
        with suppress(FileNotFoundError):
            if checksum.stat().st_mtime <= old:
                checksum.unlink()


def _compared(
    commits: list[tuple[int, dict[str, str]]], published: Mapping[str, Any], spec: str | None
) -> set[int]:
    """What the monitor reads: the table when its spec was learned, and around the last batch."""
    batches = published["batches"]
    added = [v for v, said in commits if said.get("spec") == spec and said.get("batch") in batches]
    return {min(added) - 1, max(added) - 1, max(added)} if added else set()


def _commits(root: str, name: str) -> list[tuple[int, dict[str, str]]]:
    """Versions of a table and what they say of themselves, the newest first; none without it."""
    uri = table_uri(root, name)
    if not DeltaTable.is_deltatable(uri):
        return []
    return [
        (commit["version"], json.loads(commit.get("userMetadata") or "{}"))
        for commit in DeltaTable(uri).history()
        if commit["operation"] not in _VACUUM
    ]


def _prepared_at(root: str, version: int) -> dict[str, Any]:
    """What a version of ``prepared`` says, also one that another version of this code wrote."""
    rows = DeltaTable(table_uri(root, "prepared"), version=version).to_pyarrow_table().to_pylist()
    said: dict[str, Any] = json.loads(rows[0]["prepared"])
    return said


def _opens(uri: str, version: int) -> bool:
    """Whether the log still has a version: Delta removes entries after 30 days."""
    try:
        DeltaTable(uri, version=version)
    except DeltaError:
        return False
    return True


def _relative(uri: str, path: str) -> str:
    """A path as delta-rs gives it, within the table."""
    for start in (uri, urlsplit(uri).path):
        path = path.removeprefix(f"{start}/")
    return path


def _says(**about: str) -> CommitProperties:
    # What Spark calls userMetadata is a key of the commit like any other.
    return CommitProperties(custom_metadata={"userMetadata": json.dumps(about, sort_keys=True)})
