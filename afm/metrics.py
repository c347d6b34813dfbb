"""Accuracy, AUC, F1, log loss, RMSE and calibration error, exact and mergeable.

All of them depend on the rows only through a small table: the distinct scores, and how many
positive and negative rows have each. Tables of parts of the rows add up, so N ranks (or a Spark
group-by) give what one process gives. Scores are not turned into probabilities first: the log loss
of logits stays exact where these would round to 0 or 1.

Letters: B rows, D distinct scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afm.errors import MetricError
from afm.link import to_probability
from conf.training import Loss

LEAST_PROBABILITY = 1e-6
"""Of a score that is no logit, for the log loss: 0 would make it infinite."""
BINS = 10
"""Of the calibration error: as many rows in each."""


@dataclass(frozen=True)
class State:
    """How many rows of each class have each score."""

    scores: NDArray[np.float32]
    """Distinct scores, rising (D,)."""
    positives: NDArray[np.float64]
    """Weight of the rows with label 1 (D,)."""
    negatives: NDArray[np.float64]
    """Weight of the rows with label 0 (D,)."""


@dataclass(frozen=True)
class Metrics:
    """How good scores are."""

    accuracy: float
    """Where rows with a probability of at least a half are predicted positive; ``f1`` likewise."""
    auc: float
    f1: float
    log_loss: float
    rows: float
    """Sum of the rows' weights: their number, unless they are weighted."""
    positive_rate: float
    rmse: float
    """Root of the mean squared error to targets of -1 and 1, as in the AFM paper. The estimate is
    the score of a model trained for that (``train.loss: squared``), and else 2p - 1."""
    calibration_error: float
    """Expected calibration error: how far mean probability and share of positive rows lie apart, as
    a mean over ten bins of neighbouring scores with a tenth of the rows each."""
    threshold: float
    """A score; ``accuracy_tuned`` and ``f1_tuned`` predict rows of at least that to be positive. It
    is the one with the best F1 on the validation rows, for the test rows too."""
    accuracy_tuned: float
    f1_tuned: float


def state_of(scores: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> State:
    """Counts rows by score.

    Args:
        scores: Scores (B,), in any order.
        labels: 0 or 1 (B,).
        weights: What each row counts (B,); 1 if left out.

    Returns:
        Their state.

    Raises:
        MetricError: A score is not a finite number.

    >>> state_of([0.5, -1.0, 0.5], [1, 0, 0]).negatives
    array([1., 1.])
    """
    y = np.asarray(labels, np.float64)
    w = np.ones_like(y) if weights is None else np.asarray(weights, np.float64)
    return state_from_counts(scores, w * y, w * (1.0 - y))


def state_from_counts(scores: ArrayLike, positives: ArrayLike, negatives: ArrayLike) -> State:
    """Makes a state of rows that are counted already, as by ``GROUP BY score``.

    Args:
        scores: Scores (B,), in any order; one may come several times.
        positives: Rows with label 1 that have it (B,).
        negatives: Rows with label 0 that have it (B,).

    Returns:
        Their state.

    Raises:
        MetricError: A score is not a finite number.
    """
    array = np.asarray(scores, np.float32)
    bad = int(np.sum(~np.isfinite(array)))
    if bad:
        raise MetricError(
            f"{bad} of {array.size} scores are not finite: the model has diverged. "
            "Lower train.learning_rate"
        )
    distinct, index = np.unique(array, return_inverse=True)  # (D,), (B,)
    return State(
        scores=distinct,
        positives=_sums(index, positives, distinct.size),
        negatives=_sums(index, negatives, distinct.size),
    )


def merge(states: Sequence[State]) -> State:
    """Adds up the states of parts of the rows.

    Args:
        states: One state per part, in any order.

    Returns:
        The state of all rows.
    """
    return state_from_counts(
        np.concatenate([s.scores for s in states]),
        np.concatenate([s.positives for s in states]),
        np.concatenate([s.negatives for s in states]),
    )


def compute(state: State, loss: Loss = "log", threshold: float | None = None) -> Metrics:
    """Computes the metrics.

    Args:
        state: The rows, counted by score.
        loss: What the scores were trained for.
        threshold: Score from which on a row counts as predicted positive in ``accuracy_tuned`` and
            ``f1_tuned``; the one with the best F1 on these rows if left out.

    Returns:
        The metrics. Rows with equal scores count half in the AUC, whatever their order.

    Raises:
        MetricError: There are no rows, or all have the same label: the AUC is not defined then.

    >>> compute(state_of([2.0, 1.0, -1.0, 1.0], [1, 1, 0, 0])).auc
    0.875
    """
    positives, negatives = float(state.positives.sum()), float(state.negatives.sum())
    rows = positives + negatives
    if not rows:
        raise MetricError("there are no rows to measure; give the split a larger share")
    if not positives or not negatives:
        raise MetricError(
            f"all {rows:g} rows have the label {int(positives > 0)}, so AUC is not defined; "
            "check `label`, or give the split more rows"
        )
    z = state.scores.astype(np.float64)
    probability = to_probability(z, loss)
    below = np.cumsum(state.negatives) - state.negatives  # negatives with a smaller score (D,)
    wins = np.sum(state.positives * (below + 0.5 * state.negatives))
    if loss == "log":
        of_positives, of_negatives = np.logaddexp(0.0, -z), np.logaddexp(0.0, z)
    else:
        cut = np.clip(probability, LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
        of_positives, of_negatives = -np.log(cut), -np.log1p(-cut)
    losses = state.positives * of_positives + state.negatives * of_negatives
    estimate = z if loss == "squared" else 2.0 * probability - 1.0
    squares = state.positives * (estimate - 1.0) ** 2 + state.negatives * (estimate + 1.0) ** 2
    threshold = best_threshold(state) if threshold is None else threshold
    accuracy, f1 = _decided(state, 0.0)
    accuracy_tuned, f1_tuned = _decided(state, threshold)
    means, shares = calibration(state, loss)
    return Metrics(
        accuracy=accuracy,
        auc=float(wins / (positives * negatives)),
        f1=f1,
        log_loss=float(losses.sum() / rows),
        rows=rows,
        positive_rate=positives / rows,
        rmse=float(np.sqrt(squares.sum() / rows)),
        calibration_error=float(np.abs(shares - means).mean()),
        threshold=threshold,
        accuracy_tuned=accuracy_tuned,
        f1_tuned=f1_tuned,
    )


def best_threshold(state: State) -> float:
    """The threshold with the best F1: halfway between two scores, or the smallest one.

    Args:
        state: The rows, at least one of them positive.

    Returns:
        A score; rows of at least that are predicted positive.

    >>> best_threshold(state_of([2.0, 1.0, -1.0, -3.0], [1, 1, 0, 0]))
    0.0
    """
    found = np.cumsum(state.positives[::-1])[::-1]  # positives of at least each score (D,)
    predicted = np.cumsum((state.positives + state.negatives)[::-1])[::-1]  # (D,)
    best = int(np.argmax(2 * found / (predicted + found[0])))
    below = state.scores[max(best - 1, 0)]
    return (float(below) + float(state.scores[best])) / 2


def calibration(
    state: State, loss: Loss = "log"
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Compares mean probabilities with shares of positive rows, in bins of neighbouring scores.

    Rows of one score that fall into two bins are shared out in proportion, positive and negative
    alike, so that no order of the rows matters.

    Args:
        state: The rows, at least one.
        loss: What the scores were trained for.

    Returns:
        Mean probability and share of positive rows of each bin (BINS,), a tenth of the rows each.

    Source: Naeini et al., "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI
        2015, with bins of equal mass.
    """
    mass = state.positives + state.negatives  # (D,)
    probability = to_probability(state.scores, loss)  # (D,)
    rows, observed, expected = (
        np.append(0.0, np.cumsum(each)) for each in (mass, state.positives, mass * probability)
    )
    edges = np.linspace(0.0, rows[-1], BINS + 1)
    means, shares = (
        np.diff(np.interp(edges, rows, each)) / (rows[-1] / BINS) for each in (expected, observed)
    )
    return means, shares


def _decided(state: State, threshold: float) -> tuple[float, float]:
    """Accuracy and F1 where scores from a threshold on are predicted positive."""
    hit = state.scores.astype(np.float64) >= threshold
    positives, negatives = float(state.positives.sum()), float(state.negatives.sum())
    true_positives = float(state.positives[hit].sum())
    false_positives = float(state.negatives[hit].sum())
    right = true_positives + negatives - false_positives
    f1 = 2 * true_positives / (true_positives + false_positives + positives)
    return right / (positives + negatives), f1


def _sums(index: NDArray[np.int64], values: ArrayLike, size: int) -> NDArray[np.float64]:
    return np.bincount(index, np.asarray(values, np.float64), size).astype(np.float64)
