"""Python workers and executors that are killed: Spark starts others, and the job ends well."""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.pipeline import (
    MOMENTS,
    Pipeline,
    Rows,
    clear,
    ended,
    kill,
    named,
    published,
    started,
    submit,
    what_stays,
    whole,
)
from tests.jobs.cluster import Cluster, standalone_cluster
from tests.tally import Kind, Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]


def kill_often(
    kind: str,
    pipeline: Pipeline,
    longer: Rows,
    tally: Tally,
    disturbed: Callable[[list[str]], tuple[subprocess.Popen[str], int]],
) -> None:
    """Lets ``prepare`` run, over the two logs by turns, until enough of its processes were killed;
    each run has to end as an undisturbed one.

    Args:
        kind: What the tally calls it.
        pipeline: The pipeline, as its own log makes it.
        longer: What its tables hold after the longer log.
        tally: Counts each kill.
        disturbed: Starts the job with some arguments and kills; returns the job and the kills.
    """
    before = now = published(pipeline.root)
    while tally.faults.get(kind, Kind()).tried < MOMENTS:
        run, killed = disturbed([pipeline.longer_log] if now == before else [])
        with tally.fault(kind) as counts:
            code, said = ended(run)
            assert code == 0, said
            now = whole(counts, pipeline.root, longer if now == before else before)
        assert killed
        tally.faults[kind].tried += killed - 1
        tally.faults[kind].survived += killed - 1
    assert not what_stays(pipeline.root)


def test_python_workers(base: Pipeline, longer: Rows, tally: Tally, tmp_path: Path) -> None:
    pipeline, moments = base.copy(tmp_path / "p"), random.Random(4)

    def disturbed(log: list[str]) -> tuple[subprocess.Popen[str], int]:
        run = started(submit("prepare", pipeline.yaml, *log, master="local[2,8]"))
        return run, kill_workers(run, moments)

    kill_often("Python worker killed", pipeline, longer, tally, disturbed)


def kill_workers(run, moments: random.Random, most: int = 7, pause: float = 0.5) -> int:
    """Kills Python workers of a job while it runs, and returns how many."""
    killed = 0
    while run.poll() is None and killed < most:
        time.sleep(moments.uniform(0, 0.3))
        daemons = [p.pid for p in named(run, "python", "pyspark.daemon")]
        workers = [p for p in named(run, "python", "pyspark.daemon") if p.ppid() in daemons]
        if workers:
            kill([moments.choice(workers)])
            killed += 1
            time.sleep(pause)
    return killed


def test_python_worker_that_spark_does_not_start_again(
    base: Pipeline, tally: Tally, tmp_path: Path
) -> None:
    pipeline, before = base.copy(tmp_path / "p"), published(base.root)
    with tally.fault("Python worker killed, one attempt") as counts:
        run = started(submit("prepare", pipeline.yaml, pipeline.longer_log))
        assert kill_workers(run, random.Random(5), most=1_000, pause=0)
        clear(*ended(run), "a Python worker of Spark ended", "run the same command again")
        assert whole(counts, pipeline.root, before) == before


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with standalone_cluster(tmp_path_factory.mktemp("cluster")) as it:
        yield it


def test_executors(
    base: Pipeline,
    longer: Rows,
    cluster: Cluster,
    tally: Tally,
    tmp_path: Path,
) -> None:
    pipeline, moments = base.copy(tmp_path / "p"), random.Random(6)

    def disturbed(log: list[str]) -> tuple[subprocess.Popen[str], int]:
        first, *rest = cluster.submit(str(cluster.folder / "prepare"), pipeline.yaml, *log)
        patient = (first, "--conf", "spark.task.maxFailures=8", *rest)
        run = started([*patient], **cluster.environment)
        killed = 0
        while run.poll() is None and killed < 5:
            time.sleep(moments.uniform(0, 3))
            if executors := executors_of(cluster):
                kill([moments.choice(executors)])
                killed += 1
                time.sleep(2)
        return run, killed

    kill_often("executor killed", pipeline, longer, tally, disturbed)


def executors_of(cluster: Cluster):
    found = []
    for worker in cluster.workers:
        for process in psutil.Process(worker.pid).children():
            with suppress(psutil.Error):  # by now it may have ended
                if "CoarseGrained" in " ".join(process.cmdline()):
                    found.append(process)
    return found
