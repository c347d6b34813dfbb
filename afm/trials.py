"""A trial of a search: its configuration, and how it is shown."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import yaml

from afm.artifact import LATEST
from afm.metrics import Metrics
from afm.pretrained import NAMES
from conf.names import digest
from conf.ranges import with_values
from conf.schema import Config
from conf.secrets import MASK, without_secrets
from conf.section import Scalar

State = Literal["finished", "pruned", "diverged"]
Values = dict[str, Scalar | None]


@dataclass(frozen=True)
class Trial:
    """A trial that has ended."""

    number: int
    """From 1."""
    state: State
    values: Values
    """By dotted key."""
    metrics: Metrics | None
    """Of its best epoch on the validation rows; None if it ended in the first."""
    best_epoch: int
    epochs: int
    seconds: float
    """Since it was begun, or gone on with for the last time."""
    run: str
    """Its folder within that of the search."""
    same_as: int | None = None
    """The earlier trial with the same values, whose result it takes."""


def config_of(config: Config, values: Values, folder: Path, number: int) -> Config:
    """The configuration of a trial.

    Args:
        config: The pipeline.
        values: The values that it tries.
        folder: The search's folder, where its models go.
        number: Its number.

    Returns:
        The pipeline with these values. The run's name follows from number and values.
    """
    run = f"trial_{number}_{digest(json.dumps(values))[:8]}"
    own: Values = {"train.run": run, "tables.models": str(folder), "tune": None}
    trial = with_values(config, values | own)
    start = trial.model.pretrained
    if start is not None and start in NAMES:  # of the pipeline, not of the search
        latest = (Path(config.models_root) / start / LATEST).resolve()
        trial = with_values(trial, {"model.pretrained": str(latest)})
    return trial


def best_yaml(config: Config, trial: Trial, trials: int) -> str:
    """The pipeline with a trial's values, as a file for all jobs.

    Args:
        config: The pipeline.
        trial: The trial.
        trials: How many there were.

    Returns:
        What the user's file and command line gave, with these values, and without the section
        ``tune``, a name for the run, and secrets.
    """
    kept = without_secrets(config)
    data = with_values(kept, trial.values).model_dump(mode="json", exclude_unset=True)
    data.pop("tune")
    data["train"] = {k: v for k, v in data.get("train", {}).items() if k != "run"}
    head = (
        f"# The pipeline with the values of trial {trial.number}, the best of {trials};\n"
        "# comments of the file that was searched are not kept.\n"
        f"# Validation {config.train.stop_on}: {_figure(trial, config.train.stop_on)}\n"
    )
    if kept != config:
        head += f"# Passwords are left out ({MASK}): give them as key=value.\n"
    return head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)


def line(trial: Trial, trials: int, metric: str) -> str:
    """A trial in a line, for people to read.

    Args:
        trial: The trial.
        trials: How many are to be made.
        metric: The validation metric to show.

    Returns:
        The line.
    """
    values = "  ".join(f"{key}={_short(value)}" for key, value in trial.values.items())
    return (
        f"trial {trial.number}/{trials}  {trial.state}  validation {metric} "
        f"{_figure(trial, metric)}  best epoch {trial.best_epoch} of {trial.epochs}  "
        f"{trial.seconds:.0f} s  {values}"
    )


def table(trials: Sequence[Trial], metric: str) -> str:
    """Trials as a table, for people to read.

    Args:
        trials: The trials, in the order to show.
        metric: The validation metric to show.

    Returns:
        Its lines.
    """
    keys = list(trials[0].values)
    rows = [["trial", "state", metric, "best epoch", "seconds", *keys]]
    for trial in trials:
        state = trial.state if trial.same_as is None else f"as {trial.same_as}"
        epochs = f"{trial.best_epoch} of {trial.epochs}"
        row = [str(trial.number), state, _figure(trial, metric), epochs, f"{trial.seconds:.0f}"]
        rows.append(row + [_short(trial.values[key]) for key in keys])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


def write_csv(path: Path, trials: Sequence[Trial]) -> None:
    """Writes trials with all of their validation metrics.

    Args:
        path: The file.
        trials: The trials, in the order to write.
    """
    names = [field.name for field in fields(Metrics)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        about = ["trial", "state", "same_as", "run", "best_epoch", "epochs", "seconds"]
        writer.writerow([*about, *trials[0].values, *names])
        for t in trials:
            metrics = [getattr(t.metrics, name, "") for name in names]
            row = [t.number, t.state, t.same_as, t.run, t.best_epoch, t.epochs, t.seconds]
            writer.writerow([*row, *t.values.values(), *metrics])


def _figure(trial: Trial, metric: str) -> str:
    return "-" if trial.metrics is None else f"{getattr(trial.metrics, metric):.4f}"


def _short(value: Scalar | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
