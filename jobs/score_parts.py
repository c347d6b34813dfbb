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
from pyspark.sql import DataFrame, SparkSession

from afm.artifact import replace_file
from features.python_tasks import Work
from jobs import events
from jobs.score_files import Written, joined, write_files
from jobs.user_ranges import Ranges, by_range, within

_PAIRS_PER_CORE = 5_000_000_000
"""Pairs of a part for each core: about a minute's."""


@dataclass(frozen=True)
class Run:
    """A run that is under way."""

    folder: Path
    """Where it keeps what is done."""
    name: str
    ranges: Ranges

    def bounds(self, part: int) -> tuple[str | None, str | None]:
        """First user of a part, and of the next one."""
        firsts = [ranges[0] for ranges in self.ranges]
        return firsts[part], firsts[part + 1] if part + 1 < len(firsts) else None

    def prefix(self, part: int) -> str:
        """What names of a part's files begin with."""
        return f"part-{self.name}-{part:05}"


def default_parts(spark: SparkSession, pairs: int) -> int:
    """How many parts are worth it.

    Args:
        spark: The session.
        pairs: Scores to compute.

    Returns:
        Parts of a minute or so each.
    """
    cores = spark.sparkContext.defaultParallelism
    return max(1, pairs // (_PAIRS_PER_CORE * cores))


def open_run(table: Path, identity: str, ranges: Callable[[], Ranges]) -> Run:
    """Takes up a run of this identity that was interrupted, or begins one.

    What interrupted runs of other identities left behind is removed.

    Args:
        table: Folder of the table.
        identity: Of all that determines the rows.
        ranges: Finds those of a new run.

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
            return Run(folder, found["run"], tuple(map(tuple, found["ranges"])))
        _discard(table, folder)
    run = Run(folder, uuid.uuid4().hex[:16], ranges())
    folder.mkdir(parents=True)
    replace_file(plan, _writer_of(json.dumps({"run": run.name, "ranges": run.ranges})))
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
        users: What tasks get, with ``user_key``.
        count: How many users there are.
        work: What tasks make of them.
        schema: Of the rows.
        pairs_per_user: Scores to compute for each.
        order: Columns that order what tasks get of a user.

    Returns:
        The files of all parts.
    """
    table, parts = run.folder.parents[1], len(run.ranges)
    done: dict[int, Written] = {}
    for part in range(parts):
        if (found := _finished(run, part)) is not None:
            done[part] = found
    if done:
        _say(f"{len(done)} of {parts} parts are there from a run that was interrupted")
    started, before = time.monotonic(), len(done)
    for part in range(parts):
        if part in done:
            continue
        for stray in table.glob(f"{run.prefix(part)}-*.parquet"):
            stray.unlink()
        some = by_range(within(users, *run.bounds(part)), run.ranges[part], *order)
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


def _say(line: str) -> None:
    print(f"score: {line}", file=sys.stderr, flush=True)
    events.tell("step", step=line)
