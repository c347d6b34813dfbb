"""Missing values: what replaces them, and replacing them."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from conf.features import Default, FieldConfig
from features.counting import Moments
from features.errors import DataError
from features.quantiles import Counted, median


def fill_of_number(field: FieldConfig, moments: Moments, numbers: Counted | None) -> float:
    """Learns what replaces a missing number.

    Args:
        field: A field with encode ``value`` or ``bucket``.
        moments: Of its numbers in training.
        numbers: Their counts; only ``median`` and ``mode`` need them.

    Returns:
        Their mean (also if nothing is configured), exact median, mode (the smallest of several)
        or the constant.

    Raises:
        DataError: There was nothing to learn it from.
    """
    match field.impute:
        case Default(default=constant):
            return float(constant)
        case "median" if numbers is not None:
            return float(checked(field, median(numbers, moments.present)))
        case "mode" if numbers is not None:
            return float(checked(field, numbers.mode() if moments.present else None))
        case _:
            return float(checked(field, moments.mean if moments.present else None))


def fill_of_text(field: FieldConfig, values: Counted | None) -> str | None:
    """Learns what replaces a missing value of a category.

    Args:
        field: A field with encode ``index`` or ``hash``.
        values: Its values in training; only ``mode`` needs them.

    Returns:
        The mode (the first in order of several), the constant, or None, which keeps it missing.

    Raises:
        DataError: There was nothing to learn it from.
    """
    match field.impute:
        case Default(default=constant):
            return str(constant)
        case "mode":
            return str(checked(field, None if values is None else values.mode()))
        case _:
            return None


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
