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

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config, digest
from features import tables
from features.clean import (
    KEYS,
    check_orphans,
    clean_interactions,
    clean_side,
    has_table,
    join_sides,
    latest_rows,
    with_strangers,
)
from features.errors import DataError
from features.findings import Tally, quality_frame, require_quality, tally
from features.fit import fit
from features.sources import pin
from features.spec import LABEL, ROW, SPLIT, SPLITS, FeatureSpec, Input, Prepared
from features.split import fit_split, part
from features.transform import Encoder, encode_frame

_ROWS_PER_FILE = 1_000_000


def prepare(
    spark: SparkSession, config: Config, report: Callable[[str], None] = lambda _: None
) -> Prepared:
    """Makes the tables of a pipeline and publishes them together.

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
    sides = {s: clean_side(spark, config, s) for s in ("user", "item") if has_table(config, s)}
    log = check_orphans(clean_interactions(spark, config), sides, config)
    tallies = [tally(checked) for checked in (log, *sides.values())]
    require_quality(tallies)
    rows = _source_rows(tallies)
    report(
        f"read {rows['interactions.read']:,} interactions, "
        f"quarantined {rows['interactions.quarantined']:,}"
    )

    metadata = {"job": "prepare", "config": digest(config.model_dump_json())}
    metadata |= _source_versions(config)
    accepted_sides = {side: checked.accepted for side, checked in sides.items()}
    split = fit_split(config.split, log.accepted)
    readable = join_sides(log.accepted, accepted_sides).withColumn(SPLIT, part(split))
    versions = {"interactions": tables.write(readable, root, "interactions", metadata)}
    refused = reduce(DataFrame.union, [c.quarantine for c in (log, *sides.values())])
    versions["quarantine"] = tables.write(refused, root, "quarantine", metadata)
    quality = quality_frame(spark, tallies)
    versions["quality"] = tables.write(quality, root, "quality", metadata)
    interactions = tables.read(spark, root, "interactions", versions["interactions"])
    rows |= _split_rows(interactions)
    report("split into " + ", ".join(f"{rows[s]:,} {s}" for s in SPLITS))

    train = interactions.where(F.col(SPLIT) == SPLITS[0])
    spec, vocabulary = fit(config, train, split)
    report(f"learned {len(vocabulary):,} values of {len(spec.inputs)} fields from training rows")

    metadata["spec"] = spec.hash
    encoder = Encoder.of(spec, vocabulary)
    versions["vocabulary"] = tables.write(
        spark.createDataFrame(vocabulary).coalesce(1), root, "vocabulary", metadata
    )
    versions["features"] = _write_features(interactions, encoder, root, metadata, rows["train"])
    for side in ("user", "item"):
        if getattr(config.keys, side) is not None:
            known = accepted_sides.get(side)
            if known is None:
                names = [f.name for f in config.fields if f.side == side]
                known = latest_rows(interactions, side, names)
            else:
                known = with_strangers(known, interactions, KEYS[side])
            versions[f"{side}s"] = _write_side(known, encoder, side, root, metadata)
    report(
        f"encoded {', '.join(name for name in versions if name not in ('quarantine', 'quality'))}"
    )

    prepared = Prepared(spec=spec, versions=versions, rows=rows)
    tables.publish(spark, root, prepared, metadata)
    return prepared


def _source_rows(tallies: list[Tally]) -> dict[str, int]:
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


def _source_versions(config: Config) -> dict[str, str]:
    delta = {
        name: table
        for name, table in config.source
        if table is not None and table.format == "delta"
    }
    return {f"source.{name}": f"{table.path}@{table.version}" for name, table in delta.items()}


def _write_features(
    interactions: DataFrame,
    encoder: Encoder,
    root: str,
    metadata: dict[str, str],
    train_rows: int,
) -> int:
    keys = [c for c in KEYS.values() if c in interactions.columns]
    inputs = encoder.spec.inputs
    encoded = encode_frame(interactions, encoder, inputs, keep=[*keys, LABEL, ROW, SPLIT])
    # Training hands out files: enough of them for 16 ranks, as long as one is worth opening.
    files = max(1, min(16, train_rows // 1_024), train_rows // _ROWS_PER_FILE)
    # Sorted by the seeded hash, rows lie shuffled, and in the same order after every rerun. SPLIT
    # leads because the partitioned write would sort by it again.
    order = [SPLIT, ROW, LABEL, *(i.name for i in inputs)]
    ordered = encoded.repartition(files, ROW).sortWithinPartitions(*order)
    return tables.write(ordered, root, "features", metadata, partition_by=[SPLIT])


def _write_side(
    readable: DataFrame, encoder: Encoder, side: str, root: str, metadata: dict[str, str]
) -> int:
    key = KEYS[side]
    shown = [
        f.config.name
        for f in encoder.spec.fields
        if f.config.side == side and f.config.encode == "none"
    ]
    encoded = encode_frame(readable, encoder, side_inputs(encoder.spec, side), [key, *shown])
    return tables.write(encoded.orderBy(key), root, f"{side}s", metadata)


def side_inputs(spec: FeatureSpec, side: str) -> list[Input]:
    """The inputs that follow from a user alone, or from an item alone."""
    return [i for i in spec.inputs if i.side == side]
