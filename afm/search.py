"""Search by Optuna for the values of ``tune.ranges`` with the best validation metric.

::

    <models root>/tune/<identity>/
        journal.log             what Optuna knows; written with every step
        trials.csv              the trials, the best one first
        best.yaml               the pipeline with the best trial's values
        <model>/<run>/          the model of the best trial; those of others are removed

What a trial tries follows from the seed, its number and the trials that ended before it. So a
search that was killed goes on as if it had not been: the trial that was under way is tried again,
with the same values, from its last checkpoint. Test rows are not read.
"""

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.pruners import MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from afm.artifact import LATEST, Epoch, Manifest, point_latest, read_curves, replace_file
from afm.errors import DivergedError, EndedEarly, TrainError
from afm.metrics import Metrics
from afm.progress import Progress, Tell, tell_nobody
from afm.ranks import Ranks
from afm.run import make_plan
from afm.schedule import best_epoch, quality
from afm.train import train
from afm.trials import State, Trial, Values, best_yaml, config_of, line, write_csv
from conf.names import digest
from conf.ranges import value_at
from conf.schema import Config
from conf.training import TUNABLE, Range, TuneConfig

JOURNAL, TABLE, BEST = "journal.log", "trials.csv", "best.yaml"
TRIALS_TO_JUDGE_BY, FIRST_JUDGED_EPOCH = 5, 2
"""Trials that have to finish before any is pruned, and the epoch after which one may be."""


@dataclass(frozen=True)
class Found:
    """What a search ends with."""

    folder: Path
    trials: tuple[Trial, ...]
    """The best one first."""


def search(
    config: Config,
    tune: TuneConfig,
    ranks: Ranks,
    stream: TextIO,
    device: torch.device,
    tell: Tell = tell_nobody,
) -> Found | None:
    """Makes the trials that a search has not made yet.

    Args:
        config: The pipeline.
        tune: Its section ``tune``.
        ranks: The processes that train each trial together.
        stream: Where the leader reports.
        device: Where models are kept.
        tell: Called with the events of a run that trains.

    Returns:
        What was found; None on ranks that do not lead.

    Raises:
        TableError: The prepared tables cannot be read.
        TrainError: They cannot be learned from, or all trials diverged.
        ArtifactError: ``model.pretrained`` names no run that a model can start from.
    """
    with ranks.leader_first():
        plan = make_plan(config, ranks.rank, ranks.size)
    identity = digest(plan.identity, tune.model_dump_json(exclude={"trials"}))
    folder = Path(config.models_root).resolve() / "tune" / identity
    book = Book(folder, config, tune) if ranks.leads else None
    if book and (before := len(book.trials)):
        Progress(stream, tell=tell).note(
            f"search {identity} has made its {before} trials already"
            if before >= tune.trials
            else f"going on with search {identity} after trial {before} of {tune.trials}"
        )
    while text := ranks.share(book.propose() if book else ""):
        number, values = json.loads(text)
        seen: tuple[Epoch, ...] = ()

        def watch(curves: tuple[Epoch, ...]) -> None:
            nonlocal seen
            seen = curves
            if ranks.share("pruned" if book and book.is_hopeless(curves) else ""):
                raise EndedEarly

        trial_config = config_of(config, values, folder, number)
        progress = Progress(stream, part_of=f"trial {number}/{tune.trials}", tell=tell)
        state: State = "finished"
        begin, manifest = time.monotonic(), None
        try:
            manifest = train(trial_config, ranks, progress, device, watch)
        except EndedEarly:
            state = "pruned"
        except DivergedError:
            state = "diverged"
        if book:
            run = Path(trial_config.model.name) / str(trial_config.train.run)
            if state == "finished":
                seen = read_curves(folder / run)
            trial = book.record(state, seen, time.monotonic() - begin, str(run), manifest)
            is_best = book.trials[0] == trial
            progress.note(
                line(trial, tune.trials, config.train.stop_on) + ("  best" if is_best else "")
            )
    if book is None:
        return None
    if book.trials[0].state != "finished":
        raise TrainError(
            f"all {len(book.trials)} trials diverged; search lower values of train.learning_rate"
        )
    return Found(folder, book.trials)


class Book:
    """What is known of the trials of a search: Optuna's study, and the files made from it.

    Args:
        folder: The search's folder.
        config: The pipeline.
        tune: Its section ``tune``.
    """

    def __init__(self, folder: Path, config: Config, tune: TuneConfig) -> None:
        self._folder, self._config, self._tune = folder, config, tune
        self._metric = config.train.stop_on
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder.mkdir(parents=True, exist_ok=True)
        _drop_torn_line(folder / JOURNAL)
        self._study = optuna.create_study(
            study_name=folder.name,
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            direction="maximize" if self._metric == "auc" else "minimize",
            pruner=NopPruner()
            if tune.pruner == "none"
            else MedianPruner(TRIALS_TO_JUDGE_BY, n_warmup_steps=FIRST_JUDGED_EPOCH),
            load_if_exists=True,
        )
        for killed in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            self._study.tell(killed.number, state=TrialState.FAIL)  # its values are drawn again
        self._distributions = {key: distribution(key, r) for key, r in tune.ranges.items()}
        self._trial: optuna.Trial
        self._reported = 0
        self._publish()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that have ended, the best first, those that did not finish last."""
        trials = [_trial_of(frozen) for frozen in self._ended()]

        def rank(trial: Trial) -> tuple[bool, float, int]:
            good = float("-inf") if trial.metrics is None else quality(trial.metrics, self._metric)
            return trial.state != "finished", -good, trial.number

        return tuple(sorted(trials, key=rank))

    def propose(self) -> str:
        """Draws the values of the next trial; trials whose result is known are ended at once.

        Returns:
            Its number and values as JSON; nothing if there are enough trials.
        """
        while (number := len(ended := self._ended()) + 1) <= self._tune.trials:
            seed = np.random.SeedSequence((self._tune.seed, number)).generate_state(1)
            self._study.sampler = TPESampler(seed=int(seed[0]))
            waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if number == 1 and not waiting:  # the first trial is what the file says
                self._study.enqueue_trial(configured(self._config, self._tune.ranges))
            self._trial, self._reported = self._study.ask(self._distributions), 0
            same = [frozen for frozen in ended if frozen.params == self._trial.params]
            if not same:
                return json.dumps([number, self._trial.params])
            for step, value in same[0].intermediate_values.items():
                self._trial.report(value, step)
            first = _trial_of(same[0])
            about = _about(first) | {"number": number, "seconds": 0.0}
            self._end(about | {"same_as": first.number})
        return ""

    def is_hopeless(self, curves: Sequence[Epoch]) -> bool:
        """Whether the present trial is to be ended after these epochs."""
        for epoch in curves[self._reported :]:
            self._report(epoch)
            if self._trial.should_prune():
                return True
        return False

    def record(
        self,
        state: State,
        curves: Sequence[Epoch],
        seconds: float,
        run: str,
        manifest: Manifest | None = None,
    ) -> Trial:
        """Ends the present trial.

        Args:
            state: How it ended.
            curves: Its epochs.
            seconds: How long it took.
            run: Its folder within that of the search.
            manifest: That of its run, if it finished: the best epoch may be none of these.

        Returns:
            The trial.
        """
        for epoch in curves[self._reported :]:
            self._report(epoch)
        best, metrics = 0, None
        if manifest:
            best, metrics = manifest.best_epoch, asdict(manifest.validation)
        elif curves:
            best = best_epoch(curves, self._metric)
            metrics = asdict(curves[best - 1].validation)
        self._end(
            {
                "number": len(self._ended()) + 1,
                "state": state,
                "metrics": metrics,
                "best_epoch": best,
                "epochs": len(curves),
                "seconds": seconds,
                "run": run,
            }
        )
        return _trial_of(self._ended()[-1])

    def _report(self, epoch: Epoch) -> None:
        self._trial.report(getattr(epoch.validation, self._metric), epoch.number)
        self._reported = epoch.number

    def _end(self, about: Mapping[str, Any]) -> None:
        self._trial.set_user_attr("trial", dict(about))
        if about["state"] == "finished":
            self._study.tell(self._trial, about["metrics"][self._metric])
        else:
            self._study.tell(self._trial, state=TrialState.PRUNED)
        self._publish()

    def _ended(self) -> list[FrozenTrial]:
        """The trials of Optuna that count, in their order."""
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return self._study.get_trials(deepcopy=False, states=states)

    def _publish(self) -> None:
        """Writes the table and the best pipeline, and removes models that are of no use."""
        trials = self.trials
        if not trials:
            return
        replace_file(self._folder / TABLE, lambda path: write_csv(path, trials))
        best = trials[0]
        kept = best.run if best.state == "finished" else None
        for run in {trial.run for trial in trials} - {kept}:
            shutil.rmtree(self._folder / run, ignore_errors=True)
        for link in self._folder.glob(f"*/{LATEST}"):
            link.unlink()
        if kept:
            point_latest(self._folder / kept)
            text = best_yaml(self._config, best, len(trials))
            replace_file(self._folder / BEST, lambda path: path.write_text(text, encoding="utf-8"))


def distribution(key: str, values: Range) -> BaseDistribution:
    """A range as Optuna has it.

    Args:
        key: The dotted key that it is for.
        values: The range.

    Returns:
        Integers where the key takes only these, or where it takes both and the range names only
        these; else any numbers; or choices.
    """
    if values.low is None or values.high is None:
        return CategoricalDistribution(values.choices or ())
    numbers = (values.low, values.high, values.step)
    whole = int in TUNABLE[key] and not any(isinstance(number, float) for number in numbers)
    if whole:
        return IntDistribution(int(values.low), int(values.high), values.log, int(values.step or 1))
    return FloatDistribution(values.low, values.high, values.log, values.step)


def configured(config: Config, ranges: Mapping[str, Range]) -> Values:
    """The values that a file gives to the keys that are searched, where they lie in the ranges.

    Args:
        config: The pipeline.
        ranges: The ranges.

    Returns:
        Values by dotted key.
    """
    given: dict[str, Any] = {key: value_at(config, key) for key in ranges}
    return {key: value for key, value in given.items() if _holds(ranges[key], value)}


def _holds(values: Range, value: Any) -> bool:
    if values.low is None or values.high is None:
        return value in (values.choices or ())
    if not isinstance(value, int | float) or not values.low <= value <= values.high:
        return False
    steps = (value - values.low) / values.step if values.step else 0.0
    return abs(steps - round(steps)) < 1e-9


def _drop_torn_line(journal: Path) -> None:
    """Removes what was half written when a disk was full or a machine stopped; Optuna reads past it
    at first, but cannot once it has written more.
    """
    text = journal.read_bytes() if journal.exists() else b""
    if text and not text.endswith(b"\n"):
        os.truncate(journal, text.rfind(b"\n") + 1)


def _trial_of(frozen: FrozenTrial) -> Trial:
    about = dict(frozen.user_attrs["trial"])
    metrics = about.pop("metrics")
    return Trial(
        values=frozen.params, metrics=None if metrics is None else Metrics(**metrics), **about
    )


def _about(trial: Trial) -> dict[str, Any]:
    return {name: value for name, value in asdict(trial).items() if name != "values"}
