"""Runs the commands that users type."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

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


def command(*words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command in the project's folder and shows what it said if it fails."""
    result = subprocess.run(
        [str(word) for word in words],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    if check and result.returncode:
        raise AssertionError(f"{words} failed:\n{result.stdout}\n{result.stderr}")
    return result


def spark(job: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``spark-submit --properties-file conf/spark.conf jobs/JOB.py …``"""
    submit = ["spark-submit", "--properties-file", "conf/spark.conf"]
    return command(*submit, f"jobs/{job}.py", *arguments, check=check)


def train(ranks: int, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``horovodrun -np RANKS python jobs/train.py …``"""
    return command("horovodrun", "-np", ranks, "python", "jobs/train.py", *arguments, check=check)


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
