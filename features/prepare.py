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

from typing import NamedTuple

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config
from features import publication, tables
from features.accept import Accepted, Report, accept, batch_name, fingerprint
from features.clean import join_sides
from features.encoded_tables import write_features, write_sides
from features.errors import DataError
from features.fit import fit
from features.interactions import write_interactions
from features.row_groups import RowGroups
from features.sources import pin
from features.spec import LABEL, SPLIT, SPLITS, FittedSplit, Prepared
from features.split import fit_split
from features.transform import Encoder

FEW = 10_000
"""Refused rows that the driver takes in."""


def prepare(spark: SparkSession, config: Config, report: Report = lambda _: None) -> Prepared:
    """Makes the tables of a pipeline from its sources and publishes them together.

    Steps are named by Spark's job description, for its web page and for who shows progress.

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
    accepted = accept(spark, config, report, both_labels=config.negatives is None)
    spark.sparkContext.setJobDescription("splitting and writing the accepted rows")
    split = fit_split(config.split, accepted.log)
    log = join_sides(accepted.log, accepted.sides)
    rows, metadata = accepted.rows, accepted.metadata
    versions = {
        "interactions": write_interactions(
            spark, config, log, rows["interactions.accepted"], split, accepted.sides, metadata
        ),
        "quarantine": write_quarantine(accepted, root),
        "quality": tables.write_held(spark, accepted.quality, root, "quality", metadata),
    }
    written = Written(
        split=split,
        versions=versions,
        batches={batch_name(config): fingerprint(log)},
        rows=rows,
        sides=accepted.sides,
        metadata=metadata,
    )
    return learn_and_publish(spark, config, written, report)


def write_quarantine(accepted: Accepted, root: str) -> int:
    """Replaces the table ``quarantine`` by the rows that were refused.

    Args:
        accepted: The checked sources.
        root: Folder of the tables.

    Returns:
        The version that was committed.
    """
    refused = accepted.quarantine
    if sum(n for what, n in accepted.rows.items() if what.endswith(".quarantined")) > FEW:
        return tables.write(refused, root, "quarantine", accepted.metadata)
    held = refused.toArrow()
    return tables.write_held(refused.sparkSession, held, root, "quarantine", accepted.metadata)


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

    groups = RowGroups.of(interactions)
    spark.sparkContext.setJobDescription(f"learning from {rows['train']:,} training rows")
    spec, vocabulary = fit(spark, config, groups or interactions, written.split)
    metadata = written.metadata | {"spec": spec.hash}
    if vocabulary.large:
        version = tables.write(vocabulary.frame(spark), root, "vocabulary", metadata)
    else:
        version = tables.write_held(spark, vocabulary.held, root, "vocabulary", metadata)
    whole = tables.read(spark, root, "vocabulary", version)
    encoder = Encoder.of(spec, vocabulary.held)
    report(f"learned {len(vocabulary):,} values of {len(spec.inputs)} fields from training rows")

    versions = versions | {"vocabulary": version}
    spark.sparkContext.setJobDescription(f"encoding {sum(rows[s] for s in SPLITS):,} rows")
    versions["features"] = write_features(interactions, groups, encoder, whole, root, metadata)
    spark.sparkContext.setJobDescription("encoding users and items")
    versions |= write_sides(config, interactions, written.sides, encoder, whole, metadata)
    report(f"encoded {', '.join(name for name in versions if name not in _READABLE)}")

    prepared = Prepared(
        spec=spec,
        versions=versions,
        rows=rows,
        negatives=config.negatives,
        weight=config.weight,
        batches=written.batches,
    )
    publication.publish(spark, root, prepared, metadata)
    return prepared


_READABLE = ("interactions", "quarantine", "quality", "vocabulary")


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
