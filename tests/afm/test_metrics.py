"""Metrics against scikit-learn, and as sums over parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    log_loss,
    mean_squared_error,
    roc_auc_score,
)

from afm.errors import MetricError
from afm.metrics import compute, merge, state_from_counts, state_of

Arrays = tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.float64]]


def scored_rows(kind: str) -> Arrays:
    """300 rows: logits, labels, weights."""
    random = np.random.default_rng(0)
    labels = (random.random(300) < 0.3).astype(np.float64)
    logits = (labels + random.normal(0, 2, 300)).astype(np.float32)
    if kind == "tied":
        logits = np.round(logits)
    if kind == "all tied":
        logits = np.full(300, 0.25, np.float32)
    if kind == "extreme":
        logits = logits * np.float32(30)
    weights = random.random(300) if kind == "weighted" else np.ones(300)
    return logits, labels, weights


@pytest.mark.parametrize("kind", ["distinct", "tied", "all tied", "weighted", "extreme"])
def test_against_scikit_learn(kind: str) -> None:
    logits, labels, weights = scored_rows(kind)
    z = logits.astype(np.float64)
    # scikit-learn clips probabilities at the precision of the dtype; the clipped ones are apart.
    probabilities = 1 / (1 + np.exp(-z))
    metrics = compute(state_of(logits, labels, weights))
    assert metrics.auc == pytest.approx(roc_auc_score(labels, z, sample_weight=weights), abs=1e-12)
    assert metrics.accuracy == pytest.approx(
        accuracy_score(labels, z >= 0, sample_weight=weights), abs=1e-12
    )
    assert metrics.f1 == pytest.approx(f1_score(labels, z >= 0, sample_weight=weights), abs=1e-12)
    if kind != "extreme":
        assert metrics.log_loss == pytest.approx(
            log_loss(labels, probabilities, sample_weight=weights), abs=1e-12
        )
    assert metrics.rmse == pytest.approx(
        mean_squared_error(2 * labels - 1, 2 * probabilities - 1, sample_weight=weights) ** 0.5,
        abs=1e-12,
    )
    assert metrics.rows == pytest.approx(weights.sum())
    assert metrics.positive_rate == pytest.approx((weights * labels).sum() / weights.sum())


@pytest.mark.parametrize("kind", ["distinct", "tied", "weighted", "extreme"])
def test_scores_of_squared_loss_against_scikit_learn(kind: str) -> None:
    scores, labels, weights = scored_rows(kind)
    z, given = scores.astype(np.float64), {"sample_weight": weights}
    metrics = compute(state_of(scores, labels, weights), "squared")
    targets = 2 * labels - 1
    assert metrics.rmse == pytest.approx(mean_squared_error(targets, z, **given) ** 0.5)
    assert metrics.auc == pytest.approx(roc_auc_score(labels, z, **given), abs=1e-12)
    assert metrics.accuracy == pytest.approx(accuracy_score(labels, z >= 0, **given), abs=1e-12)
    assert metrics.f1 == pytest.approx(f1_score(labels, z >= 0, **given), abs=1e-12)
    probabilities = np.clip((1 + z) / 2, 1e-6, 1 - 1e-6)
    assert metrics.log_loss == pytest.approx(log_loss(labels, probabilities, **given))


def test_log_loss_stays_exact_when_probabilities_round_to_one() -> None:
    metrics = compute(state_of([100.0, -100.0], [0, 1]))
    assert metrics.log_loss == 100.0


def test_auc_is_half_when_all_scores_are_equal() -> None:
    for labels in ([0, 0, 1, 1], [1, 1, 0, 0]):
        assert compute(state_of([0.3] * 4, labels)).auc == 0.5


def test_threshold_moves_the_tuned_decision_alone() -> None:
    state = state_of([-1.0, 1.0], [0, 1])
    found = [compute(state, threshold=threshold) for threshold in (0.0, 1.5, -1.0)]
    assert [m.f1_tuned for m in found] == [1.0, 0.0, pytest.approx(2 / 3)]
    assert [m.accuracy_tuned for m in found] == [1.0, 0.5, 0.5]
    assert {(m.f1, m.accuracy) for m in found} == {(1.0, 1.0)}


@pytest.mark.parametrize("kind", ["distinct", "tied", "all tied", "weighted"])
def test_best_threshold_has_the_best_f1_of_all(kind: str) -> None:
    scores, labels, weights = scored_rows(kind)
    metrics = compute(state_of(scores, labels, weights))
    by_hand = [f1_score(labels, scores >= t, sample_weight=weights) for t in scores]
    assert metrics.f1_tuned == pytest.approx(max(by_hand), abs=1e-12)
    hit = scores >= metrics.threshold
    assert f1_score(labels, hit, sample_weight=weights) == pytest.approx(metrics.f1_tuned)
    assert accuracy_score(labels, hit, sample_weight=weights) == pytest.approx(
        metrics.accuracy_tuned
    )
    assert metrics.f1_tuned >= metrics.f1
    given = compute(state_of(scores, labels, weights), threshold=metrics.threshold)
    assert given == metrics


@pytest.mark.parametrize("loss", ["log", "squared"])
def test_calibration_error_of_distinct_scores_is_that_of_ten_parts(loss: str) -> None:
    scores, labels, _ = scored_rows("distinct")
    z = scores.astype(np.float64)
    p = 1 / (1 + np.exp(-z)) if loss == "log" else np.clip((1 + z) / 2, 0, 1)
    parts = np.array_split(np.argsort(scores), 10)
    expected = np.mean([abs(labels[part].mean() - p[part].mean()) for part in parts])
    assert compute(state_of(scores, labels), loss).calibration_error == pytest.approx(expected)


def test_calibration_error_shares_out_equal_scores() -> None:
    state = state_of([0.0] * 8, [1, 0, 0, 0, 0, 0, 0, 1])  # a quarter, not a half
    assert compute(state).calibration_error == pytest.approx(0.25)
    scores, labels, _ = scored_rows("tied")
    times = 1 + np.arange(300) % 3
    weighted = compute(state_of(scores, labels, times)).calibration_error
    repeated = state_of(np.repeat(scores, times), np.repeat(labels, times))
    assert weighted == pytest.approx(compute(repeated).calibration_error)


def test_calibrated_probabilities_have_a_small_calibration_error() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, 20_000)
    labels = random.random(20_000) < 1 / (1 + np.exp(-logits))
    assert compute(state_of(logits, labels)).calibration_error < 0.02
    assert compute(state_of(2 * logits, labels)).calibration_error > 0.05


def test_counts_equal_rows() -> None:
    counted = state_from_counts([0.5, -1.0], positives=[2, 1], negatives=[1, 3])
    rows = state_of([0.5] * 3 + [-1.0] * 4, [1, 1, 0, 1, 0, 0, 0])
    assert compute(counted) == compute(rows)


@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([-2.0, -0.5, 0.0, 0.1, 3.0]), st.integers(0, 1), st.integers(0, 3)
        ),
        max_size=40,
    ),
    parts=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_merged_parts_equal_the_whole(
    rows: list[tuple[float, int, int]], parts: int, seed: int
) -> None:
    rows = [*rows, (0.1, 0, 1), (0.1, 1, 1)]
    owner = np.random.default_rng(seed).integers(0, parts, len(rows))

    def state(which: NDArray[np.bool_]) -> object:
        chosen = [row for row, mine in zip(rows, which, strict=True) if mine]
        return state_of(
            [r[0] for r in chosen], [r[1] for r in chosen], np.array([r[2] for r in chosen], float)
        )

    merged = merge([state(owner == part) for part in range(parts)])
    assert compute(merged) == compute(state(np.ones(len(rows), bool)))


def test_order_of_rows_does_not_matter() -> None:
    logits, labels, _ = scored_rows("tied")
    order = np.random.default_rng(1).permutation(300)
    assert compute(state_of(logits, labels)) == compute(state_of(logits[order], labels[order]))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_an_error(label: int) -> None:
    with pytest.raises(MetricError, match=f"all 3 rows have the label {label}, so AUC is not def"):
        compute(state_of([0.1, 0.2, 0.3], [label] * 3))


def test_no_rows_are_an_error() -> None:
    with pytest.raises(MetricError, match="there are no rows to measure"):
        compute(state_of([], []))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(MetricError, match=r"2 of 3 scores are not finite.*train\.learning_rate"):
        state_of([0.1, bad, bad], [0, 1, 1])
