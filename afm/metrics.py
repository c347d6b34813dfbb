"""Accuracy, AUC, F1, log loss and RMSE, exact and mergeable.

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
from afm.link import to_probability, to_score
from conf.schema import Loss

LEAST_PROBABILITY = 1e-6
"""Of a score that is no logit, for the log loss: 0 would make it infinite."""


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
    auc: float
    f1: float
    log_loss: float
    rows: float
    """Sum of the rows' weights: their number, unless they are weighted."""
    positive_rate: float
    rmse: float
    """Root of the mean squared error to targets of -1 and 1, as in the AFM paper. The estimate is
    the score of a model trained for that (``train.loss: squared``), and else 2p - 1."""


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


def compute(state: State, loss: Loss = "log", threshold: float = 0.5) -> Metrics:
    """Computes the metrics.

    Args:
        state: The rows, counted by score.
        loss: What the scores were trained for.
        threshold: Probability from which on a row counts as predicted positive.

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
    # Scores are compared: a probability above 1 - 2⁻⁵³ would round to 1.
    hit = z >= to_score(threshold, loss)
    true_positives = float(state.positives[hit].sum())
    false_positives = float(state.negatives[hit].sum())
    true_negatives = negatives - false_positives
    return Metrics(
        accuracy=(true_positives + true_negatives) / rows,
        auc=float(wins / (positives * negatives)),
        f1=2 * true_positives / (true_positives + false_positives + positives),
        log_loss=float(losses.sum() / rows),
        rows=rows,
        positive_rate=positives / rows,
        rmse=float(np.sqrt(squares.sum() / rows)),
    )


def _sums(index: NDArray[np.int64], values: ArrayLike, size: int) -> NDArray[np.float64]:
    return np.bincount(index, np.asarray(values, np.float64), size).astype(np.float64)
