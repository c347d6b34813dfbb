"""Scaling of numbers, learned after imputing, as in scikit-learn's pipelines.

``minmax`` is scikit-learn's MinMaxScaler, ``standard`` its StandardScaler (population variance);
both leave a constant column at 0.
"""

import math

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from conf.features import FieldConfig
from conf.section import LARGEST
from features.counting import Moments
from features.spec import Scaling

_TINY = 1e-300
"""Its inverse is a number."""


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
    return 1.0 / width if width > max(1e-12 * magnitude, _TINY) else 1.0


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
    scaled = (x - scaling.offset) * scaling.factor
    # What is far beyond all training rows stays a number.
    return np.clip(scaled, -LARGEST, LARGEST, out=scaled).astype(np.float32)
