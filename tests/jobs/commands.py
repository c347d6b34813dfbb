"""Runs the commands that users type."""

import io
import json
import os
import pty
import runpy
import shlex
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.conftest import JVM

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
# Of 200 partitions, the default, tests have rows in few.
SETTINGS = "-Dspark.sql.shuffle.partitions=2 -Dspark.ui.enabled=false"
ENVIRONMENT = os.environ | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "SPARK_LOCAL_IP": "127.0.0.1",
    "SPARK_SUBMIT_OPTS": f"{os.environ.get('SPARK_SUBMIT_OPTS', JVM)} {SETTINGS}",
}

SUBMIT = ("spark-submit", "--properties-file", "conf/spark.conf")
# Without --gloo it begins by importing torch twice more, to see whether MPI came along.
HOROVODRUN = ("horovodrun", "--gloo")


def command(
    *words: object, check: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project's folder and shows what it said if it fails.

    Variables are added to its environment.
    """
    result = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=ENVIRONMENT | variables,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if check and result.returncode:
        raise AssertionError(f"{words} failed:\n{result.stdout}\n{result.stderr}")
    return result


def spark(job: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``spark-submit --properties-file conf/spark.conf jobs/JOB.py …``"""
    return command(*SUBMIT, f"jobs/{job}.py", *arguments, check=check)


def train(ranks: int, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``horovodrun --gloo -np RANKS python jobs/train.py …``"""
    return command(*HOROVODRUN, "-np", ranks, "python", "jobs/train.py", *arguments, check=check)


def here(job: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``python jobs/JOB.py …`` in this process, which has imported most of what it needs.

    Spark jobs take the session that is there. For what ends as it would in a process of its own.
    """
    words, said, errors = [f"jobs/{job}.py", *map(str, arguments)], io.StringIO(), io.StringIO()
    with (
        patch.object(sys, "argv", words),
        redirect_stdout(said),
        redirect_stderr(errors),
        chdir(ROOT),
    ):
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            if isinstance(end.code, str):  # as Python itself does in the end
                print(end.code, file=sys.stderr)
            code = 1 if isinstance(end.code, str) else end.code or 0
    if check and code:
        raise AssertionError(f"{words} failed:\n{said.getvalue()}\n{errors.getvalue()}")
    return subprocess.CompletedProcess(words, code, said.getvalue(), errors.getvalue())


def events(said: str) -> list[dict[str, Any]]:
    """Lines that a job wrote with ``--json``; each has to be an object that names what it is."""
    found: list[dict[str, Any]] = [json.loads(line) for line in said.splitlines()]
    assert all({"event", "job"} <= line.keys() for line in found)
    return found


def result(said: str) -> dict[str, Any]:
    """The one result among the events, which comes last."""
    *others, last = events(said)
    assert last["event"] == "result"
    assert not [line for line in others if line["event"] in ("result", "error")]
    return last


def on_terminal(words: Sequence[object]) -> str:
    """What a command writes to a terminal of 100 columns, as it writes it."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = subprocess.Popen(
        [str(word) for word in words],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(ours)
    said = b"".join(pieces).decode()
    assert process.wait(timeout=60) == 0, said
    return said


def documented(
    line: str, *overrides: str, instead: Mapping[str, object], check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Runs a command as the documents show it, in folders of a test.

    Args:
        line: The command.
        overrides: Come after the YAML file, so that the command's own ones win.
        instead: What stands in the place of parts of the line.
        check: Whether it has to end well.

    Returns:
        What came of it.
    """
    return command(*_words(line, overrides, instead), check=check)


def documented_here(
    line: str, *overrides: str, instead: Mapping[str, object], check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Like :func:`documented`, for a job that spark-submit starts, in this process.

    A Spark of its own would take longer to start than all that the job has to do.
    """
    words = _words(line, overrides, instead)
    (*submit, job), rest = words[: len(SUBMIT) + 1], words[len(SUBMIT) + 1 :]
    assert submit == list(SUBMIT)
    return here(Path(job).stem, *rest, check=check)


def _words(line: str, overrides: Sequence[str], instead: Mapping[str, object]) -> list[str]:
    for shown, other in instead.items():
        line = line.replace(shown, str(other))
    words = shlex.split(line)
    place = next((n + 1 for n, word in enumerate(words) if word.endswith(".yaml")), len(words))
    return [*words[:place], *overrides, *words[place:]]
