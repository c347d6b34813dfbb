"""kill -9 at seeded random moments: what is published stays whole, what comes next ends well."""

import random
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.faults.pipeline import (
    Pipeline,
    Rows,
    all_rows,
    clear,
    done,
    done_here,
    ended,
    kill,
    named,
    published,
    session,
    started,
    submit,
    what_stays,
    whole,
)
from tests.jobs.cluster import Cluster, standalone_cluster
from tests.tally import Kind, Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1200)]

MOMENTS = 20


def test_drivers(spark, base: Pipeline, longer: Rows, tally: Tally, tmp_path: Path) -> None:
    pipeline, before, after = base.copy(tmp_path / "p"), published(base.root), longer
    moments, now = random.Random(1), before
    begin = time.monotonic()
    done(submit("prepare", pipeline.yaml))
    seconds = time.monotonic() - begin
    for moment in range(MOMENTS):
        with tally.fault("driver killed") as counts:
            log = [pipeline.longer_log] if now == before else []
            run = started(submit("prepare", pipeline.yaml, *log))
            time.sleep(seconds * moments.uniform(0.25, 1))
            # All of it at once, as when a machine stops; or one half, which the other must notice.
            halves = session(run.pid), named(run, "java"), named(run, "python", "jobs/prepare.py")
            kill(halves[moment % 3])
            ended(run)
            now = whole(counts, pipeline.root, before, after)
    for wanted, log in ((after, [pipeline.longer_log]), (before, [])):
        done_here(spark, "prepare", pipeline.yaml, *log)
        found = published(pipeline.root)
        tally.faults["driver killed"].compare(all_rows(wanted), all_rows(found))
    assert not what_stays(spark, pipeline.root)


def test_drivers_that_append(spark, base: Pipeline, tally: Tally, tmp_path: Path) -> None:
    untouched, pipeline = base.copy(tmp_path / "untouched"), base.copy(tmp_path / "p")
    before = published(base.root)
    append = ("mode=append", pipeline.new_rows, "prepare.batch=new")
    begin = time.monotonic()
    done(submit("prepare", untouched.yaml, *append))
    seconds, after = time.monotonic() - begin, published(untouched.root)
    moments = random.Random(2)
    for _ in range(MOMENTS // 4):
        with tally.fault("driver killed while it appends") as counts:
            run = started(submit("prepare", pipeline.yaml, *append))
            time.sleep(seconds * moments.uniform(0.4, 1))
            kill(session(run.pid))
            ended(run)
            if whole(counts, pipeline.root, before, after) == after:
                pipeline = base.copy(tmp_path / f"p{moments.random()}")
    done_here(spark, "prepare", pipeline.yaml, *append)
    found = published(pipeline.root)
    tally.faults["driver killed while it appends"].compare(all_rows(after), all_rows(found))
    assert not what_stays(spark, pipeline.root)


def test_scorers(spark, base: Pipeline, tally: Tally, tmp_path: Path) -> None:
    pipeline = base.copy(tmp_path / "p")
    wanted = {5: published(pipeline.root)}
    begin = time.monotonic()
    done(submit("score", pipeline.yaml, "score.top_k=6", "score.parts=1"))
    seconds, wanted[6] = time.monotonic() - begin, published(pipeline.root)
    moments, now = random.Random(3), 6
    went_on = 0
    for _ in range(MOMENTS):
        with tally.fault("scorer killed") as counts:
            run = started(submit("score", pipeline.yaml, f"score.top_k={11 - now}"))
            time.sleep(seconds * moments.uniform(0.4, 1.2))
            kill(session(run.pid))
            _, said = ended(run)
            went_on += "parts are there from a run that was interrupted" in said
            now = 5 if whole(counts, pipeline.root, *wanted.values()) == wanted[5] else 6
    for k in (5, 6):
        done_here(spark, "score", pipeline.yaml, f"score.top_k={k}")
        found = published(pipeline.root)
        tally.faults["scorer killed"].compare(all_rows(wanted[k]), all_rows(found))
    assert went_on
    assert not what_stays(spark, pipeline.root)


def test_python_workers(spark, base: Pipeline, longer: Rows, tally: Tally, tmp_path: Path) -> None:
    pipeline, before, after = base.copy(tmp_path / "p"), published(base.root), longer
    moments, kind, now = random.Random(4), "Python worker killed", before
    while tally.faults.get(kind, Kind()).tried < MOMENTS:
        log = [pipeline.longer_log] if now == before else []
        run = started(submit("prepare", pipeline.yaml, *log, master="local[2,8]"))
        killed = kill_workers(run, moments)
        with tally.fault(kind) as counts:
            code, said = ended(run)
            assert code == 0, said
            now = whole(counts, pipeline.root, after if now == before else before)
        assert killed
        tally.faults[kind].tried += killed - 1
        tally.faults[kind].survived += killed - 1
    assert not what_stays(spark, pipeline.root)


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
    spark,
    base: Pipeline,
    longer: Rows,
    cluster: Cluster,
    tally: Tally,
    tmp_path: Path,
) -> None:
    pipeline, before, after = base.copy(tmp_path / "p"), published(base.root), longer
    moments, kind, now = random.Random(6), "executor killed", before
    while tally.faults.get(kind, Kind()).tried < MOMENTS:
        log = [pipeline.longer_log] if now == before else []
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
        with tally.fault(kind) as counts:
            code, said = ended(run)
            assert code == 0, said
            now = whole(counts, pipeline.root, after if now == before else before)
        assert killed
        tally.faults[kind].tried += killed - 1
        tally.faults[kind].survived += killed - 1
    assert not what_stays(spark, pipeline.root)


def executors_of(cluster: Cluster):
    found = []
    for worker in cluster.workers:
        for process in psutil.Process(worker.pid).children():
            with suppress(psutil.Error):  # by now it may have ended
                if "CoarseGrained" in " ".join(process.cmdline()):
                    found.append(process)
    return found
