"""Learning rates against torch's schedulers, which epoch is the best, and when training ends."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ReduceLROnPlateau

from afm.artifact import Epoch
from afm.schedule import best_epoch, is_over, learning_rate, quality, reductions
from conf.training import Plateau, Schedule, TrainConfig
from tests.afm.some_metrics import curves_of, metrics_of


@settings(deadline=None)  # torch imports much at its first scheduler
@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8]), max_size=20), st.integers(1, 4))
def test_reductions_are_those_of_torch(values: list[float], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    peer = ReduceLROnPlateau(
        optimizer, mode="max", factor=0.5, patience=patience - 1, threshold=0.0, eps=0.0
    )
    for value in values:
        peer.step(value)
    assert 0.5 ** reductions(values, patience) == optimizer.param_groups[0]["lr"]


def test_rate_is_constant_unless_asked_otherwise() -> None:
    constant = TrainConfig(learning_rate=0.1)
    curves = curves_of(0.7, 0.6, 0.5)
    assert {learning_rate(constant, curves, step, 10) for step in range(40)} == {0.1}


@pytest.mark.parametrize("warmup", [8, 0.2])  # a fifth of 4 epochs of 10 steps
def test_rate_rises_in_a_straight_line(warmup: float) -> None:
    rising = TrainConfig(learning_rate=0.8, epochs=4, schedule=Schedule(warmup=warmup))
    rates = [learning_rate(rising, [], step, 10) for step in range(12)]
    assert rates == pytest.approx([0.1 * n for n in range(1, 9)] + [0.8] * 4)


def test_rate_falls_on_a_plateau_of_the_metric_that_counts() -> None:
    plateau = Schedule(warmup=4, plateau=Plateau(factor=0.1, patience=2))
    falls = TrainConfig(learning_rate=1.0, patience=5, schedule=plateau)
    flat = curves_of(0.7, 0.7, 0.7)
    assert learning_rate(falls, flat[:2], 20, 10) == 1.0
    assert learning_rate(falls, flat, 30, 10) == pytest.approx(0.1)
    assert learning_rate(falls, flat, 1, 10) == pytest.approx(0.05)  # both at once
    falling = [Epoch(n, 0.5, metrics_of(auc=0.7, log_loss=0.9 - n / 10), 1.0) for n in range(1, 4)]
    on_log_loss = falls.model_copy(update={"stop_on": "log_loss"})
    assert learning_rate(falls, falling, 30, 10) == pytest.approx(0.1)
    assert learning_rate(on_log_loss, falling, 30, 10) == 1.0


def test_less_loss_is_better_and_more_auc() -> None:
    low, high = (metrics_of(auc=x, log_loss=x, rmse=x) for x in (0.4, 0.6))
    assert quality(high, "auc") > quality(low, "auc")
    assert quality(high, "log_loss") < quality(low, "log_loss")
    assert quality(high, "rmse") < quality(low, "rmse")


def test_best_epoch_is_the_first_of_equals() -> None:
    assert best_epoch(curves_of(0.5, 0.7, 0.7), "auc") == 2


def test_best_epoch_is_that_of_the_metric_that_counts() -> None:
    found = [(0.5, 0.6, 0.8), (0.7, 0.5, 0.9), (0.6, 0.4, 1.0)]
    curves = [
        Epoch(n, 0.5, metrics_of(auc=a, log_loss=b, rmse=c), 1.0)
        for n, (a, b, c) in enumerate(found, 1)
    ]
    assert [best_epoch(curves, m) for m in ("auc", "log_loss", "rmse")] == [2, 3, 1]
    waiting = {"patience": 2, "epochs": 9}
    over = [is_over(curves, TrainConfig(stop_on=m, **waiting)) for m in ("auc", "log_loss", "rmse")]
    assert over == [False, False, True]


def test_training_is_over_after_the_last_epoch_or_without_progress() -> None:
    settings = TrainConfig(epochs=4, patience=2)
    assert not is_over([], settings)
    assert not is_over(curves_of(0.7, 0.6), settings)
    assert is_over(curves_of(0.7, 0.6, 0.7), settings)
    assert not is_over(curves_of(0.5, 0.6, 0.7), settings)
    assert is_over(curves_of(0.5, 0.6, 0.7, 0.8), settings)
