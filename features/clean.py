"""Raw rows to readable rows, one column per field, every row checked.

Readable columns are a double for ``value``, a string for ``index``, an array of strings for
``multi``, and as they came for ``none``. Nulls, NaN, empty lists and the sentinels that the
configuration declares are null there.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from pyspark.errors import AnalysisException, ParseException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.schema import Config, FieldConfig, Scalar
from features.errors import DataError
from features.quality import Check, Checked, SourceName, check, raw_json
from features.sources import CORRUPT, read
from features.spec import ITEM, LABEL, ROW, TIME, USER

KEYS = {"user": USER, "item": ITEM, "time": TIME}
_TABLE_OF_SIDE: dict[str, SourceName] = {"user": "users", "item": "items"}


def clean_interactions(spark: SparkSession, config: Config) -> Checked:
    """Reads the log and checks it.

    Args:
        spark: The session.
        config: The pipeline.

    Returns:
        Rows with the keys, ``label``, ``row`` (the seeded hash that names a row) and those fields
        that no table of users or items has.

    Raises:
        DataError: The table, a column or an expression is wrong.
    """
    raw = read(spark, config.source.interactions, "source.interactions")
    maximum = config.quality.max_share
    fields = [f for f in config.fields if not has_table(config, f.side)]
    keys = {side: e for side, e in config.keys.model_dump().items() if e is not None}
    columns = {KEYS[side]: _key(raw, expr, side) for side, expr in keys.items()}
    label = _label(raw, config.label)

    checks = [Check("label", "the label is not 0 or 1", label.isNull(), maximum)]
    checks += [
        Check(KEYS[side], f"keys.{side} is null", columns[KEYS[side]].isNull(), maximum)
        for side in keys
    ]
    for i, rule in enumerate(config.quality.rules):
        where = f"quality.rules.{i}.expr"
        holds = _expression(raw, rule.expr, where)
        if not isinstance(_type_of(raw, holds), T.BooleanType):
            raise DataError(f"{where}: {rule.expr!r} is not a condition, such as `price > 0`")
        share = maximum if rule.max_share is None else rule.max_share
        checks.append(
            Check(rule.name, f"not so: {rule.expr}", ~F.coalesce(holds, F.lit(False)), share)
        )
    # Rows with equal keys share a hash, so they stay on one side of a split.
    identity = list(columns.values()) or [F.col(f"`{c}`").cast("string") for c in raw.columns]
    row = F.xxhash64(F.lit(config.split.seed), *identity)
    readable = [*(c.alias(name) for name, c in columns.items()), label.alias(LABEL), row.alias(ROW)]
    return _checked("interactions", raw, config, fields, readable, checks)


def clean_side(spark: SparkSession, config: Config, side: str) -> Checked:
    """Reads the table of the users or of the items and checks it.

    Args:
        spark: The session.
        config: A pipeline that has that table.
        side: ``user`` or ``item``.

    Returns:
        Rows with the side's key, each key once, and its fields.

    Raises:
        DataError: The table, a column or an expression is wrong.
    """
    name = _TABLE_OF_SIDE[side]
    raw = read(spark, getattr(config.source, name), f"source.{name}")
    key = _key(raw, getattr(config.keys, side), side)
    maximum = config.quality.max_share
    checks = [Check(KEYS[side], f"keys.{side} is null", key.isNull(), maximum)]
    fields = [f for f in config.fields if f.side == side]
    return _checked(name, raw, config, fields, [key.alias(KEYS[side])], checks, unique=key)


def join_sides(log: DataFrame, sides: dict[str, DataFrame]) -> DataFrame:
    """Adds the fields of users and items to the log; those of unknown keys are null.

    Args:
        log: Accepted interactions.
        sides: For ``user`` and ``item``, where they have tables of their own: one row per key.

    Returns:
        One row for each row of the log.

    Raises:
        DataError: A key has one type in the log and another in its table.
    """
    for side, table in sides.items():
        key = KEYS[side]
        types = [frame.schema[key].dataType.simpleString() for frame in (log, table)]
        if types[0] != types[1]:
            raise DataError(
                f"keys.{side} is {types[0]} in the log and {types[1]} in "
                f"source.{_TABLE_OF_SIDE[side]}: cast it, as in keys.{side}: cast(… as string)"
            )
        log = log.join(table, key, "left")
    return log


def with_strangers(side: DataFrame, log: DataFrame, key: str) -> DataFrame:
    """Adds the keys that only the log knows, all fields missing: they too are scored.

    Args:
        side: The users or the items, one row per key.
        log: Accepted interactions.
        key: ``user_key`` or ``item_key``.

    Returns:
        One row per key of either.
    """
    strangers = log.select(key).distinct().join(side, key, "left_anti")
    return side.unionByName(strangers, allowMissingColumns=True)


def latest_rows(log: DataFrame, side: str, fields: Sequence[str]) -> DataFrame:
    """The users or items that a log knows: the row of each one's latest interaction.

    Args:
        log: Accepted interactions.
        side: ``user`` or ``item``.
        fields: Columns to take along.

    Returns:
        One row per key, with the key and the fields. Among simultaneous rows, or without a time,
        the greatest counts.
    """
    key = KEYS[side]
    values = F.struct(F.lit(0).alias("_"), *[F.col(name) for name in fields])
    moment = F.col(TIME) if TIME in log.columns else F.lit(0)
    latest = log.groupBy(key).agg(F.max_by(values, F.struct(moment, values)).alias("_latest"))
    return latest.select(key, *[F.col(f"_latest.{name}") for name in fields])


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
        DataError: The value of a number is none.
    """
    one = spark.range(1)
    columns = []
    for field in fields:
        value = F.lit(values[field.name])
        column, bad = _readable(field, value, _type_of(one, value))
        if bad is not None and one.where(bad).count():
            raise DataError(f"{field.name} = {values[field.name]!r} is not a finite number")
        columns.append(column.alias(field.name))
    return one.select(*columns)


def has_table(config: Config, side: str) -> bool:
    """Whether a side has a source table of its own."""
    return side in _TABLE_OF_SIDE and getattr(config.source, _TABLE_OF_SIDE[side]) is not None


def _checked(
    name: SourceName,
    raw: DataFrame,
    config: Config,
    fields: Sequence[FieldConfig],
    readable: list[Column],
    checks: list[Check],
    unique: Column | None = None,
) -> Checked:
    """Adds what holds for every table: its fields, numbers that are none, lines that are none."""
    maximum = config.quality.max_share
    for field in fields:
        where = f"field {field.name}: expr"
        expression = _expression(raw, field.expr, where)
        column, bad = _readable(field, expression, _type_of(raw, expression))
        readable.append(_analysed(raw, column, where, field.expr).alias(field.name))
        if bad is not None:
            reason = f"{field.expr} is not a finite number"
            checks.append(Check(field.name, reason, bad, maximum))
    if CORRUPT in raw.columns:
        # Spark parses what a query needs, and calls a line malformed for that part alone. The
        # whole row is needed here, so that every pass refuses the same lines.
        malformed = F.col(CORRUPT).isNotNull() & raw_json(raw).isNotNull()
        checks.insert(0, Check("malformed", "the line cannot be parsed", malformed, maximum))
    if unique is not None:
        refused = reduce(lambda a, b: a | b, [c.fails for c in checks])
        best_first = Window.partitionBy(unique).orderBy(refused, raw_json(raw))
        again = F.row_number().over(best_first) > 1
        checks.append(Check("duplicate", "another row has this key", again, maximum))
    return check(name, raw, readable, checks)


def _readable(field: FieldConfig, raw: Column, dtype: T.DataType) -> tuple[Column, Column | None]:
    """A field's readable column and, for numbers, where the raw value is not one."""
    null = F.lit(None)
    if field.encode == "none":
        return raw, None
    if field.encode == "multi":
        values = (
            raw
            if isinstance(dtype, T.ArrayType)
            else F.split(raw.cast("string"), re.escape(field.separator))
        )
        texts = F.transform(values.cast("array<string>"), lambda text: F.trim(text))
        declared = [_text(m) for m in field.missing]
        kept = F.array_distinct(F.filter(texts, lambda t: (t != "") & ~t.isin(declared)))
        return F.when(F.size(kept) > 0, kept), None
    absent = raw.isNull() | _is_any(raw, field.missing)
    if isinstance(dtype, T.FloatType | T.DoubleType):
        absent = absent | F.isnan(raw)
    if field.encode in ("index", "hash"):
        return F.when(~absent, raw.cast("string")), None
    number = raw.try_cast("double")
    bad = number.isNull() | F.isnan(number) | (F.abs(number) == float("inf"))
    return F.when(absent, null).otherwise(number), ~absent & bad


def _is_any(column: Column, sentinels: Sequence[Scalar]) -> Column:
    """Whether a value is one of the sentinels: numbers compare as numbers, so -124 is -124.0."""

    def tests() -> Iterator[Column]:
        for sentinel in sentinels:
            if isinstance(sentinel, int | float) and not isinstance(sentinel, bool):
                yield column.try_cast("double") == float(sentinel)
            else:
                yield column.cast("string") == _text(sentinel)

    # coalesce: a comparison with null is null, and null would make a value neither absent nor not.
    return reduce(lambda a, b: a | F.coalesce(b, F.lit(False)), tests(), F.lit(False))


def _text(value: Scalar) -> str:
    """A value of the configuration as Spark writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _label(raw: DataFrame, expr: str) -> Column:
    value = _expression(raw, expr, "label").try_cast("double")
    return _analysed(raw, F.when(value == 0, 0).when(value == 1, 1), "label", expr)


def _key(raw: DataFrame, expr: str, side: str) -> Column:
    column = _expression(raw, expr, f"keys.{side}")
    dtype = _type_of(raw, column)
    where = f"keys.{side}"
    if side == "time":
        known = isinstance(dtype, T.NumericType | T.TimestampType)
        return column if known else _analysed(raw, column.try_cast("timestamp"), where, expr)
    if isinstance(dtype, T.FloatType | T.DoubleType):
        raise DataError(f"{where} is {dtype.simpleString()}: use cast({expr} as bigint)")
    return column.cast("bigint" if isinstance(dtype, T.IntegralType) else "string")


def _expression(raw: DataFrame, expr: str, where: str) -> Column:
    """Parses a Spark SQL expression and makes sure that it fits the table.

    Raises:
        DataError: It does not.
    """
    return _analysed(raw, F.expr(expr), where, expr)


def _analysed(raw: DataFrame, column: Column, where: str, expr: str) -> Column:
    """Makes sure that a column fits the table and gives one value per row.

    Raises:
        DataError: It does not.
    """
    try:
        # In a struct, where a generator, which would multiply rows, may not stand.
        plan = raw.select(F.struct(column))._jdf.queryExecution().analyzed().nodeName()
    except ParseException as error:
        raise DataError(f"{where}: {expr!r} is not a Spark SQL expression") from error
    except AnalysisException as error:
        if (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
            missing = (error.getMessageParameters() or {}).get("objectName", expr)
            known = ", ".join(c for c in raw.columns if not c.startswith("_"))
            raise DataError(f"{where}: there is no column {missing}; there are: {known}") from error
        raise DataError(f"{where}: {expr!r} does not work: {_sentence(error)}") from error
    if plan != "Project":
        raise DataError(f"{where}: {expr!r} does not give one value for each row")
    return column


def _type_of(raw: DataFrame, column: Column) -> T.DataType:
    return raw.select(column).schema[0].dataType


def _sentence(error: AnalysisException) -> str:
    return str(error).splitlines()[0].split(" SQLSTATE")[0]
