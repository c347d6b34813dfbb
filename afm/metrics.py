"""Accuracy, AUC, F1 and log loss, exact and mergeable.

All of them depend on the rows only through a small table: the distinct scores, and how many
positive and negative rows have each. Tables of parts of the rows add up, so N ranks (or a Spark
group-by) give what one process gives. Scores are logits: log loss stays exact where probabilities
would round to 0 or 1.

Letters: B rows, D distinct scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from afm.errors import MetricError


@dataclass(frozen=True)
class State:
    """How many rows of each class have each score."""

    logits: NDArray[np.float32]
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


def state_of(logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None) -> State:
    """Counts rows by score.

    Args:
        logits: Scores (B,), in any order.
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
    return state_from_counts(logits, w * y, w * (1.0 - y))


def state_from_counts(logits: ArrayLike, positives: ArrayLike, negatives: ArrayLike) -> State:
    """Makes a state of rows that are counted already, as by ``GROUP BY logit``.

    Args:
        logits: Scores (B,), in any order; one may come several times.
        positives: Rows with label 1 that have it (B,).
        negatives: Rows with label 0 that have it (B,).

    Returns:
        Their state.

    Raises:
        MetricError: A score is not a finite number.
    """
    scores = np.asarray(logits, np.float32)
    bad = int(np.sum(~np.isfinite(scores)))
    if bad:
        raise MetricError(
            f"{bad} of {scores.size} scores are not finite: the model has diverged. "
            "Lower train.learning_rate"
        )
    distinct, index = np.unique(scores, return_inverse=True)  # (D,), (B,)
    return State(
        logits=distinct,
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
        np.concatenate([s.logits for s in states]),
        np.concatenate([s.positives for s in states]),
        np.concatenate([s.negatives for s in states]),
    )


def compute(state: State, threshold: float = 0.5) -> Metrics:
    """Computes the metrics.

    Args:
        state: The rows, counted by score.
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
    z = state.logits.astype(np.float64)
    below = np.cumsum(state.negatives) - state.negatives  # negatives with a smaller score (D,)
    wins = np.sum(state.positives * (below + 0.5 * state.negatives))
    losses = state.positives * np.logaddexp(0.0, -z) + state.negatives * np.logaddexp(0.0, z)
    # The comparison in logits: a probability above 1 - 2⁻⁵³ would round to 1.
    hit = z >= np.log(threshold / (1.0 - threshold))
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
    )


def _sums(index: NDArray[np.int64], values: ArrayLike, size: int) -> NDArray[np.float64]:
    return np.bincount(index, np.asarray(values, np.float64), size).astype(np.float64)
