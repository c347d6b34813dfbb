"""What a Spark job is at: a line that is rewritten on a terminal, events for who listens.

The step comes from Spark's own job description, which the code that runs a job sets (Spark's web
page shows it, too), tasks and rows from Spark's record of the stages that are running. Where stderr
is no terminal and nobody listens, nothing is asked and nothing written.
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO

from py4j.protocol import Py4JError
from pyspark import InheritableThread
from pyspark.sql import SparkSession

from afm.progress import duration
from jobs import events

LIVE_SECONDS, TOLD_SECONDS = 0.25, 5.0


class Stand(NamedTuple):
    """How far the stages are that are running."""

    step: str
    done: int
    """Tasks that have ended."""
    tasks: int
    rows: int
    """Rows that Spark itself has read, exchanged or written in them; 0 where only Python does."""
    running: float
    """Seconds since their first task began."""

    @property
    def left(self) -> float | None:
        """Seconds that the other tasks will take at the pace of those that have ended."""
        return self.running * (self.tasks - self.done) / self.done if self.done else None


class Line:
    """A line at the foot of a terminal; text that is printed stays above it.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._drawn = False
        self._free = True  # no half of a line stands where this one would

    def draw(self, text: str) -> None:
        """Replaces the line."""
        with self._lock:
            if self._free:
                columns = os.get_terminal_size(self._stream.fileno()).columns or 80
                # \r to its start, then \x1b[K clears what stood there.
                self._stream.write(f"\r\x1b[K{text[: columns - 1]}")
                self._stream.flush()
                self._drawn = True

    def above(self, stream: TextIO, text: str) -> int:
        """Writes to a stream of the same terminal."""
        with self._lock:
            self.clear()
            self._free = text.endswith("\n")
            written = stream.write(text)
            stream.flush()
            return written

    def clear(self) -> None:
        """Takes the line away."""
        with self._lock:
            if self._drawn:
                self._stream.write("\r\x1b[K")
                self._stream.flush()
                self._drawn = False


class _Above:
    """A stream whose text goes above a line."""

    def __init__(self, stream: TextIO, line: Line) -> None:
        self._stream, self._line = stream, line

    def write(self, text: str) -> int:
        return self._line.above(self._stream, text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def step(spark: SparkSession, what: str) -> None:
    """Says what comes next.

    Args:
        spark: The session.
        what: Such as "measuring afm on the test rows".
    """
    spark.sparkContext.setJobDescription(what)
    events.tell("step", step=what)


@contextmanager
def shown(spark: SparkSession, job: str) -> Iterator[None]:
    """Shows what a job is at, for as long as it runs.

    Args:
        spark: The session.
        job: Its name.
    """
    line = Line(sys.stderr) if sys.stderr.isatty() else None
    if line is None and not events.wanted():
        yield
        return
    ended, started = threading.Event(), time.monotonic()

    def watch() -> None:
        doing, told = "", 0.0
        while not ended.wait(TOLD_SECONDS if line is None else LIVE_SECONDS):
            try:
                stand, seconds = look(spark), time.monotonic() - started
            except Py4JError:  # Spark is gone: the job says so
                return
            doing = doing if stand is None else stand.step
            if line is not None:
                line.draw(describe(job, doing, stand, seconds))
            if stand is not None and seconds - told >= TOLD_SECONDS:
                _tell(stand, seconds)
                told = seconds

    watcher = InheritableThread(target=watch, daemon=True)
    kept = sys.stdout, sys.stderr
    if line is not None:
        sys.stdout, sys.stderr = (_Above(stream, line) for stream in kept)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
        sys.stdout, sys.stderr = kept
        if line is not None:
            line.clear()


def look(spark: SparkSession) -> Stand | None:
    """Asks Spark which stages are running.

    Args:
        spark: The session.

    Returns:
        How far they are; None if there are none.
    """
    context: Any = spark.sparkContext
    found = context._jsc.sc().statusStore().activeStages()
    stages = [found.apply(n) for n in range(found.size())]
    begun = [s for s in stages if s.firstTaskLaunchedTime().isDefined()]
    if not begun:
        return None
    first = min(s.firstTaskLaunchedTime().get().getTime() for s in begun)
    said = [s.description().get() for s in begun if s.description().isDefined()]
    return Stand(
        step=said[0] if said else "",
        done=sum(s.numCompleteTasks() for s in begun),
        tasks=sum(s.numTasks() for s in begun),
        rows=sum(_rows(s) for s in begun),
        running=max(time.time() - first / 1000, 0.0),
    )


def _rows(stage: Any) -> int:
    """What came in or went out; of rows that are cached, Spark counts batches on their way in."""
    counted = (
        stage.inputRecords(),
        stage.outputRecords(),
        stage.shuffleReadRecords(),
        stage.shuffleWriteRecords(),
    )
    return int(max(counted))


def describe(job: str, doing: str, stand: Stand | None, seconds: float) -> str:
    """The line of a terminal.

    Args:
        job: The job's name.
        doing: The step that it is at, as far as known.
        stand: How far it is, None between two stages.
        seconds: Since it began.
    """
    parts = [f"{job}: {doing}" if doing else job]
    if stand is None:
        return f"{parts[0]}  {duration(seconds)}"
    parts.append(f"{stand.done / stand.tasks:4.0%}  {stand.done:,} of {stand.tasks:,} tasks")
    if stand.rows:
        parts.append(f"{stand.rows:,} rows")
    parts.append(duration(seconds))
    if stand.left is not None:
        parts.append(f"{duration(stand.left)} left")
    return "  ".join(parts)


def _tell(stand: Stand, seconds: float) -> None:
    left = stand.left
    events.tell(
        "progress",
        step=stand.step,
        tasks_done=stand.done,
        tasks=stand.tasks,
        rows=stand.rows,
        seconds=round(seconds, 1),
        seconds_left=None if left is None else round(left, 1),
    )
