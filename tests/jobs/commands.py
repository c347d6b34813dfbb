"""Runs the commands that users type."""

import json
import os
import pty
import shlex
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    """``horovodrun -np RANKS python jobs/train.py …``"""
    return command("horovodrun", "-np", ranks, "python", "jobs/train.py", *arguments, check=check)


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
    for shown, other in instead.items():
        line = line.replace(shown, str(other))
    words = shlex.split(line)
    place = next((n + 1 for n, word in enumerate(words) if word.endswith(".yaml")), len(words))
    return command(*words[:place], *overrides, *words[place:], check=check)
