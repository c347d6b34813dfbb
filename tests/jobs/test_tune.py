"""The search as users start it: alone, on two ranks, killed, and the pipeline that it leaves."""

import json
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from afm.artifact import load
from features.spec import FeatureSpec
from tests.afm.planted import make_spec, planted_rows, write_features, write_prepared
from tests.jobs.commands import ENVIRONMENT, HOROVODRUN, ROOT, command, here


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """Prepared tables, and a file with a search of three trials."""
    spec: FeatureSpec = make_spec()
    root = tmp_path / "tables"
    parts = {"train": planted_rows(1500, seed=1), "validation": planted_rows(300, seed=2)}
    write_features(root, parts)
    write_prepared(root, spec)
    data = {
        "source": {"interactions": {"format": "csv", "path": "log.csv"}},
        "label": "rating >= 4",
        "keys": {"user": "user", "item": "movie"},
        "fields": [f.config.model_dump(exclude_defaults=True) for f in spec.fields],
        "model": {"attention_size": 4},
        "train": {"epochs": 3, "batch_size": 128, "run": "mine"},
        "tune": {
            "trials": 3,
            "ranges": {
                "train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True},
                "model.embedding_size": {"low": 4, "high": 8, "step": 2},
            },
        },
        "tables": {"root": str(root)},
    }
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def table_of(said: str) -> list[list[str]]:
    """The trials of the printed table: number, state, metric, values."""
    cells = [re.split(r"\s\s+", row.strip()) for row in said.splitlines()]
    assert cells[0][:5] == ["trial", "state", "auc", "best epoch", "seconds"]
    return [row[:3] + row[5:] for row in cells[1:-1]]


def test_search_and_the_pipeline_that_it_leaves(pipeline: Path) -> None:
    result = command("python", "jobs/tune.py", pipeline)
    lines = result.stderr.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["trial 1/3", "trial 2/3", "trial 3/3"]
    trials = table_of(result.stdout)
    aucs = [float(auc) for _, _, auc, *_ in trials]
    assert sorted(number for number, *_ in trials) == ["1", "2", "3"]
    assert aucs == sorted(aucs, reverse=True) and aucs[0] > 0.6

    best = Path(result.stdout.split()[-1])
    assert best.parent.parent == pipeline.parent / "tables" / "models" / "tune"
    trained = here("train", best)
    assert f"validation AUC {aucs[0]:.4f}" in trained.stdout
    manifest = load(pipeline.parent / "tables" / "models", "afm").manifest
    assert f"{manifest.config.train.learning_rate:.4g}" == trials[0][3]
    assert str(manifest.config.model.embedding_size) == trials[0][4]
    assert manifest.config.model.attention_size == 4

    again = here("tune", pipeline)
    assert again.stdout == result.stdout
    assert again.stderr == f"search {best.parent.name} has made its 3 trials already\n"
    more = here("tune", pipeline, "trials=4")
    assert more.stderr.startswith(f"going on with search {best.parent.name} after trial 3 of 4\n")
    assert len(table_of(more.stdout)) == 4


@pytest.mark.faults
def test_killed_search_ends_as_an_uninterrupted_one(pipeline: Path) -> None:
    straight = here("tune", pipeline, f"tables.models={pipeline.parent}/one")
    arguments = ["python", "jobs/tune.py", str(pipeline), f"tables.models={pipeline.parent}/two"]
    run = subprocess.Popen(arguments, cwd=ROOT, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    assert run.stderr.readline().startswith("trial 1/3  finished")
    run.kill()
    run.communicate()
    resumed = here("tune", *arguments[2:])
    assert "going on with search" in resumed.stderr
    assert table_of(resumed.stdout) == table_of(straight.stdout)
    (journal,) = (pipeline.parent / "two").glob("tune/*/journal.log")
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_search_on_two_ranks(pipeline: Path) -> None:
    # The values of the file diverge: both ranks have to go on with the next trial.
    overrides = ["trials=4", "train.learning_rate=1.0e+30", "model.embedding_size=4"]
    overrides.append("tune.ranges.train.learning_rate={choices: [1.0e+30, 1.0e-2]}")
    two = [*HOROVODRUN, "-np", "2", "python", "jobs/tune.py", pipeline, *overrides]
    result = command(*two)
    lines = [line.partition(":")[2] for line in result.stdout.splitlines()]
    assert result.stderr.count("  diverged  ") >= 1
    assert result.stderr.count("[0]<stderr>:trial ") == result.stderr.count("<stderr>:trial ")
    rows = [re.split(r"\s\s+", line.strip()) for line in lines if re.match(r"\s+\d  ", line)]
    assert len(rows) == 4 and rows[0][1] == "finished"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tune=null"], "tune: missing; say what to search, such as tune: {ranges: {train.lear"),
        (["tune.ranges.train.epoch={low: 1, high: 2}"], "tune.ranges.train.epoch: no key of mod"),
        (["trials=0"], "tune.trials = 0: Input should be greater than or equal to 1"),
        (["tables.root=/nowhere"], "jobs/prepare.py first"),
    ],
    ids=["section", "key", "trials", "tables"],
)
def test_what_is_wrong_is_one_message(pipeline: Path, overrides: list[str], message: str) -> None:
    result = here("tune", pipeline, *overrides, check=False)
    assert result.returncode == 1
    assert result.stderr.startswith(("error: ", "1 problem")) or "error: " in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
