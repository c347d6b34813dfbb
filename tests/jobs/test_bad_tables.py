"""Jobs end clearly on whatever is wrong with the tables and models that they find."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import jobs.evaluate
import jobs.monitor
import jobs.prepare
import jobs.score
import jobs.train
import jobs.tune
from conf.load import load
from tests.jobs.bad_inputs.case import Case, as_parquet, log
from tests.jobs.damage import Found, all_found
from tests.jobs.endings import MOST_SECONDS, elsewhere, ending_of, marked  # noqa: F401
from tests.tally import Tally

FOUND = all_found()
MAINS = {
    "prepare": jobs.prepare.main,
    "train": jobs.train.main,
    "tune": jobs.tune.main,
    "evaluate": jobs.evaluate.main,
    "score": jobs.score.main,
    "monitor": jobs.monitor.main,
}
ALWAYS = {"score: manifest.json cut", "train: features file cut"}
"""In the default suite; the rest are tried by ``make test-faults``."""


@pytest.fixture(scope="module")
def pipeline(spark, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a log, its tables and a trained model."""
    folder, threads = tmp_path_factory.mktemp("pipeline"), torch.get_num_threads()
    sections = {
        "model": {"embedding_size": 4, "attention_size": 2},
        "train": {"epochs": 1, "batch_size": 64},
        "score": {"context": {"city": "c1"}},
    }
    path = Case("good", as_parquet(log(400)), "result", sections).pipeline(folder)
    jobs.prepare.main(load(path))
    jobs.train.main(load(path))
    yield folder
    torch.set_num_threads(threads)


@pytest.mark.spark
@pytest.mark.timeout(2 * MOST_SECONDS)
@pytest.mark.parametrize("found", marked(FOUND, ALWAYS))
def test_jobs_end_clearly_on_what_they_find(
    pipeline: Path, tally: Tally, tmp_path: Path, found: Found
) -> None:
    folder = tmp_path / "p"
    shutil.copytree(pipeline, folder, symlinks=True)
    overrides = [o.replace("FOLDER", str(folder)) for o in found.overrides]
    if found.job == "train" and not found.overrides:
        overrides.append("train.run=again")  # or else the finished run is all that is looked at
    found.damage(folder)
    with tally.bad_input(f"{found.job}: {'arguments' if found.overrides else 'tables and models'}"):
        ended = ending_of(
            lambda: MAINS[found.job](
                load(folder / "bad.yaml", [f"tables.root={folder}/tables", *overrides])
            ),
            (str(folder),),
        )
        wanted = ("message", "result") if found.may_work else ("message",)
        assert ended.how in wanted, ended.said


def test_those_that_are_always_tried_are_there() -> None:
    assert not ALWAYS - {found.name for found in FOUND}
