"""Users scored in parts, so that a run that was interrupted goes on where it stopped.

::

    <root>/scores/
        part-<run>-00003-….parquet      files of a part; no version of the table mentions them yet
        _staging/<identity>/plan.json   name of the run, and where its parts begin
        _staging/<identity>/00003.json  files of a finished part

The identity stands for all that determines the rows. When all parts are there, one commit publishes
their files, and the folder goes.
"""

import json
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable as DeltaLog
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from afm.artifact import replace_file
from features.python_tasks import Work
from features.spec import USER
from jobs import events
from jobs.score_files import Written, by_range, joined, ranges, tasks_for, write_files

_PAIRS_PER_CORE = 5_000_000_000
"""Pairs of a part for each core: about a minute's."""
_SAMPLE = 100_000  # users, at least, by whose keys parts are cut


@dataclass(frozen=True)
class Run:
    """A run that is under way."""

    folder: Path
    """Where it keeps what is done."""
    name: str
    cuts: tuple[str, ...]
    """First user of each part but the first, as text."""

    def bounds(self, part: int) -> tuple[str | None, str | None]:
        """First user of a part, and of the next one."""
        edges = [None, *self.cuts, None]
        return edges[part], edges[part + 1]

    def prefix(self, part: int) -> str:
        """What names of a part's files begin with."""
        return f"part-{self.name}-{part:05}"


def default_parts(users: DataFrame, pairs: int) -> int:
    """How many parts are worth it.

    Args:
        users: The users.
        pairs: Scores to compute.

    Returns:
        Parts of some minutes each.
    """
    cores = users.sparkSession.sparkContext.defaultParallelism
    return max(1, pairs // (_PAIRS_PER_CORE * cores))


def open_run(table: Path, identity: str, users: DataFrame, parts: int) -> Run:
    """Takes up a run of this identity that was interrupted, or begins one.

    What interrupted runs of other identities left behind is removed.

    Args:
        table: Folder of the table.
        identity: Of all that determines the rows.
        users: The users.
        parts: How many parts a new run has.

    Returns:
        The run.
    """
    staging = table / "_staging"
    for other in sorted(staging.glob("*")):
        if other.name != identity:
            _discard(table, other)
    folder = staging / identity
    plan = folder / "plan.json"
    if plan.exists():
        found = json.loads(plan.read_text())
        if not _committed(table, found["run"]):
            return Run(folder, found["run"], tuple(found["cuts"]))
        _discard(table, folder)
    run = Run(folder, uuid.uuid4().hex[:16], _cuts(users, parts))
    folder.mkdir(parents=True)
    replace_file(plan, _writer_of(json.dumps({"run": run.name, "cuts": run.cuts})))
    return run


def score_parts(
    run: Run,
    users: DataFrame,
    count: int,
    work: Work,
    schema: pa.Schema,
    pairs_per_user: int,
    order: Sequence[str] = (),
) -> Written:
    """Scores the parts that are not done, and says on stderr how far it is.

    Args:
        run: The run.
        users: What tasks get.
        count: How many users there are.
        work: What tasks make of them.
        schema: Of the rows.
        pairs_per_user: Scores to compute for each.
        order: Columns that order what tasks get of a user.

    Returns:
        The files of all parts.
    """
    table, parts = run.folder.parents[1], len(run.cuts) + 1
    done: dict[int, Written] = {}
    for part in range(parts):
        if (found := _finished(run, part)) is not None:
            done[part] = found
    if done:
        _say(f"{len(done)} of {parts} parts are there from a run that was interrupted")
    tasks = tasks_for(users, -(-count // parts))
    started, before = time.monotonic(), len(done)
    for part in range(parts):
        if part in done:
            continue
        for stray in table.glob(f"{run.prefix(part)}-*.parquet"):
            stray.unlink()
        some = by_range(ranges(users, run.bounds(part)), tasks, *order)
        written = write_files(some, work, schema, table, run.prefix(part))
        replace_file(run.folder / f"{part:05}.json", _writer_of(written.to_json()))
        done[part] = written
        if parts > 1:
            spent = time.monotonic() - started
            fresh = len(done) - before
            rate = count / parts * fresh * pairs_per_user / spent
            left = (parts - len(done)) * spent / fresh
            _say(
                f"{len(done)} of {parts} parts in {spent:.0f} s, {rate / 1e6:,.1f} M pairs/s, "
                f"about {left:.0f} s left"
            )
    return joined(done[part] for part in range(parts))


def close_run(run: Run) -> None:
    """Forgets a run whose files were committed."""
    shutil.rmtree(run.folder)


def says_run(metadata: Mapping[str, str], run: Run) -> dict[str, str]:
    """What a commit says of itself, so that the run is known to be published."""
    return {**metadata, "run": run.name}


def _writer_of(text: str) -> Callable[[Path], object]:
    return lambda path: path.write_text(text)


def _finished(run: Run, part: int) -> Written | None:
    path = run.folder / f"{part:05}.json"
    if not path.exists():
        return None
    written = Written.from_json(path.read_text())
    table = run.folder.parents[1]
    whole = all(
        (table / f.path).exists() and (table / f.path).stat().st_size == f.size
        for f in written.files
    )
    return written if whole else None


def _discard(table: Path, folder: Path) -> None:
    """Removes a run, and its files if they were never published."""
    plan = folder / "plan.json"
    if plan.exists():
        name = json.loads(plan.read_text())["run"]
        if not _committed(table, name):
            for file in table.glob(f"part-{name}-*.parquet"):
                file.unlink()
    shutil.rmtree(folder)


def _committed(table: Path, run: str) -> bool:
    if not DeltaLog.is_deltatable(str(table)):
        return False
    history = DeltaLog(str(table)).history()
    return any(json.loads(c.get("userMetadata") or "{}").get("run") == run for c in history)


def _cuts(users: DataFrame, parts: int) -> tuple[str, ...]:
    """First users of all parts but the first: equal shares of a sample by hash."""
    if parts == 1:
        return ()
    every = max(1, users.count() // _SAMPLE)
    some = users.where(F.pmod(F.xxhash64(USER), F.lit(every)) == 0).orderBy(USER)
    keys = [row[0] for row in some.select(F.col(USER).cast("string")).collect()]
    places = sorted({len(keys) * part // parts for part in range(1, parts)} - {0})
    return tuple(keys[place] for place in places)


def _say(line: str) -> None:
    print(f"score: {line}", file=sys.stderr, flush=True)
    events.tell("step", step=line)
