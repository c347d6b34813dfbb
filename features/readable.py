"""A field's raw values to readable ones, and what can be wrong with them.

A readable column is a double for ``value`` and ``bucket``, a string for ``index`` and ``hash``, an
array of strings for ``multi``, and as it came for ``none``. Nulls, NaN, empty lists and the
sentinels that the configuration declares are null there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from typing import NamedTuple

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.features import FieldConfig
from conf.section import LARGEST, Scalar
from features.errors import DataError
from features.expressions import type_of

_SHOWN = 5
"""Allowed values that a reason names."""


class Fault(NamedTuple):
    """What can be wrong with a value."""

    rule: str
    what: str
    """A predicate, such as ``is not a finite number``."""
    found: Column
    """True where it is wrong; never null."""


class Readable(NamedTuple):
    """A field's readable column and the faults that its raw values can have, the gravest first."""

    column: Column
    faults: tuple[Fault, ...]


def readable(field: FieldConfig, raw: Column, dtype: T.DataType) -> Readable:
    """Makes a field readable.

    Args:
        field: The field.
        raw: Its expression.
        dtype: The expression's type.

    Returns:
        Its column and its faults. Missing values have none.
    """
    match field.encode:
        case "none":
            return Readable(raw, tuple(_not_text(field, raw, dtype)))
        case "multi":
            values = _values(field, raw, dtype)
            faults = [*_not_text(field, raw, dtype), *_not_allowed(field, values)]
            return Readable(values, tuple(faults))
        case "index" | "hash":
            text = F.when(~_missing(field, raw, dtype), raw.cast("string"))
            faults = [*_not_text(field, raw, dtype), *_not_allowed(field, text)]
            return Readable(text, tuple(faults))
        case "value" | "bucket":
            missing, number = _missing(field, raw, dtype), raw.try_cast("double")
            bad = number.isNull() | (F.abs(number) > LARGEST)  # to Spark, NaN is the greatest
            faults = [Fault(field.name, "is not a finite number of 32 bits", ~missing & bad)]
            number = F.when(~missing, number)
            faults += [*_out_of_range(field, number), *_not_allowed(field, number)]
            return Readable(number, tuple(faults))


def readable_values(
    spark: SparkSession, fields: Sequence[FieldConfig], values: Mapping[str, Scalar | None]
) -> DataFrame:
    """Values given by hand, made readable as those of a log are.

    Args:
        spark: The session.
        fields: The fields.
        values: For each field, a value that its expression gives.

    Returns:
        One row with a column per field.

    Raises:
        DataError: A value has a fault.
    """
    one = spark.sql("SELECT 1")  # a row that Spark computes with at once, without a job
    columns, found = [], []
    for field in fields:
        value = F.lit(values[field.name])
        column, faults = readable(field, value, type_of(one, value))
        found += [(field.name, fault) for fault in faults]
        columns.append(column.alias(field.name))
    flags = one.select(
        *(fault.found.alias(str(n)) for n, (_, fault) in enumerate(found))
    ).collect()[0]
    for (name, fault), has_it in zip(found, flags, strict=True):
        if has_it:
            raise DataError(f"{name} = {values[name]!r} {fault.what}")
    return one.select(*columns)


def _not_text(field: FieldConfig, raw: Column, dtype: T.DataType) -> Iterator[Fault]:
    """Parquet and Spark call any bytes text; Arrow does not read what is no UTF-8."""
    if isinstance(dtype, T.ArrayType) and isinstance(dtype.elementType, T.StringType):
        broken = F.exists(raw, lambda text: ~F.is_valid_utf8(text))
    elif isinstance(dtype, T.StringType | T.BinaryType) and field.encode != "none":
        broken = ~F.is_valid_utf8(raw.cast("string"))
    elif isinstance(dtype, T.StringType):
        broken = ~F.is_valid_utf8(raw)
    else:
        return
    yield Fault(field.name, "is not UTF-8 text", F.coalesce(broken, F.lit(False)))


def _values(field: FieldConfig, raw: Column, dtype: T.DataType) -> Column:
    """The values of a ``multi`` field, each once."""
    values = (
        raw
        if isinstance(dtype, T.ArrayType)
        else F.split(raw.cast("string"), re.escape(field.separator))
    )
    texts = F.transform(values.cast("array<string>"), lambda text: F.trim(text))
    declared = [_text(m) for m in field.missing]
    kept = F.array_distinct(F.filter(texts, lambda t: (t != "") & ~t.isin(declared)))
    return F.when(F.size(kept) > 0, kept)


def _missing(field: FieldConfig, raw: Column, dtype: T.DataType) -> Column:
    missing = raw.isNull() | _is_any(raw, field.missing)
    return missing | F.isnan(raw) if isinstance(dtype, T.FloatType | T.DoubleType) else missing


def _out_of_range(field: FieldConfig, number: Column) -> Iterator[Fault]:
    tests = {}
    if field.check.minimum is not None:
        tests[f"less than {field.check.minimum:g}"] = number < field.check.minimum
    if field.check.maximum is not None:
        tests[f"more than {field.check.maximum:g}"] = number > field.check.maximum
    if tests:
        outside = F.coalesce(reduce(or_, tests.values()), F.lit(False))
        yield Fault(f"{field.name}.range", f"is {' or '.join(tests)}", outside)


def _not_allowed(field: FieldConfig, column: Column) -> Iterator[Fault]:
    allowed = field.check.allowed
    if allowed is not None:
        if field.encode == "multi":
            ok = F.forall(column, lambda value: _is_any(value, allowed))
        else:
            ok = column.isNull() | _is_any(column, allowed)
        more = ", …" if len(allowed) > _SHOWN else ""
        what = f"is not one of {', '.join(map(_text, allowed[:_SHOWN]))}{more}"
        yield Fault(f"{field.name}.allowed", what, ~F.coalesce(ok, F.lit(True)))


def _is_any(column: Column, values: Sequence[Scalar]) -> Column:
    """Whether a value is one of these: numbers compare as numbers, so -124 is -124.0."""
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    texts = [_text(v) for v in values if isinstance(v, str | bool)]
    found = F.lit(False)
    if numbers:
        found = found | column.try_cast("double").isin(numbers)
    if texts:
        found = found | column.cast("string").isin(texts)
    # A comparison with null is null, which would make a value neither one of these nor not.
    return F.coalesce(found, F.lit(False))


def _text(value: Scalar) -> str:
    """A value of the configuration as Spark writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
