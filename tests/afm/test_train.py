"""Training in one process on the planted world."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from afm import train as train_module
from afm.artifact import read_curves
from afm.errors import TableError, TrainError
from afm.kernels import cpu
from afm.metrics import Metrics
from afm.model import build_model
from afm.ranks import Ranks
from afm.slots import Layout
from features.spec import FeatureSpec
from tests.afm.conftest import ConfigOf
from tests.afm.planted import planted_rows, write_features, write_prepared
from tests.afm.some_metrics import metrics_of, smooth
from tests.afm.training import (  # noqa: F401
    CPU,
    assert_same_weights,
    one_thread,
    run,
    weights_of,
)


@pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])
def test_model_learns_what_was_planted(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, name: str
) -> None:
    config = config_of(
        prepared_root,
        model={"name": name, "embedding_size": 8, "init_std": 0.3, "embedding_dropout": 0.0},
        train={"epochs": 8, "batch_size": 64, "learning_rate": 0.02},
    )
    manifest, report = run(config, ranks)
    curves = read_curves(prepared_root / "models" / name / "latest")
    assert manifest.validation.auc > 0.75
    assert curves[-1].train_loss < curves[0].train_loss < 0.7
    assert manifest.validation == curves[manifest.best_epoch - 1].validation
    assert manifest.epochs == len(curves)
    assert report.count("\n") == len(curves)


@pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])
def test_adagrad_learns_what_was_planted_too(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, name: str
) -> None:
    config = config_of(
        prepared_root,
        model={"name": name, "embedding_size": 8, "init_std": 0.3, "embedding_dropout": 0.0},
        train={"epochs": 16, "batch_size": 64, "learning_rate": 0.1, "optimizer": "adagrad"},
    )
    manifest, _ = run(config, ranks)
    assert manifest.validation.auc > 0.75


@pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])
def test_bf16_learns_what_was_planted_too(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setattr(cpu, "serves", lambda *_: False)  # the kernel is float32
    config = config_of(
        prepared_root,
        model={"name": name, "embedding_size": 8, "init_std": 0.3, "embedding_dropout": 0.0},
        train={"epochs": 4, "batch_size": 64, "learning_rate": 0.02},
    )
    run(config, ranks)
    exact = weights_of(config)
    train_it = config.train.model_copy(update={"precision": "bf16"})
    manifest, _ = run(config.model_copy(update={"train": train_it}), ranks)
    rounded = weights_of(config)
    assert manifest.validation.auc > 0.72
    assert all(array.dtype == np.float32 for array in rounded.values())
    # FM multiplies no matrices.
    assert np.array_equal(rounded["embedding"], exact["embedding"]) == (name == "fm")


def test_saved_weights_are_those_of_the_measured_model(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, spec: FeatureSpec, layout: Layout
) -> None:
    config = config_of(prepared_root, train={"learning_rate": 0.1, "epochs": 6})
    manifest, _ = run(config, ranks)
    model = build_model(layout, config.model, seed=0)
    model.load_state_dict({n: torch.from_numpy(w) for n, w in weights_of(config).items()})
    plan = train_module.make_plan(config, rank=0, size=1)
    measured = train_module.measure(model, plan.validation, ranks, CPU, "log")
    assert measured == manifest.validation


def test_same_configuration_gives_the_same_weights(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    config = config_of(prepared_root, train={"epochs": 2})
    run(config, ranks)
    first = weights_of(config)
    shutil.rmtree(config.models_root)
    torch.manual_seed(99)  # whatever the process drew before
    run(config, ranks)
    assert_same_weights(first, weights_of(config))


def test_training_stops_early_and_keeps_the_best(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    aucs, seen = iter([0.6, 0.7, 0.7, 0.65, 0.9]), []

    def measure(model: torch.nn.Module, *_: object) -> Metrics:
        seen.append(model.state_dict()["embedding"].numpy().copy())
        return metrics_of(auc=next(aucs))

    monkeypatch.setattr(train_module, "measure", measure)
    config = config_of(prepared_root, train={"epochs": 20, "patience": 2})
    manifest, report = run(config, ranks)
    assert (manifest.epochs, manifest.best_epoch, manifest.validation.auc) == (4, 2, 0.7)
    np.testing.assert_array_equal(weights_of(config)["embedding"], seen[1])
    assert [line.endswith("best") for line in report.splitlines()] == [True, True, False, False]


def test_a_row_of_weight_three_counts_as_three_rows(
    tmp_path: Path, config_of: ConfigOf, ranks: Ranks, spec: FeatureSpec
) -> None:
    parts = {"train": planted_rows(600, 1), "validation": planted_rows(200, 2)}
    found = []
    for weighted in (True, False):
        root = tmp_path / str(weighted)
        written = {}
        for name, columns in parts.items():
            times = 1 + np.arange(len(columns["label"])) % 3
            written[name] = (
                columns | {"weight": times.astype(np.float64)}
                if weighted
                else {n: np.repeat(column, times, axis=0) for n, column in columns.items()}
            )
        write_features(root, written)
        write_prepared(root, spec, weight="times" if weighted else None)
        config = config_of(
            root,
            model={"embedding_dropout": 0.0},
            train={"batch_size": 10_000, "epochs": 5, "learning_rate": 0.05},
        ).model_copy(update={"weight": "times" if weighted else None})
        manifest, _ = run(config, ranks)
        curves = read_curves(Path(config.models_root) / "afm" / "latest")
        found.append((manifest.validation, [e.train_loss for e in curves], weights_of(config)))
    (of_weights, losses_of_weights, mine), (of_rows, losses_of_rows, theirs) = found
    assert smooth(of_weights) == pytest.approx(smooth(of_rows), abs=1e-3)
    assert of_weights.rows == of_rows.rows
    assert losses_of_weights == pytest.approx(losses_of_rows, abs=1e-3)
    for name, array in theirs.items():
        # Adam makes full steps of gradients that are rounding errors, here and there.
        assert np.abs(mine[name] - array).mean() < 1e-3, name


def test_penalties_shrink_the_weights(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    free = config_of(prepared_root, train={"epochs": 2})
    bound = config_of(prepared_root, train={"epochs": 2, "l2": {"embedding": 0.1, "attention": 1}})
    sizes = []
    for config in (free, bound):
        run(config, ranks)
        weights = weights_of(config)
        sizes.append([np.linalg.norm(weights[n]) for n in ("embedding", "attention.W")])
    assert sizes[1][0] < 0.9 * sizes[0][0]
    assert sizes[1][1] < 0.9 * sizes[0][1]


def test_missing_tables_are_an_error(tmp_path: Path, config_of: ConfigOf, ranks: Ranks) -> None:
    with pytest.raises(TableError, match=r"no table .*/prepared: run jobs/prepare\.py first"):
        run(config_of(tmp_path), ranks)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("part", ["train", "validation"])
def test_labels_of_one_class_are_an_error(
    tmp_path: Path, config_of: ConfigOf, ranks: Ranks, spec: FeatureSpec, part: str
) -> None:
    parts = {"train": planted_rows(50, 1), "validation": planted_rows(50, 2)}
    parts[part]["label"] = np.ones(50)
    write_features(tmp_path, parts)
    write_prepared(tmp_path, spec)
    with pytest.raises(TrainError, match=rf"all 50 {part}\w* rows have the label 1: .*`label`"):
        run(config_of(tmp_path), ranks)


@pytest.mark.parametrize(("part", "name"), [("train", "training"), ("validation", "validation")])
def test_part_without_rows_is_an_error(
    tmp_path: Path, config_of: ConfigOf, ranks: Ranks, spec: FeatureSpec, part: str, name: str
) -> None:
    parts = {"train": planted_rows(50, 1), "validation": planted_rows(50, 2)}
    del parts[part]
    write_features(tmp_path, parts)
    write_prepared(tmp_path, spec)
    with pytest.raises(TrainError, match=f"there are no {name} rows; change `split`"):
        run(config_of(tmp_path), ranks)


@pytest.mark.parametrize("steps", [None, 5])
def test_divergence_is_an_error_and_leaves_no_model(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, steps: int | None
) -> None:
    config = config_of(prepared_root, train={"learning_rate": 1e30, "checkpoint_steps": steps})
    with pytest.raises(
        TrainError, match=r"the loss of epoch 1 is .*Lower train\.learning_rate, which is 1e\+30"
    ):
        run(config, ranks)
    assert not Path(config.models_root).exists()
