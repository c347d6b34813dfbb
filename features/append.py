"""Adds a batch of new rows, such as a day, to the tables of a pipeline, encoded as these are."""

from pyspark.sql import DataFrame, Row, SparkSession

from conf.schema import Config
from features import publication, tables
from features.accept import Report, accept, batch_name, fingerprint
from features.clean import join_sides
from features.encoded_tables import load_encoder, write_features, write_sides
from features.errors import DataError
from features.interactions import add_interactions
from features.row_groups import RowGroups
from features.sources import pin
from features.spec import SPLIT, SPLITS, Prepared
from features.split import part


def append(spark: SparkSession, config: Config, report: Report = lambda _: None) -> Prepared:
    """Encodes the rows of ``source.interactions`` with the published spec and adds them, once.

    Args:
        spark: A session with Delta Lake.
        config: The pipeline, its log replaced by the new rows.
        report: Called with a line after each step.

    Returns:
        What was published: the same spec with newer tables, or what there was if the tables
        have these rows already.

    Raises:
        DataError: Nothing was prepared yet, or with another configuration; a batch of this name
            had other rows; or the rows break a quality rule. Nothing was published then.
    """
    root = config.tables.root
    before = publication.read_prepared(spark, config)
    if config.split.by == "last":
        raise DataError(
            "prepare.mode: append cannot keep split.by: last, for a user's last rows change "
            "with every day. Use prepare.mode: all, or split.by: time"
        )
    config = config.model_copy(update={"source": pin(spark, config.source)})
    accepted = accept(spark, config, report, both_labels=False)
    log = join_sides(accepted.log, accepted.sides).withColumn(SPLIT, part(before.spec.split))
    spark.sparkContext.setJobDescription("looking whether the tables hold these rows")
    name, rows = batch_name(config), fingerprint(log.drop(SPLIT))
    if name in before.batches:
        if before.batches[name] != rows:
            raise DataError(
                f"the tables hold a batch {name!r} with other rows ({before.batches[name]}; now "
                f"{rows}). Name additional rows by prepare.batch=…; to replace rows, run "
                "prepare.mode=all on all of the log"
            )
        report(f"the tables hold the batch {name!r} already; nothing to do")
        return before

    # A run that died may have left commits of its own, which nothing has published.
    for table in ("interactions", "features", "quarantine"):
        tables.restore(spark, root, table, before.versions[table])
    metadata = accepted.metadata | {"spec": before.spec.hash, "batch": name}
    spark.sparkContext.setJobDescription("splitting and writing the new rows")
    versions = before.versions | {
        "interactions": add_interactions(spark, config, log, accepted.sides, before, metadata),
        "quarantine": tables.write(accepted.quarantine, root, "quarantine", metadata, append=True),
        "quality": tables.write_held(spark, accepted.quality, root, "quality", metadata),
    }
    added = tables.new_rows(
        spark, root, "interactions", before.versions["interactions"], versions["interactions"]
    )
    everything = tables.read(spark, root, "interactions", versions["interactions"])
    counts = accepted.rows | {row[SPLIT]: row["count"] for row in _counts(added)}
    report("split into " + ", ".join(f"{counts.get(s, 0):,} {s}" for s in SPLITS))

    spec = before.spec
    encoder, vocabulary = load_encoder(spark, config, spec, before.versions["vocabulary"])
    spark.sparkContext.setJobDescription("encoding the new rows")
    versions["features"] = write_features(
        added, RowGroups.of(added), encoder, vocabulary, root, metadata, append=True
    )
    spark.sparkContext.setJobDescription("encoding users and items")
    versions |= write_sides(config, everything, accepted.sides, encoder, vocabulary, metadata)
    report(f"added the batch {name!r}")

    totals = {key: before.rows.get(key, 0) + counts.get(key, 0) for key in before.rows | counts}
    batches = before.batches | {name: rows}
    prepared = before.model_copy(update={"versions": versions, "rows": totals, "batches": batches})
    publication.publish(spark, root, prepared, metadata)
    return prepared


def _counts(rows: DataFrame) -> list[Row]:
    return rows.groupBy(SPLIT).count().collect()
