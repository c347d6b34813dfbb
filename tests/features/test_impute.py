"""What replaces a missing number, against scikit-learn."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.impute import SimpleImputer

from conf.schema import Default, FieldConfig
from features import impute
from features.errors import DataError

VALUES = [3.0, 1.0, None, 8.0, 3.0, 1.0, None, -2.5]


def field(how: object) -> FieldConfig:
    return FieldConfig(name="x", side="user", encode="value", impute=how)


@pytest.mark.parametrize(
    ("how", "strategy"),
    [(None, "mean"), ("mean", "mean"), ("median", "median"), ("mode", "most_frequent")],
)
def test_against_scikit_learn(spark, how: object, strategy: str) -> None:
    frame = spark.createDataFrame([(v,) for v in VALUES], "x double")
    fill = frame.agg(impute.statistic(field(how))).head()[0]
    column = pd.DataFrame({"x": VALUES}, dtype=float)
    expected = SimpleImputer(strategy=strategy).fit_transform(column)[:, 0]
    filled = impute.fill_missing(pa.array(VALUES), fill).to_numpy()
    np.testing.assert_allclose(filled, expected)


def test_default_ignores_the_data(spark) -> None:
    frame = spark.createDataFrame([(None,)], "x double")
    assert frame.agg(impute.statistic(field(Default(default=7)))).head()[0] == 7.0


def test_fill_missing_keeps_missing_values_without_a_fill() -> None:
    column = pa.array(["a", None])
    assert impute.fill_missing(column, None) is column
    assert impute.fill_missing(column, "b").to_pylist() == ["a", "b"]


def test_checked_when_no_training_row_has_a_value() -> None:
    with pytest.raises(DataError, match="field x: no training row has a value.*median to impute"):
        impute.checked(field("median"), None)
