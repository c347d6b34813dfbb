"""What a training run tells TensorBoard or MLflow, if `train.logs` asks for it.

The libraries are imported only then. What is logged follows from the learning curves, which the
checkpoint keeps: so a run that was killed goes on in the same log, where each epoch stands once.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from afm.artifact import Epoch, Manifest
from afm.errors import TrainError
from afm.run import Plan
from afm.schedule import learning_rate
from conf.schema import Config
from conf.secrets import without_secrets

Write = Callable[[Path], object]
"""Writes the files of the finished run into a folder."""


class Log(Protocol):
    """A log of one run."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Logs the figures of an epoch, and sees to it that they stay if the process is killed."""

    def finish(self, manifest: Manifest, write: Write) -> None:
        """Logs that the run is finished, and what came out."""

    def close(self, error: BaseException | None) -> None:
        """Ends the log for this process: after the run, or because of an error."""


class Logs:
    """The logs of a run.

    Args:
        logs: Each of them.
        plan: The run.
    """

    def __init__(self, logs: Sequence[Log], plan: Plan) -> None:
        self._logs, self._plan = logs, plan

    def epoch(self, curves: Sequence[Epoch]) -> None:
        """Logs an epoch.

        Args:
            curves: The epochs up to it.
        """
        for log in self._logs:
            log.epoch(len(curves), figures(self._plan, curves))

    def finish(self, manifest: Manifest, write: Write) -> None:
        """Logs that the run is finished.

        Args:
            manifest: What its folder is about to have, but for the hash of the weights.
            write: Writes all that its folder is about to have, elsewhere.
        """
        for log in self._logs:
            log.finish(manifest, write)


_OPENED_BY = {  # module, and the package that it needs
    "tensorboard": ("afm.tensorboard_log", "tensorboard"),
    "mlflow": ("afm.mlflow_log", "mlflow-skinny"),
}


@contextmanager
def open_logs(names: Sequence[str], plan: Plan, curves: Sequence[Epoch]) -> Iterator[Logs]:
    """Opens the logs of a run, or goes on with them.

    Args:
        names: Which ones, as in ``train.logs``; none on ranks that do not lead.
        plan: The run.
        curves: Its epochs so far, if it is gone on with.

    Yields:
        The logs.

    Raises:
        TrainError: A library is not there, or a log cannot be opened.
    """
    so_far = [figures(plan, curves[:number]) for number in range(1, len(curves) + 1)]
    with ExitStack() as stack:
        logs = []
        for name in names:
            module, package = _OPENED_BY[name]
            try:
                opener: Any = import_module(module)
            except ImportError as error:
                raise TrainError(
                    f"train.logs: {name} needs the package {package} ({error}). "
                    f"Install it (pip install {package}), or leave {name} out"
                ) from None
            log: Log = opener.open_log(plan, so_far)
            logs.append(log)
            stack.push(lambda _, error, __, log=log: log.close(error))
        yield Logs(logs, plan)


def figures(plan: Plan, curves: Sequence[Epoch]) -> dict[str, float]:
    """What is logged of an epoch.

    Args:
        plan: The run.
        curves: The epochs up to it.

    Returns:
        Numbers by name. The learning rate is that of the epoch's last step; times are shares of
        1, means over the ranks.
    """
    epoch, settings, steps = curves[-1], plan.config.train, plan.train.steps
    waiting, communicating = (sum(s) / max(len(s), 1) for s in (epoch.time.data, epoch.time.ranks))
    return {
        "train/loss": epoch.train_loss,
        "train/learning_rate": learning_rate(
            settings, curves[:-1], epoch.number * steps - 1, steps
        ),
        "train/samples_per_second": epoch.samples_per_second,
        "train/waiting_for_data": waiting,
        "train/communicating": communicating,
        **{f"validation/{name}": value for name, value in asdict(epoch.validation).items()},
    }


def parameters(config: Config) -> dict[str, str | int | float | bool]:
    """A configuration as flat names and values.

    Args:
        config: The configuration.

    Returns:
        All of ``model`` and ``train``, and of the rest what is not left at its default, without
        secrets: values by dotted key.
    """
    data = without_secrets(config).model_dump(mode="json", exclude_defaults=True)
    return _flat(
        data | {name: getattr(config, name).model_dump(mode="json") for name in ("model", "train")}
    )


def _flat(data: Mapping[str, Any]) -> dict[str, str | int | float | bool]:
    flat: dict[str, str | int | float | bool] = {}
    for key, value in data.items():
        if isinstance(value, list) and any(isinstance(inner, dict) for inner in value):
            value = {str(number): inner for number, inner in enumerate(value)}
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": inner for name, inner in _flat(value).items()}
        else:
            flat[key] = value if isinstance(value, str | int | float) else json.dumps(value)
    return flat
