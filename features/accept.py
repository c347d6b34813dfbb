"""The sources of a pipeline, cleaned and checked: what every way of preparing starts from."""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config
from conf.secrets import digest_of, masked
from features.clean import check_orphans, clean_interactions, clean_side, has_table
from features.findings import Tally, quality_table, require_quality, tally
from features.quality import Checked

Report = Callable[[str], None]
"""Called with a line after each step."""


class Accepted(NamedTuple):
    """Sources whose rows were checked, and which broke no rule too often."""

    log: DataFrame
    """Accepted interactions."""
    sides: dict[str, DataFrame]
    """Accepted users and items, where they have tables of their own."""
    quarantine: DataFrame
    """The refused rows of all sources."""
    quality: pa.Table
    """What was checked and counted."""
    rows: dict[str, int]
    """Row counts: read, accepted and quarantined of each source."""
    metadata: dict[str, str]
    """What commits say of where their rows came from."""


def accept(spark: SparkSession, config: Config, report: Report, *, both_labels: bool) -> Accepted:
    """Reads the sources and checks their rows.

    Args:
        spark: The session.
        config: The pipeline, its sources pinned.
        report: Called with a line.
        both_labels: Whether interactions have to have both labels.

    Returns:
        The accepted rows and the refused ones.

    Raises:
        DataError: The sources do not fit the configuration or break a quality rule.
    """
    spark.sparkContext.setJobDescription("reading and checking the sources")
    sides = clean_sides(spark, config)
    log = check_orphans(clean_interactions(spark, config), sides, config)
    checked = [log, *sides.values()]
    tallies = [tally(source) for source in checked]
    require_quality(tallies, both_labels=both_labels)
    rows = _source_rows(tallies)
    report(
        f"read {rows['interactions.read']:,} interactions, "
        f"quarantined {rows['interactions.quarantined']:,}"
    )
    return Accepted(
        log=log.accepted,
        sides={side: table.accepted for side, table in sides.items()},
        quarantine=reduce(DataFrame.union, [c.quarantine for c in checked]),
        quality=quality_table(tallies),
        rows=rows,
        metadata=commit_metadata(config),
    )


def clean_sides(spark: SparkSession, config: Config) -> dict[str, Checked]:
    """The users and items that have a table of their own, checked."""
    return {s: clean_side(spark, config, s) for s in ("user", "item") if has_table(config, s)}


def batch_name(config: Config) -> str:
    """What the rows of the log are known by: the name given to them, or where they lie."""
    log = config.source.interactions
    paths = [log.path] if isinstance(log.path, str) else log.path
    version = "" if log.version is None else f"@{log.version}"
    return config.prepare.batch or ", ".join(map(masked, paths)) + version


def fingerprint(readable: DataFrame) -> str:
    """Equal for the same rows in any order and partitioning.

    Args:
        readable: Interactions.

    Returns:
        Their number, and the sum of their hashes.
    """
    hashed = F.xxhash64(*readable.columns).cast("decimal(38,0)")
    rows, total = readable.agg(F.count(F.lit(1)), F.sum(hashed)).collect()[0]
    return f"{rows} rows, {total or 0}"


def commit_metadata(config: Config) -> dict[str, str]:
    """What commits say of where their rows came from: the configuration, and source versions."""
    delta = {
        name: table
        for name, table in config.source
        if table is not None and table.format == "delta"
    }
    versions = {f"source.{name}": f"{masked(t.path)}@{t.version}" for name, t in delta.items()}
    return {"job": "prepare", "config": digest_of(config), **versions}


def _source_rows(tallies: Sequence[Tally]) -> dict[str, int]:
    rows = {}
    for found in tallies:
        rows[f"{found.source}.read"] = found.read
        rows[f"{found.source}.accepted"] = found.accepted
        rows[f"{found.source}.quarantined"] = found.read - found.accepted
    return rows
