"""Scores as probabilities."""

import numpy as np

from afm.link import to_probability


def test_logits_of_any_size_are_read_without_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        found = to_probability([-1000.0, 0.0, np.log(3), 1000.0], "log")
    np.testing.assert_allclose(found, [0, 0.5, 0.75, 1], atol=1e-300)


def test_estimates_of_a_mean_target_are_cut_off() -> None:
    found = to_probability([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 7.0], "squared")
    np.testing.assert_allclose(found, [0, 0, 0.25, 0.5, 0.75, 1, 1])
