"""The learning rate of a step, which epoch is the best, and when training ends.

All follow from the epochs so far and the number of the step alone, so that a run that is resumed
needs nothing more to go on as if it had not been interrupted.
"""

from collections.abc import Sequence

from afm.artifact import Epoch
from afm.metrics import Metrics
from conf.training import StopOn, TrainConfig


def quality(metrics: Metrics, stop_on: StopOn) -> float:
    """A number that is greater for better metrics.

    Args:
        metrics: Metrics of the validation rows.
        stop_on: Which of them counts.

    Returns:
        The AUC, or minus the log loss or the RMSE.
    """
    value: float = getattr(metrics, stop_on)
    return value if stop_on == "auc" else -value


def best_epoch(curves: Sequence[Epoch], stop_on: StopOn, start: Metrics | None = None) -> int:
    """Number of the epoch with the best validation metric, the first of equals.

    Args:
        curves: The epochs so far, at least one.
        stop_on: The metric.
        start: Metrics of the weights before the first epoch, if they count.

    Returns:
        Its number, from 1; or 0 for the start.
    """
    qualities = {epoch.number: quality(epoch.validation, stop_on) for epoch in curves}
    if start is not None:
        qualities = {0: quality(start, stop_on)} | qualities
    return max(qualities, key=qualities.__getitem__)


def is_over(curves: Sequence[Epoch], settings: TrainConfig, start: Metrics | None = None) -> bool:
    """Whether training ends here: no epochs left, or too many without a better one.

    Args:
        curves: The epochs so far.
        settings: The ``train`` section.
        start: As in :func:`best_epoch`.

    Returns:
        Whether it does.
    """
    if not curves:
        return False
    done = len(curves)
    waited = done - best_epoch(curves, settings.stop_on, start)
    return done >= settings.epochs or waited >= settings.patience


def learning_rate(
    settings: TrainConfig, curves: Sequence[Epoch], step: int, steps_per_epoch: int
) -> float:
    """The learning rate of a step.

    It rises in a straight line over the warm-up, and is multiplied with ``factor`` whenever
    validation has not improved for ``patience`` epochs.

    Args:
        settings: The ``train`` section.
        curves: The epochs that have ended before the step.
        step: Steps taken before it, since training began.
        steps_per_epoch: Steps of an epoch.

    Returns:
        The learning rate.
    """
    schedule, rate = settings.schedule, settings.learning_rate
    warmup: float = schedule.warmup
    if isinstance(warmup, float):
        warmup = round(warmup * settings.epochs * steps_per_epoch)
    if step < warmup:
        rate *= (step + 1) / warmup
    if schedule.plateau is not None:
        values = [quality(epoch.validation, settings.stop_on) for epoch in curves]
        rate *= schedule.plateau.factor ** reductions(values, schedule.plateau.patience)
    return rate


def reductions(values: Sequence[float], patience: int) -> int:
    """How often a learning rate has been reduced on a plateau.

    Args:
        values: The quality of each epoch so far.
        patience: Epochs without a better one until the next reduction.

    Returns:
        As often as :class:`torch.optim.lr_scheduler.ReduceLROnPlateau` has with a threshold of 0
        and a patience of one less, since it counts the epochs that it lets pass.
    """
    best, waited, reduced = float("-inf"), 0, 0
    for value in values:
        waited = 0 if value > best else waited + 1
        best = max(best, value)
        if waited == patience:
            waited, reduced = 0, reduced + 1
    return reduced
