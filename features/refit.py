"""Learns a new spec from all rows that the tables hold by now, and says how far it moved."""

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config
from features import publication, tables
from features.accept import Report, clean_sides, commit_metadata
from features.errors import DataError
from features.interactions import write_interactions
from features.negatives import observed
from features.prepare import Written, learn_and_publish
from features.sources import pin
from features.spec import SPLIT, FittedField, Prepared
from features.split import fit_split


def refit(spark: SparkSession, config: Config, report: Report = lambda _: None) -> Prepared:
    """Fits the published interactions anew and encodes them again.

    The interactions stay as they are, but for what depends on all of them: a split by time or by
    each user's last rows, histories that changed, and negatives, which are sampled anew. Models of
    the old spec stay usable with the last tables that had it.

    Args:
        spark: A session with Delta Lake.
        config: The pipeline; encodings may differ from the published ones, expressions may not.
        report: Called with a line after each step, and for each field that moved.

    Returns:
        What was published.

    Raises:
        DataError: Nothing was prepared yet, or with this configuration rows would be read
            otherwise. Nothing was published then.
    """
    root = config.tables.root
    before = publication.published(spark, root)
    changed = before.spec.read_otherwise_by(config)
    changed += ["weight"] * (before.weight != config.weight)
    if changed:
        raise DataError(
            "prepare.mode: refit takes the rows as they were read, but the configuration has "
            f"another {', '.join(changed)}. Use prepare.mode: all"
        )
    config = config.model_copy(update={"source": pin(spark, config.source)})
    sides = {side: table.accepted for side, table in clean_sides(spark, config).items()}
    metadata = commit_metadata(config)
    tables.restore(spark, root, "interactions", before.versions["interactions"])
    interactions = tables.read(spark, root, "interactions", before.versions["interactions"])
    versions = {name: before.versions[name] for name in ("interactions", "quarantine", "quality")}
    log = observed(interactions)
    spark.sparkContext.setJobDescription("splitting all rows anew")
    split = fit_split(config.split, log)
    histories = tuple(h.config for h in before.spec.histories)
    sampling = {before.negatives, config.negatives}
    if (
        split != before.spec.split
        or config.split.by == "last"
        or config.history != histories
        or sampling != {None}
    ):
        log = log.drop(SPLIT, *(h.name for h in histories))
        written_anew = write_interactions(
            spark, config, log, before.rows["interactions.accepted"], split, sides, metadata
        )
        versions["interactions"] = written_anew

    written = Written(split, versions, before.batches, before.rows, sides, metadata)
    after = learn_and_publish(spark, config, written, report)
    spark.sparkContext.setJobDescription("comparing with what was learned before")
    for line in moved(spark, root, before, after):
        report(line)
    return after


def moved(spark: SparkSession, root: str, before: Prepared, after: Prepared) -> list[str]:
    """Says how far a spec moved from another.

    Args:
        spark: The session.
        root: Folder of the tables.
        before: What was published with the old spec.
        after: What was published with the new one.

    Returns:
        A line for each field that moved, such as ``city: 3 new values (4.1% of training rows'
        values), 1 gone, 120 in all``.
    """
    old, new = (
        tables.read(spark, root, "vocabulary", p.versions["vocabulary"]) for p in (before, after)
    )
    listed = {f.config.name for f in after.spec.fields if f.config.encode in ("index", "multi")}
    lines = []
    for row in _changes(old, new).where(F.col("field").isin(list(listed))).collect():
        if row["new"] or row["gone"]:
            lines.append(
                f"{row['field']}: {row['new']:,} new values ({row['share']:.1%} of training rows' "
                f"values), {row['gone']:,} gone, {row['values']:,} in all"
            )
    previous = {f.config.name: f for f in before.spec.fields}
    for field in after.spec.fields:
        known = previous.get(field.config.name)
        if known is not None and (change := _change(known, field)):
            lines.append(f"{field.config.name}: {change}")
    return lines or ["nothing moved: all statistics are what they were"]


def _changes(old: DataFrame, new: DataFrame) -> DataFrame:
    """By field, how many values came and went."""
    both = old.select("field", "value", F.lit(True).alias("old")).join(
        new.select("field", "value", "count"), ["field", "value"], "full"
    )
    count, came = F.col("count"), F.col("old").isNull()
    return (
        both.groupBy("field")
        .agg(
            F.count_if(came).alias("new"),
            F.count_if(count.isNull()).alias("gone"),
            F.count(count).alias("values"),
            (F.sum(F.when(came, count).otherwise(0)) / F.sum(count)).alias("share"),
        )
        .orderBy("field")
    )


def _change(old: FittedField, new: FittedField) -> str:
    """What became of a field's fill, scaling and buckets."""
    changes = []
    if old.fill != new.fill:
        changes.append(f"missing values become {_short(new.fill)}, not {_short(old.fill)}")
    for name in ("log_minimum", "offset", "factor"):
        a, b = getattr(old.scaling, name), getattr(new.scaling, name)
        if a != b:
            changes.append(f"scaling {name} {_short(b)}, not {_short(a)}")
    if old.boundaries != new.boundaries:
        same = len(set(old.boundaries) & set(new.boundaries))
        changes.append(f"{len(new.boundaries) - same} of {len(new.boundaries)} boundaries differ")
    return ", ".join(changes)


def _short(value: float | str | None) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
