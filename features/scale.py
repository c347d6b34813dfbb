"""Scaling of numbers, learned after imputing, as in scikit-learn's pipelines.

``minmax`` is scikit-learn's MinMaxScaler, ``standard`` its StandardScaler (population variance);
both leave a constant column at 0.
"""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.schema import FieldConfig
from features.spec import Scaling


@dataclass(frozen=True)
class Moments:
    """Statistics of a numeric column over the training rows."""

    present: int
    missing: int
    mean: float
    variance: float
    """Population variance."""
    minimum: float
    maximum: float

    def imputed(self, fill: float) -> "Moments":
        """The statistics after missing values were replaced, without another pass.

        >>> Moments(3, 1, 2.0, 2.0, 0.0, 3.0).imputed(6.0)
        Moments(present=4, missing=0, mean=3.0, variance=4.5, minimum=0.0, maximum=6.0)
        """
        rows = self.present + self.missing
        if not self.present:
            return Moments(rows, 0, fill, 0.0, fill, fill)
        share = self.missing / rows
        mean = self.mean + share * (fill - self.mean)
        # Variance within the two groups, and between them.
        variance = (1 - share) * self.variance + share * (1 - share) * (fill - self.mean) ** 2
        added = [fill] if self.missing else []
        low, high = min([self.minimum, *added]), max([self.maximum, *added])
        return Moments(rows, 0, mean, variance, low, high)


def statistics(field: FieldConfig) -> Column:
    """The aggregate over training rows that :class:`Moments` is read from."""
    column = F.col(field.name)
    return F.struct(
        F.count(column).alias("present"),
        F.count_if(column.isNull()).alias("missing"),
        F.coalesce(F.mean(column), F.lit(0.0)).alias("mean"),
        F.coalesce(F.var_pop(column), F.lit(0.0)).alias("variance"),
        F.coalesce(F.min(column), F.lit(0.0)).alias("minimum"),
        F.coalesce(F.max(column), F.lit(0.0)).alias("maximum"),
    )


def fit_scaling(field: FieldConfig, moments: Moments) -> Scaling:
    """Learns a scaling from the statistics of the imputed column.

    Args:
        field: A field with encode ``value``.
        moments: Statistics after imputing.

    Returns:
        The scaling.
    """
    match field.scale:
        case "standard":
            deviation = math.sqrt(max(moments.variance, 0.0))
            return Scaling(offset=moments.mean, factor=_inverse(deviation, abs(moments.mean)))
        case "minmax":
            width = moments.maximum - moments.minimum
            return Scaling(offset=moments.minimum, factor=_inverse(width, 0.0))
        case "log1p":
            return Scaling(log_minimum=moments.minimum)
        case "none":
            return Scaling()


def _inverse(width: float, magnitude: float) -> float:
    # A constant column's computed deviation is rounding, not information.
    return 1.0 / width if width > 1e-12 * magnitude else 1.0


def scale(column: pa.Array, scaling: Scaling) -> NDArray[np.float32]:
    """Scales numbers.

    Args:
        column: Doubles without nulls (B,).
        scaling: What was learned.

    Returns:
        Scaled numbers (B,).
    """
    x: NDArray[np.float64] = column.to_numpy(zero_copy_only=False).astype(np.float64)
    if scaling.log_minimum is not None:
        x = np.log1p(np.maximum(x - scaling.log_minimum, 0.0))
    return ((x - scaling.offset) * scaling.factor).astype(np.float32)
