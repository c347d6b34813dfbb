"""How sure a difference between two models is, that were measured on the same rows.

Letters: m rows with label 1, n rows with label 0, B = m + n.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm.link import to_probability
from afm.metrics import LEAST_PROBABILITY
from conf.training import Loss

_Z = 1.959964
"""Of a 95 % interval."""


class Estimate(NamedTuple):
    """A number and how far chance may have moved it."""

    value: float
    error: float
    """Its standard error."""

    @property
    def low(self) -> float:
        """Start of the 95 % interval."""
        return self.value - _Z * self.error

    @property
    def high(self) -> float:
        """End of the 95 % interval."""
        return self.value + _Z * self.error


def auc(scores: NDArray[np.float32], labels: NDArray[np.int64]) -> Estimate:
    """The AUC of scores.

    Args:
        scores: Scores (B,).
        labels: 0 or 1 (B,), both of them there.

    Returns:
        The AUC, ties counted half.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    above, below = _placements(scores, labels)
    return Estimate(float(above.mean()), _standard_error(above, below))


def auc_difference(
    a: NDArray[np.float32], b: NDArray[np.float32], labels: NDArray[np.int64]
) -> Estimate:
    """How much larger the AUC of scores ``a`` is than that of ``b``, on the same rows.

    Args:
        a: Scores (B,).
        b: Scores of another model (B,).
        labels: 0 or 1 (B,), both of them there.

    Returns:
        The difference.

    Source: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988).
    """
    above, below = (
        x - y for x, y in zip(_placements(a, labels), _placements(b, labels), strict=True)
    )
    return Estimate(float(above.mean()), _standard_error(above, below))


def mean_difference(
    a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64] | None
) -> Estimate:
    """How much larger the mean of ``a`` is than that of ``b``, on the same rows.

    Args:
        a: A number per row (B,).
        b: Another one (B,).
        weights: What each row counts (B,); 1 if left out.

    Returns:
        The difference.
    """
    w = np.ones(len(a)) if weights is None else weights
    mean = float(np.average(a - b, weights=w))
    return Estimate(mean, float(np.sqrt(np.sum((w * (a - b - mean)) ** 2)) / w.sum()))


def row_losses(
    scores: NDArray[np.float32], labels: NDArray[np.int64], loss: Loss
) -> NDArray[np.float64]:
    """The log loss of each row, of which :func:`afm.metrics.compute` takes the mean.

    Args:
        scores: Scores (B,).
        labels: 0 or 1 (B,).
        loss: What the scores were trained for.

    Returns:
        Losses (B,).
    """
    z = scores.astype(np.float64)
    if loss == "log":
        losses: NDArray[np.float64] = np.logaddexp(0.0, np.where(labels == 1, -z, z))
        return losses
    p = np.clip(to_probability(z, loss), LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return -np.where(labels == 1, np.log(p), np.log1p(-p))


def _placements(
    scores: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of negatives below each positive row (m,), of positives above each negative (n,)."""
    is_positive = labels == 1
    positive, negative = np.sort(scores[is_positive]), np.sort(scores[~is_positive])
    above = _share_below(scores[is_positive], negative)
    below = 1.0 - _share_below(scores[~is_positive], positive)
    return above, below


def _share_below(scores: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float64]:
    """The share of sorted others that are smaller than each score, equal ones counted half."""
    ranks = np.searchsorted(others, scores, "left") + np.searchsorted(others, scores, "right")
    shares: NDArray[np.float64] = ranks / (2.0 * len(others))
    return shares


def _standard_error(above: NDArray[np.float64], below: NDArray[np.float64]) -> float:
    parts = [float(x.var(ddof=1)) / len(x) if len(x) > 1 else 0.0 for x in (above, below)]
    return float(np.sqrt(sum(parts)))
