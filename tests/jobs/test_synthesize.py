"""A synthetic log as Spark writes it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as peer

from conf.load import load
from jobs.planted_log import BLOCK
from jobs.synthesize import pipeline, synthesize
from tests.jobs.commands import here
from tests.jobs.commands import spark as submit
from tests.jobs.test_planted_log import FIELDS, synthetic

pytestmark = pytest.mark.spark
ROWS = 7 * BLOCK - 11


def rows_of(folder: Path) -> pd.DataFrame:
    frame = pd.read_parquet(folder)
    return frame.sort_values(list(frame)).reset_index(drop=True)


@pytest.fixture(scope="module")
def written(spark, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("one")
    synthesize(spark, synthetic(rows=ROWS, path=str(root), rows_per_file=ROWS))
    return root


def test_rows_do_not_depend_on_the_partitions(spark, written: Path, tmp_path: Path) -> None:
    config = synthetic(rows=ROWS, path=str(tmp_path), rows_per_file=BLOCK)
    for _ in range(2):  # a rerun replaces what is there
        synthesize(spark, config)
    files = [len(list((p / "interactions").glob("*.parquet"))) for p in (written, tmp_path)]
    assert files == [1, 7]
    for name in ("interactions", "users", "items"):
        pd.testing.assert_frame_equal(rows_of(tmp_path / name), rows_of(written / name))
    assert len(rows_of(tmp_path / "interactions")) == ROWS
    one, seven = (json.loads((p / "ceiling.json").read_text()) for p in (written, tmp_path))
    assert one | {"config": None} == seven | {"config": None}


def test_ceiling_is_that_of_the_written_rows(written: Path) -> None:
    log = rows_of(written / "interactions")
    ceiling = json.loads((written / "ceiling.json").read_text())
    probability = 1 / (1 + np.exp(-log["true_logit"].astype(float)))
    assert ceiling["auc"] == pytest.approx(
        peer.roc_auc_score(log["clicked"], probability), abs=2e-6
    )
    assert ceiling["log_loss"] == pytest.approx(
        peer.log_loss(log["clicked"], probability), abs=2e-6
    )
    assert ceiling["rows"] == ROWS
    assert ceiling["positive_rate"] == log["clicked"].mean()
    assert ceiling["auc"] > 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"one_table": True},
        {"users": None, "items": None, "days": None, "fields": FIELDS[2:]},
    ],
    ids=["three tables", "one table", "no keys"],
)
def test_pipeline_is_a_configuration(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = synthetic(**changes)
    path = tmp_path / "pipeline.yaml"
    path.write_text(json.dumps(pipeline(config)))  # JSON is YAML
    loaded = load(path)
    assert (loaded.keys.user is None) == (config.users is None)
    assert (loaded.source.users is None) == (config.users is None or config.one_table)
    names = {f.name for f in loaded.fields if f.encode != "none"}
    assert names == {*config.populations, *(f.name for f in config.fields)}


@pytest.mark.slow
def test_the_commands_take_a_synthetic_log(spark, tmp_path: Path) -> None:
    small = ["rows=20000", "users.count=300", "items.count=200", f"path={tmp_path}"]
    run = submit("synthesize", "conf/synthetic.yaml", *small)
    said = run.stdout
    assert "\r" not in said + run.stderr  # no progress where there is no terminal
    assert " tasks" not in said + run.stderr
    assert "20,000 rows" in said
    assert "no model can do better than AUC 0." in said
    prepared = here("prepare", tmp_path / "pipeline.yaml").stdout
    assert "20,000 read = 20,000 accepted + 0 quarantined" in prepared
    wrong = here("synthesize", "conf/synthetic.yaml", "users.cuont=3", check=False)
    assert "users.cuont: unknown key. Did you mean count?" in wrong.stderr
