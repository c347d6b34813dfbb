"""Checks on raw rows: every row is accepted, or quarantined with the rule that it breaks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from features.errors import DataError
from features.spec import LABEL

SourceName = Literal["interactions", "users", "items"]

_RULE, _RAW = "_rule", "_raw"


class Check(NamedTuple):
    """A reason to refuse a row."""

    rule: str
    reason: str
    fails: Column
    """True for the rows to refuse, over the raw columns; never null."""
    max_share: float
    """Share of refused rows beyond which the job stops."""


@dataclass(frozen=True)
class Checked:
    """A raw table, its rows made readable and each marked with the first rule that it breaks."""

    name: SourceName
    rows: DataFrame
    checks: tuple[Check, ...]

    @property
    def accepted(self) -> DataFrame:
        """The rows that break no rule, readable."""
        return self.rows.where(F.col(_RULE).isNull()).drop(_RULE, _RAW)

    @property
    def quarantine(self) -> DataFrame:
        """The refused rows: ``source``, ``rule``, ``reason`` and the raw ``row`` as JSON."""
        reasons = F.create_map(*[F.lit(text) for c in self.checks for text in (c.rule, c.reason)])
        return self.rows.where(F.col(_RULE).isNotNull()).select(
            F.lit(self.name).alias("source"),
            F.col(_RULE).alias("rule"),
            reasons[F.col(_RULE)].alias("reason"),
            F.col(_RAW).alias("row"),
        )


class Tally(NamedTuple):
    """How many rows of a table were read, refused by each rule, and accepted with each label."""

    read: int
    refused: dict[str, int]
    labels: dict[int, int]

    @property
    def accepted(self) -> int:
        """Rows that break no rule."""
        return self.read - sum(self.refused.values())


def check(
    name: SourceName, raw: DataFrame, readable: Sequence[Column], checks: Sequence[Check]
) -> Checked:
    """Makes rows readable and marks those that break a rule.

    Args:
        name: What the table is called in ``source``.
        raw: The raw table.
        readable: The columns to make, over the raw ones.
        checks: The rules, the first broken one counts.

    Returns:
        The checked table.
    """
    failed = F.coalesce(*[F.when(c.fails, F.lit(c.rule)) for c in checks])
    return Checked(
        name, raw.select(*readable, failed.alias(_RULE), raw_json(raw).alias(_RAW)), tuple(checks)
    )


def raw_json(raw: DataFrame) -> Column:
    """A whole raw row as JSON, nulls included."""
    everything = F.struct(*[F.col(f"`{name}`") for name in raw.columns])
    return F.to_json(everything, {"ignoreNullFields": "false"})


def tally(checked: Checked) -> Tally:
    """Counts the rows by broken rule and by label, in one pass.

    Args:
        checked: A checked table.

    Returns:
        The counts.
    """
    labelled = LABEL in checked.rows.columns
    label = F.col(LABEL) if labelled else F.lit(None).cast("int").alias(LABEL)
    counts = checked.rows.groupBy(F.col(_RULE), label).count().collect()
    refused: dict[str, int] = {}
    labels: dict[int, int] = {}
    for row in counts:
        if row[_RULE] is not None:
            refused[row[_RULE]] = refused.get(row[_RULE], 0) + row["count"]
        elif row[LABEL] is not None:
            labels[row[LABEL]] = row["count"]
    return Tally(sum(row["count"] for row in counts), refused, labels)


def require_quality(checked: Checked, counts: Tally) -> None:
    """Stops the job where data is too bad to go on.

    Args:
        checked: A checked table.
        counts: Its tally.

    Raises:
        DataError: The table is empty, a rule refuses more than its share, no row is accepted, or
            all accepted rows have the same label.
    """
    where = f"source.{checked.name}"
    if not counts.read:
        raise DataError(f"{where} has no rows; check its path and options")
    problems = [
        f"rule {c.rule} refuses {refused:,} of {counts.read:,} rows "
        f"({refused / counts.read:.1%}, allowed {c.max_share:.1%}): {c.reason}"
        for c in checked.checks
        if (refused := counts.refused.get(c.rule, 0)) > c.max_share * counts.read
    ]
    if problems:
        raise DataError(
            f"{where}: {'; '.join(problems)}. Correct the data or the expression, or allow more "
            "with quality.max_share. Nothing was written"
        )
    if not counts.accepted:
        raise DataError(f"{where}: no row is accepted; refused by rule: {counts.refused}")
    if checked.name == "interactions" and len(counts.labels) < 2:
        (only,) = counts.labels
        raise DataError(
            f"label: all {counts.accepted:,} accepted rows have label {only}; "
            "the expression has to give both 0 and 1. Nothing was written"
        )
