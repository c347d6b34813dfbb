"""Raw tables to readable ones: keys, label and a column per field, every row checked."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.features import FieldConfig
from conf.schema import Config
from conf.section import LARGEST, LEAST
from features.errors import DataError
from features.expressions import analysed, parse, type_of
from features.quality import (
    Check,
    Checked,
    LookUp,
    SourceName,
    check,
    quoted,
    raw_json,
    refuse_duplicates,
    refuse_orphans,
)
from features.readable import readable
from features.sources import CORRUPT, read
from features.spec import ITEM, LABEL, ROW, TIME, USER, WEIGHT

KEYS = {"user": USER, "item": ITEM, "time": TIME}
_TABLE_OF_SIDE: dict[str, SourceName] = {"user": "users", "item": "items"}


def clean_interactions(spark: SparkSession, config: Config) -> Checked:
    """Reads the log and checks it.

    Args:
        spark: The session.
        config: The pipeline.

    Returns:
        Rows with the keys, ``label``, ``row`` (the seeded hash that names a row), ``weight`` if
        there are weights, and those fields that no table of users or items has.

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
        Check(KEYS[side], _no_key(side), columns[KEYS[side]].isNull(), maximum) for side in keys
    ]
    if config.weight is not None:
        columns[WEIGHT] = _weight(raw, config.weight)
        reason = "the weight is not a number above 0, of 32 bits"
        checks.append(Check(WEIGHT, reason, columns[WEIGHT].isNull(), maximum))
    for i, rule in enumerate(config.quality.rules):
        where = f"quality.rules.{i}.expr"
        holds = parse(raw, rule.expr, where)
        if not isinstance(type_of(raw, holds), T.BooleanType):
            raise DataError(f"{where}: {rule.expr!r} is not a condition, such as `price > 0`")
        share = maximum if rule.max_share is None else rule.max_share
        checks.append(
            Check(rule.name, f"not so: {rule.expr}", ~F.coalesce(holds, F.lit(False)), share)
        )
    # Rows with equal keys share a hash, so they stay on one side of a split.
    identity = list(columns.values()) or [quoted(c).cast("string") for c in raw.columns]
    row = F.xxhash64(F.lit(config.split.seed), *identity)
    made = [*(c.alias(name) for name, c in columns.items()), label.alias(LABEL), row.alias(ROW)]
    checked = _checked("interactions", raw, config, fields, made, checks)
    if config.quality.duplicates == "keep":
        return checked
    return refuse_duplicates(checked, list(columns), "another row has these keys", maximum)


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
    checks = [Check(KEYS[side], _no_key(side), key.isNull(), maximum)]
    fields = [f for f in config.fields if f.side == side]
    checked = _checked(name, raw, config, fields, [key.alias(KEYS[side])], checks)
    return refuse_duplicates(checked, [KEYS[side]], "another row has this key", maximum)


def check_orphans(log: Checked, sides: Mapping[str, Checked], config: Config) -> Checked:
    """Looks for interactions whose user or item is not in the table of users or items.

    Args:
        log: The checked interactions.
        sides: For ``user`` and ``item``, where they have tables of their own: the checked table.
        config: The pipeline, which says whether they are refused or only counted.

    Returns:
        The interactions with the rules ``orphan_user`` and ``orphan_item``.

    Raises:
        DataError: A key has one type in the log and another in its table.
    """
    look_ups = []
    for side, table in sides.items():
        known = table.accepted.select(KEYS[side])
        _require_same_type(log.rows, known, side)
        reason = f"keys.{side} is not in source.{_TABLE_OF_SIDE[side]}"
        look_ups.append(LookUp(f"orphan_{side}", reason, KEYS[side], known))
    if config.quality.orphans == "keep":
        return replace(log, look_ups=tuple(look_ups))
    return refuse_orphans(log, look_ups, config.quality.max_share)


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
        _require_same_type(log, table, side)
        log = log.join(table, KEYS[side], "left")
    return log


def _require_same_type(log: DataFrame, table: DataFrame, side: str) -> None:
    types = [frame.schema[KEYS[side]].dataType.simpleString() for frame in (log, table)]
    if types[0] != types[1]:
        raise DataError(
            f"keys.{side} is {types[0]} in the log and {types[1]} in "
            f"source.{_TABLE_OF_SIDE[side]}: cast it, as in keys.{side}: cast(… as string)"
        )


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


def has_table(config: Config, side: str) -> bool:
    """Whether a side has a source table of its own."""
    return side in _TABLE_OF_SIDE and getattr(config.source, _TABLE_OF_SIDE[side]) is not None


def _checked(
    name: SourceName,
    raw: DataFrame,
    config: Config,
    fields: Sequence[FieldConfig],
    columns: Sequence[Column],
    checks: Sequence[Check],
) -> Checked:
    """Adds what holds for every table: its fields, their rules, lines that cannot be parsed."""
    columns, checks = list(columns), list(checks)
    for field in fields:
        where = f"field {field.name}: expr"
        expression = parse(raw, field.expr, where)
        column, faults = readable(field, expression, type_of(raw, expression))
        columns.append(analysed(raw, column, where, field.expr).alias(field.name))
        share = field.check.max_share
        share = config.quality.max_share if share is None else share
        for fault in faults:
            reason = f"{field.expr} {fault.what}"
            checks.append(Check(fault.rule, reason, fault.found, share, field.name))
    if CORRUPT in raw.columns:
        # Spark parses what a query needs, and calls a line malformed for that part alone. The
        # whole row is needed here, so that every pass refuses the same lines.
        malformed = F.col(CORRUPT).isNotNull() & raw_json().isNotNull()
        reason = "the line cannot be parsed"
        checks.insert(0, Check("malformed", reason, malformed, config.quality.max_share))
    return check(name, raw, columns, checks, fields)


def _no_key(side: str) -> str:
    return f"keys.{side} is null" + (", or no moment" if side == "time" else ", or not UTF-8 text")


def _label(raw: DataFrame, expr: str) -> Column:
    value = parse(raw, expr, "label").try_cast("double")
    return analysed(raw, F.when(value == 0, 0).when(value == 1, 1), "label", expr)


def _weight(raw: DataFrame, expr: str) -> Column:
    value = parse(raw, expr, "weight").try_cast("double")
    finite = (value >= LEAST) & (value <= LARGEST)  # to Spark, NaN is the greatest number
    return analysed(raw, F.when(finite, value), "weight", expr)


def _key(raw: DataFrame, expr: str, side: str) -> Column:
    column = parse(raw, expr, f"keys.{side}")
    dtype = type_of(raw, column)
    where = f"keys.{side}"
    if side == "time":
        if isinstance(dtype, T.FloatType | T.DoubleType):
            return F.when(F.abs(column) < float("inf"), column)  # NaN would be later than all
        known = isinstance(dtype, T.NumericType | T.TimestampType)
        return column if known else analysed(raw, column.try_cast("timestamp"), where, expr)
    if isinstance(dtype, T.FloatType | T.DoubleType):
        raise DataError(f"{where} is {dtype.simpleString()}: use cast({expr} as bigint)")
    if isinstance(dtype, T.IntegralType):
        return column.cast("bigint")
    text = column.cast("string")
    return F.try_validate_utf8(text) if isinstance(dtype, T.StringType | T.BinaryType) else text
