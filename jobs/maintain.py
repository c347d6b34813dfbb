"""Tidies up after a pipeline: compacts tables of many files, and removes what nobody needs.

    python jobs/maintain.py conf/yours.yaml dry_run=true
    python jobs/maintain.py conf/yours.yaml
    python jobs/maintain.py conf/yours.yaml keep_models=3

Tables that grow batch by batch (interactions, features, quarantine) become few files again and
keep their rows. Then files of all tables that no version needs any more go, once they have been
out of use for `maintain.retention_hours`. Whatever its age, a version stays readable that the
table `prepared`, a model, the scores or the monitor refers to. With keep_models, older finished
runs go, and runs that were given up. It needs no Spark; a rerun finds nothing to do. It takes turns
with jobs that write tables; a dry run does not. Jobs that have begun to read, and training, need
the files of their tables to the end: let retention_hours be more than the longest of them takes.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack

from afm.alone import WRITERS, alone
from afm.tables import read_prepared
from conf.schema import Config
from jobs.door import run
from jobs.maintain_models import Folder, manifests, stale_parts, stale_runs, without
from jobs.maintain_tables import Removed, compact, pinned, tables_of, vacuum


def main(config: Config) -> None:
    """Tidies up the tables and models of a pipeline."""
    read_prepared(config.tables.root)  # or there is nothing to wait for
    with ExitStack() as turns:
        if not config.maintain.dry_run:
            for what in WRITERS:
                turns.enter_context(alone(config.tables.root, what))
        tidy_up(config)


def tidy_up(config: Config) -> None:
    """Compacts, and removes what nobody needs, while nobody else writes."""
    settings, root = config.maintain, config.tables.root
    prepared = read_prepared(root)
    now = time.time()
    stale = [*stale_runs(config, now), *stale_parts(config, now)]
    for folder in stale:
        print(f"  {folder.path}: {folder.why}, {size(folder.bytes)}", flush=True)
    if not settings.dry_run:
        without(stale)
    for line in compact(root, prepared, settings):
        print(f"  {line}", flush=True)
    kept = pinned(root, manifests(config, gone=stale))
    removed = []
    for name in tables_of(root):
        gone = vacuum(root, name, kept.get(name, set()), settings)
        print(f"  {name:<13} {gone.files:>7,} files {size(gone.bytes):>11}", flush=True)
        removed.append(gone)
    print(summary(removed, stale, settings.dry_run))


def summary(removed: Sequence[Removed], stale: Sequence[Folder], dry_run: bool) -> str:
    """What was done, or would be."""
    files, freed = sum(gone.files for gone in removed), sum(gone.bytes for gone in removed)
    freed += sum(folder.bytes for folder in stale)
    done = "would remove" if dry_run else "removed"
    return f"maintain: {done} {files:,} files of tables and {len(stale):,} folders, {size(freed)}"


def size(count: int) -> str:
    """Bytes, to read."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


if __name__ == "__main__":
    run(main, __doc__, own="maintain")
