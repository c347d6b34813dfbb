"""Models that start from a finished FM or FwFM, and the paper's setting as a whole."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from afm.artifact import Manifest, load, load_run, read_curves, save
from afm.errors import ArtifactError
from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train
from conf.schema import Config
from conf.training import ModelConfig
from features.spec import FeatureSpec
from tests.afm.planted import write_prepared
from tests.afm.some_metrics import smooth
from tests.afm.training import Killed, kill_at_step

ConfigOf = Callable[..., Config]
Run = Callable[..., Manifest]

STILL = {"epochs": 1, "learning_rate": 1e-12}


@pytest.fixture
def run(prepared_root: Path, config_of: ConfigOf) -> Run:
    """Trains on the planted world: ``run(model={…}, train={…})``."""

    def train_it(**sections: Any) -> Manifest:
        config = config_of(prepared_root, **sections)
        return train(config, Ranks(), Progress(io.StringIO()), torch.device("cpu"))

    return train_it


def weights(root: Path, name: str) -> dict[str, np.ndarray]:
    return load(root / "models", name).weights


@pytest.mark.parametrize(("name", "start"), [("afm", "fm"), ("fwfm", "fm"), ("afm", "fwfm")])
def test_model_starts_as_the_finished_one(
    prepared_root: Path, run: Run, name: str, start: str
) -> None:
    finished = run(model={"name": start}, train={"epochs": 2, "learning_rate": 0.02})
    started = run(model={"name": name, "pretrained": start}, train=STILL)
    known = weights(prepared_root, start)
    assert np.ptp(known.pop("pair_weights", [1.0, 1.1])) > 0.05
    for weight, array in known.items():
        np.testing.assert_allclose(weights(prepared_root, name)[weight], array, atol=1e-9)
    assert smooth(started.validation) == pytest.approx(smooth(finished.validation), abs=1e-5)


def test_attention_stands_for_weights_of_pairs_above_zero(prepared_root: Path, run: Run) -> None:
    run(model={"name": "fwfm"}, train={"epochs": 1})
    folder = prepared_root / "models" / "fwfm" / "latest"
    fwfm = load_run(folder)
    r = np.linspace(-1, 2, len(fwfm.weights["pair_weights"]), dtype=np.float32)
    other = prepared_root / "other"
    save(other, {**fwfm.weights, "pair_weights": r}, read_curves(folder), fwfm.manifest)
    run(model={"pretrained": str(other)}, train=STILL)
    afm = {n: w.astype(np.float64) for n, w in weights(prepared_root, "afm").items()}
    c, p = afm["attention.pair_bias"], afm["p"]
    attention = np.exp(c) / np.exp(c).sum()
    np.testing.assert_allclose(len(r) * attention * p[0], r.clip(1e-3), rtol=1e-5)
    assert np.ptp(p) < 1e-9


@pytest.mark.parametrize(
    "model", [{"name": "fwfm"}, {"scale": "none"}, {"pair_bias": False}], ids=str
)
def test_only_an_afm_with_weights_of_pairs_starts_from_an_fwfm(
    prepared_root: Path, run: Run, model: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError, match="pretrained: an fwfm is what an afm starts from"):
        ModelConfig(**model, pretrained="fwfm")
    run(model={"name": "fwfm"}, train={"epochs": 1})
    folder = str((prepared_root / "models" / "fwfm" / "latest").resolve())
    with pytest.raises(ArtifactError, match="is a run of fwfm; an fwfm is what an afm starts from"):
        run(model={**model, "pretrained": folder})


def test_folder_of_a_run_can_be_named(prepared_root: Path, run: Run) -> None:
    first = run(model={"name": "fm"}, train={"epochs": 1})
    run(model={"name": "fm"}, train={"epochs": 2})
    folder = prepared_root / "models" / "fm" / first.run
    run(model={"pretrained": str(folder)}, train=STILL)
    named = load(prepared_root / "models", "fm", first.run).weights["linear"]
    np.testing.assert_allclose(weights(prepared_root, "afm")["linear"], named, atol=1e-9)
    assert not np.allclose(weights(prepared_root, "fm")["linear"], named, atol=1e-3)


def test_start_stays_where_no_epoch_is_better(prepared_root: Path, run: Run) -> None:
    fm = run(model={"name": "fm"}, train={"epochs": 6})
    spoilt = run(model={"pretrained": "fm"}, train={"epochs": 9, "learning_rate": 0.5})
    assert (spoilt.best_epoch, spoilt.epochs) == (0, spoilt.config.train.patience)
    assert smooth(spoilt.validation) == pytest.approx(smooth(fm.validation), abs=1e-5)
    ours, theirs = weights(prepared_root, "afm"), weights(prepared_root, "fm")
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name].ravel(), array.ravel(), err_msg=name)


def test_killed_run_remembers_its_start(
    prepared_root: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(model={"name": "fm"}, train={"epochs": 6})
    settings = {"epochs": 9, "learning_rate": 0.5, "checkpoint_steps": 5, "run": "mine"}
    with monkeypatch.context() as patch:
        kill_at_step(patch, 15)
        with pytest.raises(Killed):
            run(model={"pretrained": "fm"}, train=settings)
    with monkeypatch.context() as patch:
        patch.setattr("afm.train.start_from", lambda *_: None)  # the checkpoint has all
        resumed = run(model={"pretrained": "fm"}, train=settings)
    assert resumed.best_epoch == 0
    ours, theirs = weights(prepared_root, "afm"), weights(prepared_root, "fm")
    np.testing.assert_array_equal(ours["embedding"], theirs["embedding"])


def test_another_fm_makes_another_run(run: Run) -> None:
    run(model={"name": "fm"}, train={"epochs": 1})
    first = run(model={"pretrained": "fm"}, train=STILL)
    assert run(model={"pretrained": "fm"}, train=STILL) == first
    run(model={"name": "fm"}, train={"epochs": 1, "seed": 1})
    assert run(model={"pretrained": "fm"}, train=STILL).identity != first.identity


def test_what_a_model_cannot_start_from_is_an_error(
    prepared_root: Path, run: Run, spec: FeatureSpec
) -> None:
    with pytest.raises(ArtifactError, match="no finished run in .*; run jobs/train.py with model"):
        run(model={"pretrained": "fm"})
    run(model={"name": "fm"}, train={"epochs": 1})
    with pytest.raises(ArtifactError, match="have the length 4, but model.embedding_size is 8"):
        run(model={"pretrained": "fm", "embedding_size": 8})
    afm = run(train={"epochs": 1})
    with pytest.raises(ArtifactError, match="is a run of afm, not of fm"):
        run(model={"pretrained": str(prepared_root / "models" / "afm" / afm.run)})
    user = spec.fields[0].model_copy(update={"cardinality": 77})
    write_prepared(
        prepared_root, spec.model_copy(update={"fields": (user, *spec.fields[1:])}), version=0
    )
    with pytest.raises(ArtifactError, match="on other features .*\n  field user: cardinality 42,"):
        run(model={"pretrained": "fm"})


def test_fm_does_not_start_from_an_fm() -> None:
    with pytest.raises(ValidationError, match="pretrained is for afm and fwfm"):
        ModelConfig(name="fm", pretrained="fm")


def test_setting_of_the_paper_trains(prepared_root: Path, run: Run) -> None:
    """K = A = 256, dropout 0.2, squared loss on targets of ±1, Adagrad, embeddings of an FM."""
    train_it = {"loss": "squared", "optimizer": "adagrad", "learning_rate": 0.05}
    common = {"embedding_size": 256, "embedding_dropout": 0.0, "init_std": 0.01}
    fm = run(model={"name": "fm", **common}, train={**train_it, "epochs": 6})
    paper = {"attention_size": 256, "dropout": 0.2, "scale": "none", "pair_bias": False}
    manifest = run(model={**common, **paper, "pretrained": "fm"}, train={**train_it, "epochs": 3})
    curves = read_curves(prepared_root / "models" / "afm" / "latest")
    assert fm.validation.auc > 0.75
    assert curves[-1].train_loss < curves[0].train_loss
    assert manifest.validation.rmse < 1.0  # what a score of 0 has
    assert manifest.validation.auc > 0.7
