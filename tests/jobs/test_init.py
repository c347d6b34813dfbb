"""A first YAML for real logs runs as it is, and what it trains has learned something."""

import sys
from pathlib import Path

import pytest
import torch

from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train
from conf.load import load
from features.prepare import prepare
from tests.jobs.commands import here

pytestmark = [pytest.mark.spark, pytest.mark.data]

LOGS = {
    "ml100k": "ml100k/u.data",
    "ml_latest_small": "ml_latest_small/ratings.csv",
    "kuairand": "kuairand_pure/log_standard_20220425_0430.parquet",
    "criteo": "criteo_10k/train_10000_labelled.txt.gz",
}


@pytest.mark.parametrize("name", LOGS)
def test_first_yaml_trains(spark, shared_data: Path, tmp_path: Path, name: str) -> None:
    target = tmp_path / f"{name}.yaml"
    said = here("init", shared_data / LOGS[name], target).stdout
    assert f"wrote {target}" in said
    config = load(target, [f"tables.root={tmp_path}/tables", "train.epochs=3"])
    prepare(spark, config)
    manifest = train(config, Ranks(), Progress(sys.stderr), torch.device("cpu"))
    assert manifest.validation.auc > 0.6


def test_file_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("mine")
    result = here("init", "README.md", target, check=False)
    assert result.returncode == 1
    assert "is there already" in result.stderr
    assert target.read_text() == "mine"
