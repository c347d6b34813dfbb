"""What the checks found: counted in one pass over each source, judged once, told as one table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import pyarrow as pa
from pyspark.sql import functions as F

from features.errors import DataError
from features.quality import RULE, Checked, look_up, missing_rule
from features.spec import LABEL

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("source", "rule", "field", "reason")),
        *((name, pa.int64()) for name in ("rows", "failed")),
        *((name, pa.float64()) for name in ("share", "allowed")),
        ("action", pa.string()),
    ]
)
_REMEDIES = {
    "quarantine": "max_share (of the rule, of the field's check or of quality)",
    "stop": "max_missing (of the field's check)",
}


class Finding(NamedTuple):
    """How many rows of a source a rule concerns."""

    source: str
    rule: str
    field: str | None
    reason: str
    rows: int
    """The rows it looks at: those read, or for missing values and labels those accepted."""
    failed: int
    allowed: float | None
    """Share of failed rows beyond which the job stops; none if it never does."""
    action: Literal["quarantine", "stop", "count"]
    """What becomes of failed rows: they are refused, or accepted as long as they are not too many,
    or accepted."""

    @property
    def share(self) -> float:
        """Share of failed rows; 0 if there are no rows."""
        return self.failed / self.rows if self.rows else 0.0

    @property
    def is_too_much(self) -> bool:
        """Whether the job has to stop."""
        return self.allowed is not None and self.failed > self.allowed * self.rows


class Tally(NamedTuple):
    """How many rows of a source were read, refused, and accepted with each label."""

    source: str
    read: int
    refused: dict[str, int]
    """By rule, those that refuse any."""
    labels: dict[int, int]
    findings: tuple[Finding, ...]
    """All of it, and the missing values of each field and the orphans that are kept."""

    @property
    def accepted(self) -> int:
        """Rows that break no rule."""
        return self.read - sum(self.refused.values())


def tally(checked: Checked) -> Tally:
    """Counts broken rules, missing values, orphans and labels, in one pass.

    Args:
        checked: A checked table.

    Returns:
        The counts.
    """
    rows = checked.rows
    for key in checked.look_ups:
        rows = look_up(rows, key)
    flags = [*map(missing_rule, checked.fields), *(key.rule for key in checked.look_ups)]
    label = F.col(LABEL) if LABEL in rows.columns else F.lit(None).cast("int").alias(LABEL)
    counts = [F.count(F.lit(1)).alias("rows"), *(F.count_if(f"`{f}`").alias(f) for f in flags)]
    groups = rows.groupBy(RULE, label).agg(*counts).collect()

    read, refused, labels = 0, dict[str, int](), dict[int, int]()
    flagged = dict.fromkeys(flags, 0)
    for group in groups:
        read += group["rows"]
        if group[RULE] is not None:
            refused[group[RULE]] = refused.get(group[RULE], 0) + group["rows"]
        else:
            flagged = {flag: n + group[flag] for flag, n in flagged.items()}
            if group[LABEL] is not None:
                labels[group[LABEL]] = group["rows"]
    found = Tally(checked.name, read, refused, labels, ())
    return found._replace(findings=tuple(_findings(checked, found, flagged)))


def _findings(checked: Checked, found: Tally, flagged: Mapping[str, int]) -> Iterator[Finding]:
    source, read, accepted = checked.name, found.read, found.accepted
    for c in checked.checks:
        failed = found.refused.get(c.rule, 0)
        yield Finding(source, c.rule, c.field, c.reason, read, failed, c.max_share, "quarantine")
    for key in checked.look_ups:
        failed = flagged[key.rule]
        yield Finding(source, key.rule, None, key.reason, read, failed, None, "count")
    for field in checked.fields:
        rule, allowed = missing_rule(field), field.check.max_missing
        action: Literal["count", "stop"] = "count" if allowed is None else "stop"
        reason = "the value is missing"
        yield Finding(source, rule, field.name, reason, accepted, flagged[rule], allowed, action)
    for label, rows in sorted(found.labels.items()):
        rule, reason = f"label={label}", "the row has this label"
        yield Finding(source, rule, None, reason, accepted, rows, None, "count")


def require_quality(tallies: Sequence[Tally], *, both_labels: bool) -> None:
    """Stops the job where data is too bad to go on.

    Args:
        tallies: What was counted in each source.
        both_labels: Whether interactions have to have both labels.

    Raises:
        DataError: A source is empty, a rule refuses more than its share, a field misses more values
            than it may, no row is accepted, or all accepted interactions have the same label.
    """
    for found in tallies:
        if not found.read:
            raise DataError(f"source.{found.source} has no rows; check its path and options")
    broken = [f for found in tallies for f in found.findings if f.is_too_much]
    if broken:
        problems = "; ".join(_problem(f) for f in broken)
        remedies = " and ".join(
            _REMEDIES[action] for action in _REMEDIES if any(f.action == action for f in broken)
        )
        raise DataError(
            f"{problems}. Correct the data or the expression, or allow more with {remedies}. "
            "Nothing was written"
        )
    for found in tallies:
        if not found.accepted:
            raise DataError(
                f"source.{found.source}: no row is accepted; refused by rule: {found.refused}"
            )
        if both_labels and found.source == "interactions" and len(found.labels) < 2:
            (only,) = found.labels
            raise DataError(
                f"label: all {found.accepted:,} accepted rows have label {only}; "
                "the expression has to give both 0 and 1, unless `negatives` are sampled. "
                "Nothing was written"
            )


def _problem(finding: Finding) -> str:
    shares = f"({finding.share:.1%}, allowed {finding.allowed:.1%})"
    if finding.action == "stop":
        return (
            f"source.{finding.source}: field {finding.field} has no value in {finding.failed:,} "
            f"of {finding.rows:,} accepted rows {shares}"
        )
    return (
        f"source.{finding.source}: rule {finding.rule} refuses {finding.failed:,} of "
        f"{finding.rows:,} rows {shares}: {finding.reason}"
    )


def quality_table(tallies: Sequence[Tally]) -> pa.Table:
    """The rows of the table ``quality``, in the order of the checks.

    Args:
        tallies: What was counted in each source.

    Returns:
        A row per finding, with its ``share``.
    """
    findings = [finding for found in tallies for finding in found.findings]
    columns = [[getattr(finding, name) for finding in findings] for name in _SCHEMA.names]
    return pa.table(columns, schema=_SCHEMA)
