"""Scaling after imputing, against scikit-learn's pipeline of the same two steps."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from conf.features import FieldConfig
from features.counting import Moments
from features.impute import fill_missing
from features.scale import fit_scaling, scale

VALUES = [3.0, 1.0, None, 8.0, 3.0, 1.0, None, -2.5]
numbers = st.floats(-1e6, 1e6)


def field(how: str) -> FieldConfig:
    return FieldConfig(name="x", side="user", encode="value", scale=how)


def moments_of(values: np.ndarray) -> Moments:
    present = values[~np.isnan(values)]
    return Moments(
        len(present),
        len(values) - len(present),
        float(present.mean()),
        float(present.var()),
        float(present.min()),
        float(present.max()),
    )


@pytest.mark.parametrize(("how", "peer"), [("standard", StandardScaler), ("minmax", MinMaxScaler)])
@pytest.mark.parametrize("values", [VALUES, [4.0, None, 4.0], [0.1] * 7], ids=str)
def test_against_scikit_learn(how: str, peer: type, values: list[float | None]) -> None:
    moments = Moments.of(pa.array(values, pa.float64()))
    fill = float(np.nanmean(np.array(values, float)))
    scaling = fit_scaling(field(how), moments.imputed(fill))
    mine = scale(fill_missing(pa.array(values, pa.float64()), fill), scaling)
    theirs = make_pipeline(SimpleImputer(), peer()).fit_transform(np.array(values, float)[:, None])
    np.testing.assert_allclose(mine, theirs[:, 0], atol=1e-6)


def test_log1p_starts_at_the_smallest_training_value() -> None:
    scaling = fit_scaling(field("log1p"), moments_of(np.array([-3.0, 5.0])))
    scaled = scale(pa.array([-3.0, 5.0, -10.0]), scaling)
    np.testing.assert_allclose(scaled, [0.0, np.log(9.0), 0.0], rtol=1e-6)


def test_none_changes_nothing() -> None:
    scaling = fit_scaling(field("none"), moments_of(np.array([-3.0, 5.0])))
    np.testing.assert_array_equal(scale(pa.array([1.5, -7.0]), scaling), np.float32([1.5, -7.0]))


@given(st.lists(numbers, min_size=1, max_size=20), st.integers(0, 9), numbers)
def test_imputed_moments_equal_those_of_the_imputed_column(
    present: list[float], missing: int, fill: float
) -> None:
    values = np.array(present + [np.nan] * missing)
    updated = moments_of(values).imputed(fill)
    direct = moments_of(np.where(np.isnan(values), fill, values))
    assert updated.present == direct.present
    np.testing.assert_allclose(updated.mean, direct.mean, rtol=1e-9, atol=1e-6)
    np.testing.assert_allclose(updated.variance, direct.variance, rtol=1e-6, atol=1e-3)
    assert (updated.minimum, updated.maximum) == (direct.minimum, direct.maximum)


@pytest.mark.parametrize("how", ["none", "minmax", "standard", "log1p"])
def test_numbers_far_beyond_training_stay_numbers(how: str) -> None:
    for training in ([0.0, 1e-3], [0.0, 5e-324], [-3e38, 3e38]):
        scaling = fit_scaling(field(how), Moments.of(pa.array(training)))
        for number in (-3.4e38, -1.0, 0.0, 5e-324, 3.4e38):
            assert np.isfinite(scale(pa.array([number]), scaling)).all(), (training, number)
