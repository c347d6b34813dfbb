"""From raw tables to published Delta tables: clean, split, fit, transform, in this order.

========================  =====================================================================
table                     rows
========================  =====================================================================
``interactions``          accepted rows with readable values and their ``split``
``quarantine``            refused rows of every source: ``source``, ``rule``, ``reason``, ``row``
``quality``               what was checked and counted: a row per rule, missing field and label
``vocabulary``            ``field``, ``value``, ``index``, ``count`` (of training rows)
``features``              ``interactions`` encoded, partitioned by ``split``, in seeded order
``users``, ``items``      one encoded row per key, for scoring, with the readable-only fields
``prepared``              one row: the FeatureSpec and the versions of the tables above
========================  =====================================================================
"""

from collections.abc import Callable
from functools import reduce
from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config, digest
from features import tables
from features.clean import check_orphans, clean_interactions, clean_side, has_table, join_sides
from features.encoded_tables import write_features, write_sides
from features.errors import DataError
from features.findings import quality_frame, require_quality, tally
from features.fit import fit
from features.quality import Checked
from features.row_groups import RowGroups
from features.sources import pin
from features.spec import LABEL, SPLIT, SPLITS, FittedSplit, Prepared
from features.split import fit_split, part
from features.transform import Encoder

Report = Callable[[str], None]
"""Called with a line after each step."""


def prepare(spark: SparkSession, config: Config, report: Report = lambda _: None) -> Prepared:
    """Makes the tables of a pipeline from its sources and publishes them together.

    Args:
        spark: A session with Delta Lake.
        config: The pipeline.
        report: Called with a line after each step.

    Returns:
        What was published.

    Raises:
        DataError: The sources do not fit the configuration or break a quality rule; then nothing
            was written. Or training rows lack what is to be learned; then nothing was published.
    """
    config = config.model_copy(update={"source": pin(spark, config.source)})
    root = config.tables.root
    accepted = accept(spark, config, report)
    split = fit_split(config.split, accepted.log)
    readable = accepted.readable(split)
    written_first = {
        "interactions": readable,
        "quarantine": accepted.quarantine,
        "quality": accepted.quality,
    }
    versions = {
        name: tables.write(frame, root, name, accepted.metadata)
        for name, frame in written_first.items()
    }
    written = Written(
        split=split,
        versions=versions,
        batches={batch_name(config): fingerprint(readable)},
        rows=accepted.rows,
        sides=accepted.sides,
        metadata=accepted.metadata,
    )
    return learn_and_publish(spark, config, written, report)


class Accepted(NamedTuple):
    """Sources whose rows were checked, and which broke no rule too often."""

    log: DataFrame
    """Accepted interactions."""
    sides: dict[str, DataFrame]
    """Accepted users and items, where they have tables of their own."""
    quarantine: DataFrame
    """The refused rows of all sources."""
    quality: DataFrame
    """What was checked and counted."""
    rows: dict[str, int]
    """Row counts: read, accepted and quarantined of each source."""
    metadata: dict[str, str]
    """What commits say of where their rows came from."""

    def readable(self, split: FittedSplit) -> DataFrame:
        """The interactions with the fields of users and items, and their part of the split."""
        return join_sides(self.log, self.sides).withColumn(SPLIT, part(split))


def accept(spark: SparkSession, config: Config, report: Report) -> Accepted:
    """Reads the sources and checks their rows.

    Args:
        spark: The session.
        config: The pipeline, its sources pinned.
        report: Called with a line.

    Returns:
        The accepted rows and the refused ones.

    Raises:
        DataError: The sources do not fit the configuration or break a quality rule.
    """
    sides = clean_sides(spark, config)
    log = check_orphans(clean_interactions(spark, config), sides, config)
    checked = [log, *sides.values()]
    tallies = [tally(source) for source in checked]
    require_quality(tallies)
    rows = _source_rows(tallies)
    report(
        f"read {rows['interactions.read']:,} interactions, "
        f"quarantined {rows['interactions.quarantined']:,}"
    )
    return Accepted(
        log=log.accepted,
        sides={side: table.accepted for side, table in sides.items()},
        quarantine=reduce(DataFrame.union, [c.quarantine for c in checked]),
        quality=quality_frame(spark, tallies),
        rows=rows,
        metadata=commit_metadata(config),
    )


def clean_sides(spark: SparkSession, config: Config) -> dict[str, Checked]:
    """The users and items that have a table of their own, checked."""
    return {s: clean_side(spark, config, s) for s in ("user", "item") if has_table(config, s)}


class Written(NamedTuple):
    """Readable interactions that are written, and what is known of them."""

    split: FittedSplit
    """The split that they have."""
    versions: dict[str, int]
    """Of the tables written so far."""
    batches: dict[str, str]
    """The batches that they came in, each with its fingerprint."""
    rows: dict[str, int]
    """Row counts of the sources."""
    sides: dict[str, DataFrame]
    """Readable users and items that have a table of their own."""
    metadata: dict[str, str]
    """What commits say of where their rows came from."""


def learn_and_publish(
    spark: SparkSession, config: Config, written: Written, report: Report
) -> Prepared:
    """Learns a spec from the interactions that are written, encodes all rows and publishes.

    Args:
        spark: The session.
        config: The pipeline.
        written: The interactions.
        report: Called with a line after each step.

    Returns:
        What was published.

    Raises:
        DataError: A part of the split lacks a label, or training rows lack what is to be learned.
    """
    root, versions = config.tables.root, written.versions
    interactions = tables.read(spark, root, "interactions", versions["interactions"])
    rows = written.rows | _split_rows(interactions)
    report("split into " + ", ".join(f"{rows[s]:,} {s}" for s in SPLITS))

    spec, vocabulary = fit(spark, config, RowGroups.of(interactions) or interactions, written.split)
    metadata = written.metadata | {"spec": spec.hash}
    version = tables.write(vocabulary.frame(spark), root, "vocabulary", metadata)
    whole = tables.read(spark, root, "vocabulary", version)
    encoder = Encoder.of(spec, vocabulary.held)
    report(f"learned {whole.count():,} values of {len(spec.inputs)} fields from training rows")

    versions = versions | {"vocabulary": version}
    versions["features"] = write_features(interactions, encoder, whole, root, metadata)
    versions |= write_sides(config, interactions, written.sides, encoder, whole, metadata)
    report(f"encoded {', '.join(name for name in versions if name not in _READABLE)}")

    prepared = Prepared(spec=spec, versions=versions, rows=rows, batches=written.batches)
    tables.publish(spark, root, prepared, metadata)
    return prepared


_READABLE = ("interactions", "quarantine", "quality", "vocabulary")


def batch_name(config: Config) -> str:
    """What the rows of the log are known by: the name given to them, or where they lie."""
    log = config.source.interactions
    paths = [log.path] if isinstance(log.path, str) else log.path
    version = "" if log.version is None else f"@{log.version}"
    return config.prepare.batch or ", ".join(paths) + version


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


def _checked_rows(sources: list[Checked]) -> dict[str, int]:
    """Counts what was read, accepted and refused; raises before anything is written."""
    rows = {}
    for found in tallies:
        rows[f"{found.source}.read"] = found.read
        rows[f"{found.source}.accepted"] = found.accepted
        rows[f"{found.source}.quarantined"] = found.read - found.accepted
    return rows


def _split_rows(interactions: DataFrame) -> dict[str, int]:
    counted = interactions.groupBy(SPLIT).agg(
        F.count(F.lit(1)).alias("rows"), F.count_distinct(LABEL).alias("labels")
    )
    found = {row[SPLIT]: row for row in counted.collect()}
    for name in SPLITS:
        if name not in found or found[name]["labels"] < 2:
            raise DataError(
                f"split: the {name} part has "
                f"{'no rows' if name not in found else 'one label only'}; it needs both. "
                "Give more data or change the shares in split"
            )
    return {name: found[name]["rows"] for name in SPLITS}


def commit_metadata(config: Config) -> dict[str, str]:
    """What commits say of where their rows came from: the configuration, and source versions."""
    delta = {
        name: table
        for name, table in config.source
        if table is not None and table.format == "delta"
    }
    versions = {f"source.{name}": f"{t.path}@{t.version}" for name, t in delta.items()}
    return {"job": "prepare", "config": digest(config.model_dump_json()), **versions}
