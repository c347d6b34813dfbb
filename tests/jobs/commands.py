"""Runs the commands that users type."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ENVIRONMENT = os.environ | {
    "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    "SPARK_LOCAL_IP": "127.0.0.1",
}


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
    submit = ["spark-submit", "--properties-file", "conf/spark.conf"]
    return command(*submit, f"jobs/{job}.py", *arguments, check=check)


def train(ranks: int, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """``horovodrun -np RANKS python jobs/train.py …``"""
    return command("horovodrun", "-np", ranks, "python", "jobs/train.py", *arguments, check=check)
