"""A Spark cluster on this machine, with a Python that has the packages but not this project."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from afm.alone import alone
from tests.conftest import JVM
from tests.faults.pipeline import CONF
from tests.jobs.commands import BIN, ENVIRONMENT, HOROVODRUN, ROOT, command

# As drivers start that conf/spark.conf describes. Each job has executors of its own, and some more
# where they are killed.
SOON = f"-XX:SharedArchiveFile={ROOT}/.venv/spark.jsa -Xlog:cds*=off {JVM}"


class Cluster(NamedTuple):
    """A standalone master with its workers."""

    url: str
    python: Path
    """What executors, drivers and ranks run."""
    wheel: Path
    folder: Path
    """Where commands are given: it holds the doors of ``jobs/`` and nothing else of the project."""
    workers: tuple[subprocess.Popen[str], ...]

    @property
    def environment(self) -> Mapping[str, str]:
        """The variables that commands get."""
        own = {
            "PYSPARK_PYTHON": str(self.python),
            "PYSPARK_DRIVER_PYTHON": str(self.python),
            "PATH": f"{self.python.parent}{os.pathsep}{ENVIRONMENT['PATH']}",
        }
        return {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"} | own

    def submit(self, job: str, *arguments: object) -> list[str]:
        """``spark-submit --master spark://… --py-files ….whl JOB.py …``, for little data."""
        options = ["--properties-file", str(ROOT / "conf" / "spark.conf"), "--master", self.url]
        options += ["--executor-memory", "1g", "--driver-memory", "1g"]
        for side in ("driver", "executor"):
            options += ["--conf", f"spark.{side}.extraJavaOptions={SOON}"]
        return [
            "spark-submit",
            *options,
            *CONF,
            "--py-files",
            str(self.wheel),
            f"{job}.py",
            *words(arguments),
        ]

    def train(self, ranks: int, *arguments: object) -> list[str]:
        """``horovodrun --gloo -np RANKS python train.py …``"""
        return [*HOROVODRUN, "-np", str(ranks), str(self.python), "train.py", *words(arguments)]

    def run(self, words: list[str], **more: str) -> str:
        """Runs a command in the cluster's folder and returns what it printed."""
        done = subprocess.run(
            words,
            cwd=self.folder,
            env={**self.environment, **more},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{words} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout


def words(arguments: tuple[object, ...]) -> list[str]:
    """Arguments as a command line has them."""
    return [str(argument) for argument in arguments]


@contextmanager
def standalone_cluster(folder: Path) -> Iterator[Cluster]:
    """Starts a master and two workers of one core each, and ends them."""
    wheel = built_wheel(folder)
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    for job in ("prepare", "train", "train_on_spark", "evaluate", "score"):
        (elsewhere / f"{job}.py").write_text((ROOT / "jobs" / f"{job}.py").read_text())
    running = []
    try:
        master, url = started(folder, "master", r"Starting Spark master at (\S+)", *MASTER)
        running.append(master)
        for number in range(2):
            name, said = f"worker{number}", r"Successfully registered with master (\S+)"
            options = ["--cores", "1", "--memory", "2g", "--work-dir", str(folder / name), url]
            running.append(started(folder, name, said, *WORKER, *options)[0])
        yield Cluster(url, python_without_project(folder), wheel, elsewhere, tuple(running[1:]))
    finally:
        for process in running[::-1]:
            process.terminate()
        for process in running:
            process.wait(30)


def built_wheel(folder: Path) -> Path:
    """The wheel that ``make dist`` builds."""
    with alone(ROOT / "build", "wheel"):  # of pytest -n's processes, one at a time
        shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # a wheel takes old files along
        command("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist")
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


DAEMON = {
    "SPARK_NO_DAEMONIZE": "1",
    "SPARK_DAEMON_MEMORY": "256m",
    "SPARK_DAEMON_JAVA_OPTS": SOON,
}
_HERE = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
MASTER = ["org.apache.spark.deploy.master.Master", *_HERE]
WORKER = ["org.apache.spark.deploy.worker.Worker", *_HERE]


def started(folder: Path, name: str, said: str, *words: str) -> tuple[subprocess.Popen[str], str]:
    """Starts a part of the cluster and waits until it says that it serves."""
    log = folder / f"{name}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            ["spark-class", *words],
            env=ENVIRONMENT | DAEMON,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
    until = time.monotonic() + 60
    while not (found := re.search(said, log.read_text())):
        assert process.poll() is None and time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    return process, found[1]


def python_without_project(folder: Path) -> Path:
    """A Python with the packages of ours; what is installed in place, this project, is left out."""
    assert str(BIN) != sys.base_prefix
    venv.create(folder / "venv", symlinks=True)
    packages = folder / "venv" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    (packages / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "venv" / "bin" / "python"
