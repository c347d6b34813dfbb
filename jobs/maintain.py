"""Tidies up after a pipeline: compacts tables of many files, and removes what nobody needs.

    python jobs/maintain.py conf/yours.yaml dry_run=true
    python jobs/maintain.py conf/yours.yaml
    python jobs/maintain.py conf/yours.yaml keep_models=3

Tables that grow batch by batch (interactions, features, quarantine) become few files again and
keep their rows. Then files of all tables that no version needs any more go, once they have been
out of use for `maintain.retention_hours`. Whatever its age, a version stays readable that the
table `prepared`, a model, the scores or the monitor refers to. With keep_models, older finished
runs go, and runs that were given up. It needs no Spark; a rerun finds nothing to do. Not while
another job of the pipeline is running.
"""

import time
from collections.abc import Iterable

from afm.tables import read_prepared
from conf.schema import Config
from jobs.door import run
from jobs.maintain_models import Folder, manifests, stale_parts, stale_runs, without
from jobs.maintain_tables import Removed, compact, pinned, tables_of, vacuum


def main(config: Config) -> None:
    """Tidies up the tables and models of a pipeline."""
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
    total = Removed(0, 0)
    for name in tables_of(root):
        removed = vacuum(root, name, kept.get(name, set()), settings)
        total += removed
        print(f"  {name:<13} {removed.files:>7,} files {size(removed.bytes):>11}", flush=True)
    print(summary(total, stale, settings.dry_run))


def summary(removed: Removed, stale: Iterable[Folder], dry_run: bool) -> str:
    """What was done, or would be."""
    folders = list(stale)
    freed = removed.bytes + sum(folder.bytes for folder in folders)
    done = "would remove" if dry_run else "removed"
    return (
        f"maintain: {done} {removed.files:,} files of tables and {len(folders):,} folders, "
        f"{size(freed)}"
    )


def size(count: int) -> str:
    """Bytes, to read."""
    return f"{count / 1e6:,.1f} MB" if count >= 100_000 else f"{count:,} bytes"


if __name__ == "__main__":
    run(main, __doc__, own="maintain")
