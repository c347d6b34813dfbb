"""Runs that were interrupted or are given again; those of one process."""

import shutil
from pathlib import Path

import pytest

from afm import train as train_module
from afm.artifact import load, read_curves
from afm.errors import ArtifactError
from afm.ranks import Ranks
from features.spec import FeatureSpec
from tests.afm.conftest import ConfigOf
from tests.afm.planted import planted_rows, write_features, write_prepared
from tests.afm.training import (  # noqa: F401
    Killed,
    assert_same_weights,
    kill_at_step,
    kill_in_epoch,
    one_thread,
    run,
    weights_of,
)


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
