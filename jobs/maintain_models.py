"""Runs of training, and parts of scoring, that nobody needs any more."""

import os
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import NamedTuple, get_args

from afm.artifact import LATEST, MANIFEST, Manifest, read_manifest
from conf.names import is_url
from conf.schema import Config
from conf.training import ModelConfig


class Folder(NamedTuple):
    """A folder that can go."""

    path: Path
    why: str
    bytes: int


def stale_runs(config: Config, now: float) -> Iterator[Folder]:
    """Runs that `maintain.keep_models` does not keep.

    Args:
        config: The pipeline.
        now: Seconds since 1970.

    Yields:
        Of each kind of model the finished runs but the newest, and unfinished ones that nothing
        was written to for `maintain.retention_hours`; never `latest`, nor one that the
        configuration names.
    """
    keep = config.maintain.keep_models
    if keep is None:
        return
    named = {config.train.run, Path(config.model.pretrained or "").name}
    for name in get_args(ModelConfig.model_fields["name"].annotation):
        models = Path(config.models_root) / name
        latest = (models / LATEST).resolve()
        runs = [p for p in models.glob("*") if p.is_dir() and not p.is_symlink()]
        finished = [p for p in runs if (p / MANIFEST).exists()]
        finished.sort(key=lambda p: (p != latest, -(p / MANIFEST).stat().st_mtime))
        for folder in finished[keep:]:
            if folder.name not in named:
                yield Folder(folder, f"not among the newest {keep} of {name}", _bytes(folder))
        for folder in sorted(set(runs) - set(finished)):
            if folder.name not in named and _untouched(folder, config, now):
                yield Folder(folder, "an unfinished run, given up", _bytes(folder))


def stale_parts(config: Config, now: float) -> Iterator[Folder]:
    """What interrupted runs of `jobs/score.py` know of their parts, for the retention unused.

    The parts' files themselves go with the table's.

    Args:
        config: The pipeline.
        now: Seconds since 1970.
    """
    if is_url(config.tables.root):
        return
    for folder in sorted((Path(config.tables.root) / "scores" / "_staging").glob("*")):
        if _untouched(folder, config, now):
            yield Folder(folder, "an interrupted score, given up", _bytes(folder))


def manifests(config: Config, gone: Iterable[Folder] = ()) -> list[Manifest]:
    """The manifests of all finished runs, those of searches too.

    Args:
        config: The pipeline.
        gone: Runs to leave out.

    Raises:
        ArtifactError: One is damaged, so that nobody knows what it needs.
    """
    left_out = {folder.path.resolve() for folder in gone}
    found = []
    for path in sorted(Path(config.models_root).rglob(MANIFEST)):
        folder = path.parent.resolve()
        if folder not in left_out and not path.parent.is_symlink():
            manifest = read_manifest(folder)
            if manifest is not None:
                found.append(manifest)
    return found


def without(folders: Collection[Folder]) -> None:
    """Removes folders."""
    for folder in folders:
        # Its manifest first: what is left of it, if this is interrupted, is no finished run.
        (folder.path / MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(folder.path)


def _untouched(folder: Path, config: Config, now: float) -> bool:
    newest = max((about.st_mtime for about in _all_in(folder)), default=now)
    return now - newest > config.maintain.retention_hours * 3600


def _bytes(folder: Path) -> int:
    return sum(about.st_size for about in _all_in(folder) if S_ISREG(about.st_mode))


def _all_in(folder: Path) -> Iterator[os.stat_result]:
    """A folder and all in it; of a job that is under way, files may be gone by now."""
    for parent, _, files in os.walk(folder):
        for path in (parent, *(os.path.join(parent, name) for name in files)):
            with suppress(FileNotFoundError):
                yield os.stat(path)
