"""The line that shows what a Spark job is at, and the events that say the same."""

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator

import pytest

from jobs import events
from jobs.progress import Line, Stand, describe, shown, step
from tests.jobs.commands import ENVIRONMENT, ROOT


@pytest.fixture
def terminal() -> Iterator[tuple[int, io.TextIOWrapper]]:
    """What is written to a terminal of 90 columns, and the stream that does."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (20, 90))
    with os.fdopen(theirs, "w") as stream:
        yield ours, stream
    os.close(ours)


def read(terminal: int) -> str:
    pieces = []
    while select.select([terminal], [], [], 0.2)[0]:  # the kernel hands it over in pieces
        pieces.append(os.read(terminal, 65536))
    return b"".join(pieces).decode().replace("\r\n", "\n")


def slow(spark) -> None:
    """Six tasks of a third of a second each, two at a time, that read 60 rows."""

    def wait(batches):
        time.sleep(0.35)
        yield from batches

    spark.range(0, 60, 1, 6).mapInArrow(wait, "id long").write.format("noop").mode("append").save()


def test_time_left_is_that_of_the_tasks_at_their_pace() -> None:
    stand = Stand("learning", done=2, tasks=8, rows=1_234_567, running=20.0)
    assert stand.left == 60.0
    expected = "prepare: learning   25%  2 of 8 tasks  1,234,567 rows  1:05  1:00 left"
    assert describe("prepare", "learning", stand, seconds=65.0) == expected
    begun = Stand("", done=0, tasks=8, rows=0, running=20.0)
    assert describe("prepare", "", begun, seconds=65.0) == "prepare    0%  0 of 8 tasks  1:05"
    assert describe("prepare", "learning", None, seconds=65.0) == "prepare: learning  1:05"


def test_line_is_cut_to_the_terminal_and_stays_below_what_is_printed(terminal) -> None:
    ours, stream = terminal
    line = Line(stream)
    line.draw("x" * 100)
    line.above(stream, "half of ")
    line.draw("never, for a line is unfinished")
    line.above(stream, "a line\n")
    line.draw("second")
    line.clear()
    line.clear()
    clear = "\r\x1b[K"
    assert read(ours) == (f"{clear}{'x' * 89}{clear}half of a line\n{clear}second{clear}")


@pytest.mark.spark
def test_line_of_a_job_advances(spark, terminal, monkeypatch) -> None:
    ours, stream = terminal
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(sys, "stdout", stream)
    with shown(spark, "score"):
        step(spark, "scoring users")
        slow(spark)
        print("done with it")
    said = read(ours)
    done = [int(n) for n in re.findall(r"score: scoring users +\d+%  (\d) of 6 tasks", said)]
    assert done == sorted(done)
    assert len(set(done)) >= 3
    assert re.search(r"\d of 6 tasks .*0:0\d left", said)
    assert re.search(r"\r\x1b\[Kdone with it\n(\r\x1b\[K.*)*$", said)
    assert said.endswith(("\n", "\r\x1b[K"))
    assert sys.stdout is stream


@pytest.mark.spark
def test_quiet_where_there_is_no_terminal(spark, monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    before = threading.active_count()
    with shown(spark, "score"):
        assert threading.active_count() == before
        assert sys.stderr is stream
        step(spark, "scoring users")
    assert stream.getvalue() == ""


@pytest.mark.spark
def test_events_of_a_job(spark, monkeypatch) -> None:
    lines = io.StringIO()
    monkeypatch.setattr(events, "_listener", (lines, "score"))
    monkeypatch.setattr("jobs.progress.TOLD_SECONDS", 0.2)
    with shown(spark, "score"):
        step(spark, "scoring users")
        slow(spark)
    first, *others = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert first == {"event": "step", "job": "score", "step": "scoring users"}
    assert {(e["event"], e["step"], e["tasks"]) for e in others} == {
        ("progress", "scoring users", 6)
    }
    done = [e["tasks_done"] for e in others]
    assert done == sorted(done) and done[0] < done[-1]
    assert 0 < others[-1]["rows"] <= 60
    assert others[-1]["seconds_left"] >= 0


def test_events_leave_what_is_printed_to_stderr() -> None:
    code = """
from jobs import events
events.tell("step", step="nobody listens")
events.begin("score")
print("for people")
events.tell("result", nan=float("nan"), rows=(1, 2.5), most=float("inf"))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
    )
    said = {"event": "result", "job": "score", "nan": None, "rows": [1, 2.5], "most": None}
    assert [json.loads(line) for line in result.stdout.splitlines()] == [said]
    assert result.stderr == "for people\n"
