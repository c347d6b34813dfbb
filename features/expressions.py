"""The configuration's Spark SQL expressions, held against the table that they are about."""

from collections.abc import Sequence

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from features.errors import DataError, cause_of

_SHOWN, _LONGEST = 30, 60
"""Columns that a message lists, and letters of one."""


def parse(raw: DataFrame, expr: str, where: str) -> Column:
    """Parses a Spark SQL expression and makes sure that it fits the table.

    Args:
        raw: The table.
        expr: The expression.
        where: Its place in the configuration.

    Returns:
        The expression as a column over the table.

    Raises:
        DataError: It does not fit.
    """
    return analysed(raw, F.expr(expr), where, expr)


def analysed(raw: DataFrame, column: Column, where: str, expr: str) -> Column:
    """Makes sure that a column fits the table and gives one value per row.

    Args:
        raw: The table.
        column: What was made of an expression.
        where: The expression's place in the configuration.
        expr: The expression.

    Returns:
        The column.

    Raises:
        DataError: It does not fit.
    """
    try:
        # In a struct, where a generator, which would multiply rows, may not stand.
        plan = raw.select(F.struct(column))._jdf.queryExecution().analyzed().nodeName()
    except ParseException as error:
        raise DataError(f"{where}: {expr!r} is not a Spark SQL expression") from error
    except AnalysisException as error:
        if (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
            missing = (error.getMessageParameters() or {}).get("objectName", expr)
            known = _listed([c for c in raw.columns if not c.startswith("_")])
            raise DataError(f"{where}: there is no column {missing}; there are: {known}") from error
        raise DataError(f"{where}: {expr!r} does not work: {cause_of(error)}") from error
    if plan != "Project":
        raise DataError(f"{where}: {expr!r} does not give one value for each row")
    return column


def type_of(raw: DataFrame, column: Column) -> T.DataType:
    """The type of a column over a table."""
    return raw.select(column).schema[0].dataType


def _listed(names: Sequence[str]) -> str:
    """Names of columns, which may be anything, as far as they can be read."""
    shown = ", ".join(name[:_LONGEST] for name in names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"
