"""Intervals against the bootstrap, AUC and losses against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from reporting.comparison import auc, auc_difference, mean_difference, row_losses


def rows(n: int = 600) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of two models that err alike, and labels; scores tie often."""
    random = np.random.default_rng(1)
    labels = (random.random(n) < 0.3).astype(np.int64)
    shared = labels + random.normal(0, 1.2, n)
    a, b = (np.round(shared + random.normal(0, s, n), 1) for s in (0.4, 0.7))
    return a.astype(np.float32), b.astype(np.float32), labels


def test_auc_against_scikit_learn() -> None:
    a, b, labels = rows()
    assert auc(a, labels).value == pytest.approx(roc_auc_score(labels, a))
    expected = roc_auc_score(labels, a) - roc_auc_score(labels, b)
    assert auc_difference(a, b, labels).value == pytest.approx(expected)


def test_errors_against_the_bootstrap() -> None:
    a, b, labels = rows()
    losses = [row_losses(x, labels, "log") for x in (a, b)]
    random = np.random.default_rng(2)
    found = []
    for _ in range(1500):
        some = random.integers(0, len(a), len(a))
        one, two = (roc_auc_score(labels[some], x[some]) for x in (a, b))
        found.append([one, one - two, (losses[0] - losses[1])[some].mean()])
    spread = np.std(found, axis=0)
    assert auc(a, labels).error == pytest.approx(spread[0], rel=0.08)
    assert auc_difference(a, b, labels).error == pytest.approx(spread[1], rel=0.08)
    assert mean_difference(*losses, None).error == pytest.approx(spread[2], rel=0.08)
    assert auc_difference(a, b, labels).error < auc(a, labels).error  # they err alike


def test_the_interval_has_a_95_percent_width() -> None:
    estimate = auc(*(rows()[k] for k in (0, 2)))
    assert estimate.high - estimate.low == pytest.approx(2 * 1.959964 * estimate.error)
    assert (estimate.high + estimate.low) / 2 == pytest.approx(estimate.value)


def test_losses_against_scikit_learn() -> None:
    a, _, labels = rows()
    logits = row_losses(a, labels, "log")
    assert logits.mean() == pytest.approx(log_loss(labels, 1 / (1 + np.exp(-a.astype(float)))))
    squared = row_losses(a, labels, "squared")
    probability = np.clip((1 + a.astype(float)) / 2, 1e-6, 1 - 1e-6)
    assert squared.mean() == pytest.approx(log_loss(labels, probability))


def test_weights_count_like_repeated_rows() -> None:
    a, b, _ = rows(50)
    weights = np.tile([1.0, 2.0], 25)
    repeated = [np.repeat(x.astype(float), weights.astype(int)) for x in (a, b)]
    weighted = mean_difference(a.astype(float), b.astype(float), weights)
    assert weighted.value == pytest.approx(np.mean(repeated[0] - repeated[1]))


def test_a_model_does_not_differ_from_itself() -> None:
    a, _, labels = rows()
    assert tuple(auc_difference(a, a, labels)) == (0.0, 0.0)
