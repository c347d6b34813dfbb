"""Missing values: what replaces them, and replacing them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column
from pyspark.sql import functions as F

from conf.schema import Default, FieldConfig
from features.errors import DataError


def statistic(field: FieldConfig) -> Column:
    """The aggregate over training rows that a ``value`` field's fill is.

    Args:
        field: A field with encode ``value``.

    Returns:
        Its mean (also if nothing is configured), exact median, mode (the smallest of several) or
        constant.
    """
    column = F.col(field.name)
    match field.impute:
        case Default(default=constant):
            return F.lit(float(constant))
        case "median":
            return F.median(column)
        case "mode":
            return F.mode(column, deterministic=True)
        case _:
            return F.mean(column)


def checked(field: FieldConfig, fill: Any) -> Any:
    """The fill that was learned.

    Raises:
        DataError: There was nothing to learn it from.
    """
    if fill is None:
        raise DataError(
            f"field {field.name}: no training row has a value, so there is no "
            f"{field.impute or 'mean'} to impute. Check its expr, set impute: {{default: …}}, "
            "or leave the field out"
        )
    return fill


def fill_missing(column: pa.Array, fill: float | str | None) -> pa.Array:
    """Replaces nulls.

    Args:
        column: Numbers or strings (B,).
        fill: What replaces a null; None leaves it.

    Returns:
        The column (B,).
    """
    return column if fill is None else pc.fill_null(column, pa.scalar(fill, column.type))
