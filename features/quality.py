"""Checks on raw rows: every row is accepted, or quarantined with the first rule that it breaks.

Rules that look at one row come first (:func:`check`); those that compare it with other rows of its
table (:func:`refuse_duplicates`) or with another table (:func:`look_up`) judge what is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.features import FieldConfig

SourceName = Literal["interactions", "users", "items"]

RULE = "_rule"
"""Column of checked rows: the first rule that a row breaks, null for accepted ones."""
_RAW, _SPREAD = "_raw", "_spread"


class Check(NamedTuple):
    """A reason to refuse a row."""

    rule: str
    reason: str
    fails: Column
    """True for the rows to refuse, over the raw columns; never null."""
    max_share: float
    """Share of refused rows beyond which the job stops."""
    field: str | None = None
    """The field it is about, if it is about one."""


class LookUp(NamedTuple):
    """A key that should be known to another table; rows where it is not are called orphans."""

    rule: str
    reason: str
    key: str
    known: DataFrame
    """The other table: each key once, under the same name."""


@dataclass(frozen=True)
class Checked:
    """A raw table, its rows made readable and each marked with the first rule that it breaks."""

    name: SourceName
    rows: DataFrame
    checks: tuple[Check, ...]
    fields: tuple[FieldConfig, ...] = ()
    """The fields among its columns. Each has a flag beside it, named as :func:`missing_rule` says,
    so that joins and windows need not move the values where only the flags are counted."""
    look_ups: tuple[LookUp, ...] = ()
    """Keys whose orphans are counted and kept."""

    @property
    def accepted(self) -> DataFrame:
        """The rows that break no rule, readable."""
        marks = [RULE, _RAW, _SPREAD, *map(missing_rule, self.fields)]
        return self.rows.where(F.col(RULE).isNull()).drop(*marks)

    @property
    def quarantine(self) -> DataFrame:
        """The refused rows: ``source``, ``rule``, ``reason`` and the raw ``row`` as JSON."""
        reasons = F.create_map(*[F.lit(text) for c in self.checks for text in (c.rule, c.reason)])
        return self.rows.where(F.col(RULE).isNotNull()).select(
            F.lit(self.name).alias("source"),
            F.col(RULE).alias("rule"),
            reasons[F.col(RULE)].alias("reason"),
            F.col(_RAW).alias("row"),
        )


def check(
    name: SourceName,
    raw: DataFrame,
    readable: Sequence[Column],
    checks: Sequence[Check],
    fields: Sequence[FieldConfig] = (),
) -> Checked:
    """Makes rows readable and marks those that break a rule.

    Args:
        name: What the table is called in ``source``.
        raw: The raw table.
        readable: The columns to make, over the raw ones.
        checks: The rules, the first broken one counts.
        fields: The fields among the columns.

    Returns:
        The checked table.
    """
    failed = F.coalesce(*[F.when(c.fails, F.lit(c.rule)) for c in checks])
    # Refused rows often have the same key, null above all. A number of its own for each keeps them
    # from meeting in one task. Taken at the scan, where a task that is run again counts alike.
    spread = F.when(failed.isNotNull(), F.monotonically_increasing_id() + 1).otherwise(0)
    marks = [failed.alias(RULE), raw_json().alias(_RAW), spread.alias(_SPREAD)]
    rows = raw.select(*readable, *marks)
    flags = [F.col(f.name).isNull().alias(missing_rule(f)) for f in fields]
    return Checked(name, rows.select("*", *flags), tuple(checks), tuple(fields))


def missing_rule(field: FieldConfig) -> str:
    """What a missing value of a field is called: no rule refuses it, but it is counted."""
    return f"{field.name}.missing"


def raw_json() -> Column:
    """A whole raw row as JSON, nulls included."""
    return F.to_json(F.struct("*"), {"ignoreNullFields": "false"})


def quoted(name: str) -> Column:
    """A column by its name, whatever stands in that."""
    return F.col("`" + name.replace("`", "``") + "`")


def refuse_duplicates(
    checked: Checked, keys: Sequence[str], reason: str, max_share: float
) -> Checked:
    """Accepts one row of those with equal keys: the one whose raw content has the least hash.

    Args:
        checked: A checked table.
        keys: Readable columns.
        reason: Why the others are refused.
        max_share: Share of refused rows beyond which the job stops.

    Returns:
        The table with the rule ``duplicate``. A row that breaks another rule takes no part: it
        neither stands for the others nor is a duplicate.
    """
    # A hash, because the least text would favour labels of 0, and is long to sort.
    alike = Window.partitionBy(*keys, _SPREAD).orderBy(F.xxhash64(_RAW))
    again = F.row_number().over(alike) > 1
    return _refuse(checked, Check("duplicate", reason, again, max_share))


def refuse_orphans(checked: Checked, look_ups: Sequence[LookUp], max_share: float) -> Checked:
    """Refuses the rows whose key another table does not know.

    Args:
        checked: A checked table.
        look_ups: The keys.
        max_share: Share of refused rows, for each key, beyond which the job stops.

    Returns:
        The table with a rule per key.
    """
    for one in look_ups:
        found = replace(checked, rows=look_up(checked.rows, one))
        orphan = Check(one.rule, one.reason, F.col(one.rule), max_share)
        checked = _refuse(found, orphan)
        checked = replace(checked, rows=checked.rows.drop(one.rule))
    return checked


def look_up(rows: DataFrame, key: LookUp) -> DataFrame:
    """Finds orphans among checked rows.

    Args:
        rows: Checked rows.
        key: What to look up where.

    Returns:
        The rows with a column named like the rule: true where the key is not known.
    """
    # With _SPREAD in it, no refused row finds a partner, and null keys spread over all tasks. In a
    # struct, because Spark would see through a constant column and join by the key alone.
    pair = F.struct(F.col(key.key), F.lit(0).cast("bigint").alias(_SPREAD)).alias("_known")
    joined = rows.join(
        key.known.select(pair), F.struct(key.key, _SPREAD) == F.col("_known"), "left"
    )
    return joined.withColumn(key.rule, F.col("_known").isNull()).drop("_known")


def _refuse(checked: Checked, more: Check) -> Checked:
    """Adds a check, over the checked columns; rows that are refused already keep their rule."""
    rule = F.coalesce(F.col(RULE), F.when(more.fails, F.lit(more.rule)))
    return replace(
        checked, rows=checked.rows.withColumn(RULE, rule), checks=(*checked.checks, more)
    )
