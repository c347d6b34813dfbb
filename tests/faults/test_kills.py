"""kill -9 at seeded random moments: what is published stays whole, what comes next ends well."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    MOMENTS,
    Pipeline,
    Rows,
    all_rows,
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
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]


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
    assert not what_stays(pipeline.root)


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
    assert not what_stays(pipeline.root)


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
    assert not what_stays(pipeline.root)
