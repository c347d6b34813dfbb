"""What prepare prints."""

from pyspark.sql import Row

from jobs.prepare import quality_summary


def finding(rule: str, failed: int, allowed: float | None, action: str) -> Row:
    return Row(
        source="interactions",
        rule=rule,
        failed=failed,
        share=failed / 2_000,
        allowed=allowed,
        action=action,
    )


def test_quality_summary_shows_what_concerns_any_row() -> None:
    findings = [
        finding("label", 0, 0.1, "quarantine"),
        finding("age.range", 1_500, 1.0, "quarantine"),
        finding("a_field_with_a_long_name.missing", 2, None, "count"),
        finding("label=1", 2_000, None, "count"),
    ]
    expected = """\
  source        rule                                     rows  share  limit  action
  interactions  age.range                               1,500  75.0% 100.0%  quarantine
  interactions  a_field_with_a_long_name.missing            2   0.1%         count
  interactions  label=1                                 2,000 100.0%         count"""
    assert quality_summary(findings) == expected
