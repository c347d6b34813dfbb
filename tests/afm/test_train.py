"""Training end to end on the planted world: alone, interrupted, and on two ranks."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from afm import checkpoint
from afm import train as train_module
from afm.artifact import Artifact, Epoch, Manifest, load, read_curves
from afm.checkpoint import Checkpoint, Position, Writer
from afm.errors import ArtifactError, TableError, TrainError
from afm.forward import Parameters, forward
from afm.kernels import cpu
from afm.metrics import Metrics
from afm.model import build_model
from afm.objective import losses, penalty
from afm.optimizers import Optimizers
from afm.order import Leg
from afm.progress import Progress
from afm.ranks import Ranks
from afm.schedule import best_epoch, is_over
from afm.slots import Layout
from afm.train import train
from conf.load import load as load_config
from conf.schema import Config
from conf.training import L2, ModelConfig, TrainConfig
from features.spec import FeatureSpec
from tests.afm.planted import planted_rows, write_features, write_prepared
from tests.afm.some_metrics import metrics_of, smooth

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")

ConfigOf = Callable[..., Config]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are faster on one thread, and other test processes want theirs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def ranks() -> Ranks:
    return Ranks()


def run(config: Config, ranks: Ranks) -> tuple[Manifest, str]:
    """Trains; the manifest and what was reported."""
    stream = io.StringIO()
    return train(config, ranks, Progress(stream), CPU), stream.getvalue()


def weights_of(config: Config) -> dict[str, np.ndarray]:
    return load(config.models_root, config.model.name).weights


def logits_of(model: Artifact) -> np.ndarray:
    """What a model gives for the planted test rows."""
    scale = model.manifest.config.model.scale
    parameters = Parameters.of(model.weights, model.layout, scale)
    return forward(parameters, planted_rows(400, seed=3))


def assert_same_weights(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Killed(BaseException):
    """As abrupt as a kill, as far as training is concerned."""


def kill_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Lets training die while it measures an epoch, before that is kept."""
    real, calls = train_module.measure, iter(range(1, 100))

    def measure(*arguments: object) -> Metrics:
        if next(calls) == epoch:
            raise Killed
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "measure", measure)


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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adagrad"},
        {"schedule": {"warmup": 0.6, "plateau": {"factor": 0.1}}, "clip_norm": 0.05},
        {"weight_decay": 2.0},
    ],
    ids=["adam", "adagrad", "schedule", "decay"],
)
def test_killed_run_ends_as_an_uninterrupted_one(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
) -> None:
    config = config_of(prepared_root, model={"dropout": 0.2}, train=settings)
    straight, _ = run(config, ranks)
    weights, curves = weights_of(config), read_curves(load(config.models_root, "afm").folder)
    shutil.rmtree(config.models_root)

    with monkeypatch.context() as patch:
        kill_in_epoch(patch, 3)
        with pytest.raises(Killed):
            run(config, ranks)
    folder = Path(config.models_root) / "afm" / straight.run
    assert [path.name for path in folder.iterdir()] == ["checkpoint"]
    with pytest.raises(ArtifactError, match="no finished model"):
        load(config.models_root, "afm")

    resumed, report = run(config, ranks)
    assert report.startswith(f"resuming run {straight.run} after epoch 2\nepoch 3/4 ")
    assert_same_weights(weights, weights_of(config))
    assert resumed == straight
    again = read_curves(folder)
    assert [(e.train_loss, e.validation) for e in again] == [
        (e.train_loss, e.validation) for e in curves
    ]
    assert not (folder / "checkpoint").exists()


def kill_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets training die after a step, counted over all epochs."""
    real, calls = Optimizers.step, iter(range(1, 1000))

    def one(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        if next(calls) == step:
            raise Killed

    monkeypatch.setattr(Optimizers, "step", one)


@pytest.mark.parametrize(
    ("moments", "reached"),
    [
        ((3,), "epoch 1/3 "),  # from the start
        ((5, 1, 9), "resuming run mine after step 5 of epoch 1\n"),
        ((12,), "resuming run mine after step 10 of epoch 1\n"),
        ((19, 14), "resuming run mine after step 5 of epoch 3\n"),
    ],
)
def test_run_killed_within_an_epoch_ends_as_an_uninterrupted_one(
    prepared_root: Path,
    config_of: ConfigOf,
    ranks: Ranks,
    monkeypatch: pytest.MonkeyPatch,
    moments: tuple[int, ...],
    reached: str,
) -> None:
    # 12 steps per epoch; the buffer holds a few row groups, so that some are passed over unread.
    settings = {"epochs": 3, "shuffle_rows": 450, "run": "mine", "weight_decay": 1.5}
    config = config_of(prepared_root, model={"dropout": 0.2}, train=settings)
    straight, _ = run(config, ranks)
    weights, curves = weights_of(config), read_curves(load(config.models_root, "afm").folder)
    shutil.rmtree(config.models_root)

    config = config_of(
        prepared_root, model={"dropout": 0.2}, train={**settings, "checkpoint_steps": 5}
    )
    for moment in moments:
        with monkeypatch.context() as patch:
            kill_at_step(patch, moment)
            with pytest.raises(Killed):
                run(config, ranks)
    resumed, report = run(config, ranks)
    assert report.startswith(reached)
    assert_same_weights(weights, weights_of(config))
    assert resumed.validation == straight.validation
    again = read_curves(load(config.models_root, "afm").folder)
    assert [(e.train_loss, e.validation) for e in again] == [
        (e.train_loss, e.validation) for e in curves
    ]


def test_run_killed_before_it_finished_needs_no_more_epochs(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(prepared_root, train={"epochs": 2})

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_module, "save", die)
        with pytest.raises(Killed):
            run(config, ranks)
    manifest, report = run(config, ranks)
    assert manifest.epochs == 2
    assert report.splitlines() == [f"resuming run {manifest.run} after epoch 2"]


def test_finished_run_is_left_as_it_is(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    config = config_of(prepared_root, train={"epochs": 1})
    first, _ = run(config, ranks)
    run(config_of(prepared_root, train={"epochs": 1, "seed": 1}), ranks)
    files = {p: p.stat().st_mtime_ns for p in Path(config.models_root).rglob("*.*")}

    again, report = run(config, ranks)
    assert again == first
    assert report == f"run {first.run} is finished already; nothing to do\n"
    assert {p: p.stat().st_mtime_ns for p in Path(config.models_root).rglob("*.*")} == files
    assert load(config.models_root, "afm").manifest.run == first.run


def test_models_that_were_copied_without_links_are_an_error(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks
) -> None:
    config = config_of(prepared_root, train={"epochs": 1})
    run(config, ranks)
    latest = prepared_root / "models" / "afm" / "latest"
    copied = latest.resolve()
    latest.unlink()
    shutil.copytree(copied, latest)
    with pytest.raises(ArtifactError, match="afm/latest is a folder.* Move it away"):
        run(config_of(prepared_root, train={"epochs": 2}), ranks)
    assert {p.name for p in latest.parent.iterdir() if p.is_dir()} == {"latest", copied.name}


def test_new_features_make_a_new_run(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, spec: FeatureSpec
) -> None:
    config = config_of(prepared_root, train={"epochs": 1})
    first, _ = run(config, ranks)
    write_features(
        prepared_root, {"train": planted_rows(500, 8), "validation": planted_rows(200, 9)}
    )
    write_prepared(prepared_root, spec, version=1)
    second, _ = run(config, ranks)
    assert (first.features.version, second.features.version) == (0, 1)
    assert first.run != second.run


def test_named_run_of_another_configuration_is_refused(
    prepared_root: Path, config_of: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(config_of(prepared_root, train={"epochs": 1, "run": "mine"}), ranks)
    message = r"models/afm/mine holds a run of another configuration .* train\.run"
    with pytest.raises(ArtifactError, match=message):
        run(config_of(prepared_root, train={"epochs": 2, "run": "mine"}), ranks)

    kill_in_epoch(monkeypatch, 2)
    with pytest.raises(Killed):
        run(config_of(prepared_root, train={"epochs": 2, "run": "yours"}), ranks)
    with pytest.raises(ArtifactError, match="models/afm/yours holds a run of another"):
        run(config_of(prepared_root, train={"epochs": 3, "run": "yours"}), ranks)


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


def epochs(*aucs: float) -> list[Epoch]:
    return [Epoch(n, 0.5, metrics_of(auc=auc), 1.0) for n, auc in enumerate(aucs, 1)]


def test_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(epochs(0.5, 0.7, 0.7), "auc") == 2


def test_best_epoch_is_that_of_the_metric_that_counts() -> None:
    found = [(0.5, 0.6, 0.8), (0.7, 0.5, 0.9), (0.6, 0.4, 1.0)]
    curves = [
        Epoch(n, 0.5, metrics_of(auc=a, log_loss=b, rmse=c), 1.0)
        for n, (a, b, c) in enumerate(found, 1)
    ]
    assert [best_epoch(curves, m) for m in ("auc", "log_loss", "rmse")] == [2, 3, 1]
    waiting = {"patience": 2, "epochs": 9}
    over = [is_over(curves, TrainConfig(stop_on=m, **waiting)) for m in ("auc", "log_loss", "rmse")]
    assert over == [False, False, True]


def test_training_is_over_after_the_last_epoch_or_without_progress() -> None:
    settings = TrainConfig(epochs=4, patience=2)
    assert not is_over([], settings)
    assert not is_over(epochs(0.7, 0.6), settings)
    assert is_over(epochs(0.7, 0.6, 0.7), settings)
    assert not is_over(epochs(0.5, 0.6, 0.7), settings)
    assert is_over(epochs(0.5, 0.6, 0.7, 0.8), settings)


def test_losses_against_their_formulas() -> None:
    scores, labels = torch.tensor([-2.0, 0.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    p = 1 / (1 + np.exp(-scores.double().numpy()))
    y = labels.numpy()
    logs = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(losses(scores, labels, "log").numpy(), logs, rtol=1e-6)
    assert losses(scores, labels, "squared").tolist() == [1.0, 1.0, 2.25, 4.0]


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


SLOTS = (torch.tensor([[1, 50, 74, 77, 75, 75]]), torch.tensor([[1, 1, 0.5, 1, 0, 0]]))


def test_penalty_on_embeddings_touches_looked_up_rows_only(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(embedding_size=4, attention_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    total = penalty(model, vectors, x, L2(embedding=0.5), global_rows=2, size=1)
    total.backward()
    touched = [1, 50, 74, 77]  # slots with x = 0 are padding
    assert model.embedding.grad is not None
    assert model.embedding.grad.abs().sum(dim=1).nonzero().flatten().tolist() == touched
    # λ/2 Σ v² over a step of two rows, by hand
    rows = model.embedding.detach().numpy()[touched].astype(np.float64)
    assert total.item() == pytest.approx(0.5 * (rows**2).sum() / 2)
    np.testing.assert_allclose(model.embedding.grad[touched].numpy(), 0.5 * rows, rtol=1e-6)


def test_penalty_on_attention_touches_W_only(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(embedding_size=4, attention_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    l2 = L2(attention=0.1)
    shares = [penalty(model, vectors, x, l2, global_rows=4, size=2) for _ in range(2)]
    sum(shares).backward()
    W = model.attention.W
    torch.testing.assert_close(W.grad, 0.2 * W.detach())
    assert all(p.grad is None for name, p in model.named_parameters() if name != "attention.W")


def test_penalty_of_an_fm_has_no_attention(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(name="fm", embedding_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    assert penalty(model, vectors, x, L2(attention=0.1), global_rows=4, size=1).item() == 0


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


def test_checkpoint_is_read_as_it_was_when_it_was_written(tmp_path: Path) -> None:
    embedding = torch.arange(6.0).reshape(2, 3)
    position = Position(
        curves=tuple(epochs(0.6, 0.7)),
        legs=(Leg(3, 7), Leg(2, 5)),
        sums=((0.1, 3.0), (1 / 3, 2.0)),
    )
    state = Checkpoint(
        identity="0123",
        position=position,
        weights={"bias": torch.tensor(1.5), "embedding": embedding},
        optimizer={"bias/step": torch.tensor(3.0)},
        best={"embedding": embedding.T},
    )
    assert checkpoint.read(tmp_path) is None
    with Writer(tmp_path) as writer:
        writer.write(state)
        embedding.zero_()  # training goes on
        leftover = tmp_path / "checkpoint" / ".state.safetensors.1"
        leftover.parent.mkdir(exist_ok=True)
        leftover.touch()  # of a process that was killed while it wrote
        embedding.copy_(torch.arange(6.0).reshape(2, 3))
        writer.write(state)
    again = checkpoint.read(tmp_path)
    assert again is not None
    assert (again.identity, again.position) == ("0123", position)
    assert torch.equal(again.weights["embedding"], embedding)
    assert again.weights["bias"].shape == ()
    assert torch.equal(again.best["embedding"], embedding.T)
    assert again.optimizer["bias/step"].item() == 3.0
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["state.safetensors"]


def test_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    state = Checkpoint(identity="0", position=Position(), weights={}, optimizer={}, best={})
    (tmp_path / "checkpoint").touch()  # a file where the folder should be
    with pytest.raises(FileExistsError), Writer(tmp_path) as writer:
        writer.write(state)


def test_sums_of_losses_go_on_on_other_numbers_of_ranks() -> None:
    position = Position(legs=(Leg(3, 1),), sums=((1.0, 5.0), (2.0, 6.0), (4.0, 8.0)))
    assert [position.sums_of(rank, 3) for rank in range(3)] == list(position.sums)
    assert [position.sums_of(rank, 2) for rank in range(2)] == [(7.0, 19.0), (0.0, 0.0)]
    assert Position().sums_of(0, 1) == (0.0, 0.0)


@pytest.fixture
def config_file(prepared_root: Path, config_of: ConfigOf) -> Path:
    """A configuration as a file, for real processes.

    Its steps hold all rows, so that training does not depend on how rows fall into batches.
    """
    path = prepared_root / "conf.yaml"
    config = config_of(
        prepared_root,
        model={"embedding_dropout": 0.0},
        train={
            "batch_size": 3000,
            "epochs": 10,
            "learning_rate": 0.05,
            "l2": {"embedding": 0.01, "attention": 0.01},
        },
    )
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    return path


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )


CLIPPED = (
    "train.clip_norm=0.02",
    "train.weight_decay=5",
    "train.table_rate=0.9",
    "train.schedule={warmup: 3, plateau: {}}",
    "model.name=fwfm",
)


ONE_MACHINE = ("-np", "2")
# To Horovod, names are machines: these ranks have nothing in common.
TWO_MACHINES = (*ONE_MACHINE, "-H", "localhost:1,127.0.0.1:1", "--network-interface", "lo")


@pytest.mark.parametrize("where", [ONE_MACHINE, TWO_MACHINES], ids=["one machine", "two machines"])
@pytest.mark.parametrize("overrides", [(), CLIPPED], ids=["plain", "clipped"])
def test_two_ranks_train_the_model_of_one(
    config_file: Path, ranks: Ranks, where: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    config = load_config(config_file, overrides)
    one, _ = run(config, ranks)

    together = ("horovodrun", *where, "python", "jobs/train.py", str(config_file))
    result = command(*together, f"tables.models={config_file.parent}/two", *overrides)
    assert result.returncode == 0, result.stderr
    other = load(config_file.parent / "two", config.model.name)
    two = other.manifest
    assert (one.ranks, two.ranks) == (1, 2)
    assert two.best_epoch == one.best_epoch
    assert smooth(two.validation) == pytest.approx(smooth(one.validation), abs=1e-4)
    mine = load(config.models_root, config.model.name)
    for name, array in mine.weights.items():
        # What a unit that is on for all pairs adds to them, softmax takes out again: the gradient
        # of its b is what rounding leaves of 0, and Adam makes steps of any size of that.
        if name != "attention.b":
            np.testing.assert_allclose(other.weights[name], array, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(logits_of(other), logits_of(mine), atol=1e-5)
    lines = [line for line in result.stderr.splitlines() if "epoch " in line]
    assert len(lines) == two.epochs and all(line.startswith("[0]") for line in lines)
