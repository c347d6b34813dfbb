"""Two jobs that write the same tables at once."""

import sys
import time
from pathlib import Path

import pytest

from tests.faults.pipeline import (
    Pipeline,
    Rows,
    all_rows,
    done_here,
    ended,
    published,
    started,
    submit,
    what_stays,
    whole,
)
from tests.tally import Tally

pytestmark = [pytest.mark.faults, pytest.mark.spark, pytest.mark.timeout(1800)]


def at_once(*commands: list[str]) -> list[str]:
    """Runs commands side by side, which must all succeed, and returns what each said."""
    runs = [started(words) for words in commands]
    endings = [ended(run) for run in runs]
    assert not any(code for code, _ in endings), endings
    return [said for _, said in endings]


def test_two_prepares(base: Pipeline, longer: Rows, tally: Tally, tmp_path: Path) -> None:
    pipeline, before = base.copy(tmp_path / "p"), published(base.root)
    with tally.fault("two prepares at once") as counts:
        said = at_once(
            submit("prepare", pipeline.yaml),
            submit("prepare", pipeline.yaml, pipeline.longer_log),
        )
        assert "prepare: waiting for process" in "".join(said)
        whole(counts, pipeline.root, before, longer)
        assert not what_stays(pipeline.root)


def test_two_appends(spark, base: Pipeline, tally: Tally, tmp_path: Path) -> None:
    log = Path(base.new_rows.split("=")[1])
    files = sorted(log.glob("*.parquet"))
    batches = [("mode=append", f"source.interactions.path={file}") for file in files[:2]]
    straight = base.copy(tmp_path / "straight")
    for batch in batches:
        done_here(spark, "prepare", straight.yaml, *batch)
    pipeline = base.copy(tmp_path / "p")
    with tally.fault("two appends at once") as counts:
        said = at_once(*(submit("prepare", pipeline.yaml, *batch) for batch in batches))
        assert "prepare: waiting for process" in "".join(said)
        wanted, found = published(straight.root), published(pipeline.root)
        names = ("interactions", "features", "quarantine", "users", "items", "counts")
        counts.compare(all_rows(wanted, *names), all_rows(found, *names))


def test_prepare_beside_score(base: Pipeline, longer: Rows, tally: Tally, tmp_path: Path) -> None:
    pipeline, before = base.copy(tmp_path / "p"), published(base.root)
    with tally.fault("prepare beside score") as counts:
        at_once(
            submit("prepare", pipeline.yaml, pipeline.longer_log), submit("score", pipeline.yaml)
        )
        # The model's spec is the old one, and so are the tables that are scored.
        whole(counts, pipeline.root, longer | {"scores": before["scores"]})
        assert not what_stays(pipeline.root)


def test_maintain_beside_append(spark, base: Pipeline, tally: Tally, tmp_path: Path) -> None:
    straight, pipeline = base.copy(tmp_path / "straight"), base.copy(tmp_path / "p")
    append = ("mode=append", base.new_rows)
    done_here(spark, "prepare", straight.yaml, *append)
    tidy = ("maintain.compact_files=1", "maintain.retention_hours=0")
    maintain = [sys.executable, "jobs/maintain.py", str(pipeline.yaml), *tidy]
    with tally.fault("maintain beside append") as counts:
        run = started(submit("prepare", pipeline.yaml, *append))
        while not (pipeline.root / ".prepare.lock").exists():
            assert run.poll() is None
            time.sleep(0.01)
        (said,) = at_once(maintain)
        assert "prepare: waiting for process" in said
        assert ended(run)[0] == 0
        wanted, found = published(straight.root), published(pipeline.root)
        counts.compare(all_rows(wanted), all_rows(found))


@pytest.mark.parametrize("other", [5, 7])
def test_two_scores(spark, base: Pipeline, tally: Tally, tmp_path: Path, other: int) -> None:
    pipeline, straight = base.copy(tmp_path / "p"), base.copy(tmp_path / "straight")
    states = []
    for k in {5, other}:
        done_here(spark, "score", straight.yaml, f"score.top_k={k}")
        states.append(published(straight.root))
    with tally.fault("two scores at once") as counts:
        said = at_once(*(submit("score", pipeline.yaml, f"score.top_k={k}") for k in (5, other)))
        assert "score: waiting for process" in "".join(said)
        whole(counts, pipeline.root, *states)
        assert not what_stays(pipeline.root)
