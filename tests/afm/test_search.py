"""A search over the planted world: what it tries, keeps, and goes on with."""

import csv
import io
import json
import shutil
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from afm import search as search_module
from afm.artifact import Epoch, load, load_run
from afm.errors import TrainError
from afm.ranks import Ranks
from afm.search import Book, Found, configured, distribution, search
from afm.train import train
from afm.trials import Trial, config_of, table
from conf.load import load as load_config
from conf.schema import Config
from conf.training import Range
from tests.afm.some_metrics import metrics_of
from tests.afm.training import Killed, kill_at_step, one_thread  # noqa: F401

CPU = torch.device("cpu")
RATES = {"train.learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
SIZES = {"model.embedding_size": {"low": 2, "high": 8, "step": 2}}

ConfigOf = Callable[..., Config]


@pytest.fixture
def searched(prepared_root: Path, config_of: ConfigOf) -> ConfigOf:
    """Makes a pipeline with a search: ``searched(RATES, trials=4, train={…})``."""

    def make(ranges: dict[str, Any], train: dict[str, Any] | None = None, **tune: Any) -> Config:
        config = config_of(prepared_root, train={"epochs": 2, "patience": 2, **(train or {})})
        given = config.model_dump(exclude_unset=True)
        return Config.model_validate(given | {"tune": {"ranges": ranges, **tune}})

    return make


def run(config: Config, ranks: Ranks) -> tuple[Found, str]:
    """Searches; what was found and what was reported."""
    assert config.tune is not None
    stream = io.StringIO()
    found = search(config, config.tune, ranks, stream, CPU)
    assert found is not None
    return found, stream.getvalue()


def by_number(found: Found) -> list[Trial]:
    """The trials in their order, without how long they took."""
    return sorted((replace(t, seconds=0.0) for t in found.trials), key=lambda t: t.number)


def test_search_leaves_the_best_of_its_trials(searched: ConfigOf, ranks: Ranks) -> None:
    config = searched(RATES | SIZES, trials=4)
    found, report = run(config, ranks)
    aucs = [trial.metrics.auc for trial in found.trials if trial.metrics]
    assert len(aucs) == 4 and aucs == sorted(aucs, reverse=True)
    assert report.count("\n") == 4 and report.count("  best") >= 1
    assert report.startswith("trial 1/4  finished  validation auc 0.")
    for trial in found.trials:
        assert 1e-3 <= trial.values["train.learning_rate"] <= 1e-1
        assert trial.values["model.embedding_size"] in (2, 4, 6, 8)

    best = found.trials[0]
    models = [path.parent for path in found.folder.glob("*/*/weights.safetensors")]
    assert [m.resolve() for m in models if not m.is_symlink()] == [found.folder / best.run]
    manifest = load_run(found.folder / best.run).manifest
    assert load(found.folder, "afm").manifest == manifest
    assert manifest.validation == best.metrics
    assert manifest.config.model.embedding_size == best.values["model.embedding_size"]
    assert not (Path(config.models_root) / "afm").exists()

    with (found.folder / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [t.number for t in found.trials]
    assert [float(row["auc"]) for row in rows] == aucs
    assert [float(row["train.learning_rate"]) for row in rows] == [
        t.values["train.learning_rate"] for t in found.trials
    ]


def test_best_pipeline_trains_the_best_model_again(searched: ConfigOf, ranks: Ranks) -> None:
    config = searched(RATES | {"train.schedule.plateau.factor": {"choices": [0.3, 0.5]}}, trials=3)
    found, _ = run(config, ranks)
    best = found.trials[0]
    again = load_config(found.folder / "best.yaml")
    assert again.tune is None
    assert again.train.learning_rate == best.values["train.learning_rate"]
    assert again.train.schedule.plateau is not None
    assert again.train.schedule.plateau.factor == best.values["train.schedule.plateau.factor"]
    assert again.fields == config.fields and again.tables == config.tables
    manifest = train(again, ranks, search_module.Progress(io.StringIO()), CPU)
    assert manifest.validation == best.metrics
    assert (Path(config.models_root) / "afm" / manifest.run / "manifest.json").exists()


def test_first_trial_has_the_values_of_the_file(searched: ConfigOf, ranks: Ranks) -> None:
    found, _ = run(searched(RATES | SIZES, train={"learning_rate": 0.02}, trials=1), ranks)
    assert found.trials[0].values == {"train.learning_rate": 0.02, "model.embedding_size": 4}
    ranges = {
        "train.learning_rate": Range(low=0.1, high=1.0),  # the file says 0.005
        "model.embedding_size": Range(low=3, high=9, step=2),  # 4
        "train.schedule.plateau.factor": Range(low=0.1, high=0.9),  # no plateau
        "train.optimizer": Range(choices=("adagrad", "adam")),
        "model.init_std": Range(low=0.05, high=0.5, step=0.05),  # 0.1
    }
    assert configured(searched(RATES), ranges) == {"train.optimizer": "adam", "model.init_std": 0.1}


def test_same_search_makes_the_same_trials(
    searched: ConfigOf, ranks: Ranks, tmp_path: Path
) -> None:
    first, _ = run(searched(RATES, trials=3), ranks)
    elsewhere = searched(RATES, trials=3).model_copy(
        update={"tables": searched(RATES).tables.model_copy(update={"models": str(tmp_path)})}
    )
    assert by_number(run(elsewhere, ranks)[0]) == by_number(first)
    other, _ = run(searched(RATES, trials=3, seed=1), ranks)
    assert other.folder != first.folder
    assert [t.values for t in by_number(other)][1:] != [t.values for t in by_number(first)][1:]


def test_killed_search_ends_as_an_uninterrupted_one(
    searched: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 12 steps per epoch, 24 per trial; after ten trials values follow from the ones before.
    config = searched(RATES | SIZES, trials=13)
    straight, _ = run(config, ranks)
    folder = straight.folder
    folder.rename(folder.with_name("straight"))
    for step in (10, 24 + 17, 11 * 24):  # in trial 1, 2 (its second epoch), and far on
        with monkeypatch.context() as patch:
            kill_at_step(patch, step)
            with pytest.raises(Killed):
                run(config, ranks)
    resumed, report = run(config, ranks)
    assert report.startswith("going on with search")
    assert by_number(resumed) == by_number(straight)
    weights = [
        load_run(f / straight.trials[0].run).weights for f in (folder, folder.with_name("straight"))
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


def test_search_whose_journal_was_cut_off_goes_on(searched: ConfigOf, ranks: Ranks) -> None:
    first, _ = run(searched(RATES, trials=2), ranks)
    with (first.folder / "journal.log").open("a") as journal:
        journal.write('{"op_code": 4, "worker')
    for trials in (3, 4):
        found, _ = run(searched(RATES, trials=trials), ranks)
        assert len(found.trials) == trials
    assert by_number(found)[:2] == by_number(first)


def test_killed_trial_goes_on_from_its_checkpoint(
    searched: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = searched(RATES, trials=2)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 24 + 17)
        with pytest.raises(Killed):
            run(config, ranks)
    found, report = run(config, ranks)
    assert "after trial 1 of 2\nresuming run trial_2_" in report
    assert "after epoch 1\n" in report
    assert [t.epochs for t in found.trials] == [2, 2]


def test_trial_killed_when_it_had_finished_is_not_trained_again(
    searched: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = searched(RATES, trials=2)

    def die(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Book, "record", die)
        with pytest.raises(Killed):
            run(config, ranks)
    found, report = run(config, ranks)
    assert report.count("is finished already; nothing to do") == 1
    (first, _) = by_number(found)
    assert (first.epochs, first.state) == (2, "finished")


def test_finished_search_is_shown_and_can_be_extended(
    searched: ConfigOf, ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = run(searched(RATES, trials=2), ranks)
    with monkeypatch.context() as patch:
        kill_at_step(patch, 1)  # nothing is trained
        again, report = run(searched(RATES, trials=2), ranks)
    assert again == first
    assert report == f"search {first.folder.name} has made its 2 trials already\n"
    more, _ = run(searched(RATES, trials=3), ranks)
    assert by_number(more)[:2] == by_number(first)
    assert len(more.trials) == 3


def test_values_that_come_again_are_not_trained_again(searched: ConfigOf, ranks: Ranks) -> None:
    config = searched({"model.embedding_size": {"choices": [2, 4]}}, trials=6)
    found, report = run(config, ranks)
    assert len(found.trials) == 6
    assert report.count("\n") == 2
    originals = {t.number: t for t in found.trials if t.same_as is None}
    assert len(originals) == 2
    for trial in found.trials:
        if trial.same_as is not None:
            original = originals[trial.same_as]
            assert (trial.values, trial.metrics) == (original.values, original.metrics)
    assert (found.folder / found.trials[0].run / "manifest.json").exists()
    assert "as " in table(found.trials, "auc")


def test_diverging_trials_are_the_last(searched: ConfigOf, ranks: Ranks) -> None:
    config = searched({"train.learning_rate": {"choices": [1e30, 0.01]}}, trials=5)
    found, report = run(config, ranks)
    assert {t.state for t in found.trials} == {"finished", "diverged"}
    assert found.trials[0].values == {"train.learning_rate": 0.01}
    last = found.trials[-1]
    assert (last.state, last.metrics, last.epochs) == ("diverged", None, 0)
    assert "diverged  validation auc -" in report
    assert not (found.folder / last.run).exists()


def test_search_of_which_all_trials_diverge_is_an_error(searched: ConfigOf, ranks: Ranks) -> None:
    config = searched({"train.learning_rate": {"low": 1e29, "high": 1e30}}, trials=2)
    for _ in range(2):
        with pytest.raises(TrainError, match=r"all 2 trials diverged; search lower values of tra"):
            run(config, ranks)


def test_test_rows_are_not_looked_at(searched: ConfigOf, ranks: Ranks, prepared_root: Path) -> None:
    config = searched(RATES, trials=2)
    with_test, _ = run(config, ranks)
    shutil.rmtree(config.models_root)
    shutil.rmtree(prepared_root / "features" / "split=test")
    without, _ = run(config, ranks)
    assert by_number(without) == by_number(with_test)


def epochs(*aucs: float) -> tuple[Epoch, ...]:
    return tuple(Epoch(n, 0.5, metrics_of(auc=auc), 1.0) for n, auc in enumerate(aucs, 1))


@pytest.mark.parametrize("pruner", ["median", "none"])
def test_trials_below_the_median_are_pruned(
    searched: ConfigOf, tmp_path: Path, pruner: str
) -> None:
    config = searched(RATES, pruner=pruner)
    assert config.tune is not None
    (tmp_path / "search" / "afm").mkdir(parents=True)
    book = Book(tmp_path / "search", config, config.tune)
    second = []
    for number in range(1, 6):
        assert json.loads(book.propose())[0] == number
        curves = epochs(0.5, 0.5 + number / 100, 0.6 + number / 100)
        assert not any(book.is_hopeless(curves[:n]) for n in (1, 2))  # too few to judge by
        book.record("finished", curves, 1.0, f"afm/{number}")
        second.append(curves[1].validation.auc)
    median = statistics.median(second)

    book.propose()
    assert not book.is_hopeless(epochs(0.1))  # never after one epoch
    assert not book.is_hopeless(epochs(0.1, median))
    book.record("finished", epochs(0.1, median), 1.0, "afm/6")
    book.propose()
    curves = epochs(0.1, median - 1e-3)
    assert book.is_hopeless(curves) == (pruner == "median")
    trial = book.record("pruned", curves, 1.0, "afm/7")
    assert (trial.number, trial.state, trial.best_epoch, trial.epochs) == (7, "pruned", 2, 2)
    assert book.trials[-1] == trial
    assert [t.number for t in book.trials] == [5, 4, 3, 2, 1, 6, 7]

    # Of a trial that is gone on with, epochs that were judged before are judged alike.
    Book(tmp_path / "search", config, config.tune)
    book.propose()
    again = Book(tmp_path / "search", config, config.tune)
    again.propose()
    assert again.is_hopeless(epochs(0.1, median - 1e-3, 0.9)) == (pruner == "median")


def test_losses_are_minimised(searched: ConfigOf, tmp_path: Path) -> None:
    config = searched(RATES, train={"stop_on": "log_loss"})
    assert config.tune is not None
    (tmp_path / "search" / "afm").mkdir(parents=True)
    book = Book(tmp_path / "search", config, config.tune)
    for number, loss in enumerate((0.6, 0.4, 0.5), 1):
        book.propose()
        curves = (Epoch(1, 0.5, metrics_of(log_loss=loss), 1.0),)
        book.record("finished", curves, 1.0, f"afm/{number}")
    assert [t.number for t in book.trials] == [2, 3, 1]
    assert table(book.trials, "log_loss").splitlines()[1].split()[:6] == [
        *("2", "finished", "0.4000", "1", "of", "1")
    ]


@pytest.mark.parametrize(
    ("key", "values", "made"),
    [
        ("train.learning_rate", {"low": 1, "high": 2}, FloatDistribution(1, 2)),
        (
            "train.learning_rate",
            {"low": 0.1, "high": 1, "log": True},
            FloatDistribution(0.1, 1, True),
        ),
        (
            "model.dropout",
            {"low": 0, "high": 0.5, "step": 0.1},
            FloatDistribution(0, 0.5, step=0.1),
        ),
        ("train.epochs", {"low": 1, "high": 8, "log": True}, IntDistribution(1, 8, True)),
        (
            "train.batch_size",
            {"low": 64, "high": 256, "step": 64},
            IntDistribution(64, 256, step=64),
        ),
        ("train.clip_norm", {"low": 1, "high": 2}, FloatDistribution(1, 2)),
        ("train.schedule.warmup", {"low": 0, "high": 90}, IntDistribution(0, 90)),
        ("train.schedule.warmup", {"low": 0, "high": 0.5}, FloatDistribution(0, 0.5)),
        ("model.pretrained", {"choices": [None, "fm"]}, CategoricalDistribution((None, "fm"))),
    ],
)
def test_range_of_a_key(key: str, values: dict[str, Any], made: object) -> None:
    assert distribution(key, Range.model_validate(values)) == made


def test_trials_start_from_the_fm_of_the_pipeline(searched: ConfigOf, tmp_path: Path) -> None:
    config = searched({"model.pretrained": {"choices": [None, "fm"]}})
    trial = config_of(config, {"model.pretrained": "fm"}, tmp_path, 3)
    assert trial.model.pretrained == str(Path(config.models_root).resolve() / "fm" / "latest")
    assert trial.models_root == str(tmp_path)
    assert (trial.train.run or "").startswith("trial_3_")
