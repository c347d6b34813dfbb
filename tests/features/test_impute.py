"""What replaces a missing number, against scikit-learn."""

import numpy as np
import pyarrow as pa
import pytest
from sklearn.impute import SimpleImputer

from conf.features import Default, FieldConfig
from features import impute
from features.counting import Moments, count_numbers, count_texts
from features.errors import DataError
from features.quantiles import Counted

VALUES = [3.0, 1.0, None, 8.0, 3.0, 1.0, None, -2.5]


def counted(column: pa.Array) -> Counted:
    count = count_texts if pa.types.is_string(column.type) else count_numbers
    return Counted(count(column), lambda: None)


def field(how: object) -> FieldConfig:
    return FieldConfig(name="x", side="user", encode="value", impute=how)


@pytest.mark.parametrize(
    ("how", "strategy"),
    [(None, "mean"), ("mean", "mean"), ("median", "median"), ("mode", "most_frequent")],
)
@pytest.mark.parametrize("values", [VALUES, VALUES[:-1], [2.0]], ids=["even", "odd", "one"])
def test_against_scikit_learn(how: object, strategy: str, values: list[float | None]) -> None:
    column = pa.array(values, pa.float64())
    fill = impute.fill_of_number(field(how), Moments.of(column), counted(column))
    expected = SimpleImputer(strategy=strategy).fit_transform(np.array(values, float)[:, None])
    filled = impute.fill_missing(column, fill).to_numpy()
    np.testing.assert_allclose(filled, expected[:, 0])


def test_mode_of_a_category_is_the_first_of_the_most_frequent() -> None:
    texts = FieldConfig(name="x", side="user", encode="index", impute="mode")
    column = pa.array(["b", "a", None, None, None, "c", "b", "a"])
    assert impute.fill_of_text(texts, counted(column)) == "a"


def test_default_ignores_the_data() -> None:
    column = pa.array([None], pa.float64())
    how = field(Default(default=7))
    assert impute.fill_of_number(how, Moments.of(column), counted(column)) == 7.0


def test_fill_missing_keeps_missing_values_without_a_fill() -> None:
    column = pa.array(["a", None])
    assert impute.fill_missing(column, None) is column
    assert impute.fill_missing(column, "b").to_pylist() == ["a", "b"]


def test_checked_when_no_training_row_has_a_value() -> None:
    with pytest.raises(DataError, match="field x: no training row has a value.*median to impute"):
        impute.checked(field("median"), None)
