"""The table ``interactions``: readable rows with what follows from other rows.

That is a row's part of the split, its user's history, and the negatives that are sampled for it.
"""

from collections.abc import Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config
from features import tables
from features.encoded_tables import readable_side
from features.history import with_history
from features.negatives import observed, with_negatives
from features.spec import SAMPLED, SPLIT, FittedSplit, Prepared
from features.split import part

_ROWS_PER_FILE = 100_000, 1_000_000
_FILES_PER_CORE = 8


def write_interactions(
    spark: SparkSession,
    config: Config,
    log: DataFrame,
    rows: int,
    split: FittedSplit,
    sides: Mapping[str, DataFrame],
    metadata: Mapping[str, str],
) -> int:
    """Writes readable interactions with their histories and split, and sampled ones beside them.

    Args:
        spark: The session.
        config: The pipeline.
        log: Readable interactions with the fields of users and items.
        rows: How many.
        split: How to split them.
        sides: Readable users and items that have a table of their own.
        metadata: What the commits say of themselves.

    Returns:
        The version of ``interactions``.
    """
    root = config.tables.root
    made = with_history(log.withColumn(SPLIT, part(split)), config.history)
    if config.negatives is not None:
        made = made.withColumn(SAMPLED, F.lit(False))
    # What comes next reads row groups side by side: enough for all cores, yet worth opening.
    least, most = _ROWS_PER_FILE
    files = _FILES_PER_CORE * spark.sparkContext.defaultParallelism
    size = min(max(rows // files, least), most)
    version = tables.write(made, root, "interactions", metadata, rows_per_file=size)
    if config.negatives is None:
        return version
    written = observed(tables.read(spark, root, "interactions", version))
    items = readable_side(config, written, sides, "item")
    return _add_sampled(with_negatives(written, items, config.negatives), root, metadata)


def add_interactions(
    spark: SparkSession,
    config: Config,
    log: DataFrame,
    sides: Mapping[str, DataFrame],
    before: Prepared,
    metadata: Mapping[str, str],
) -> int:
    """Adds rows to those written, with their histories and with sampled ones beside them.

    Args:
        spark: The session.
        config: The pipeline.
        log: Readable interactions with the fields of users and items, and their split.
        sides: Readable users and items that have a table of their own.
        before: What was published; its interactions are what the rows follow on.
        metadata: What the commits say of themselves.

    Returns:
        The version of ``interactions``.
    """
    root = config.tables.root
    published = before.versions["interactions"]
    earlier = observed(tables.read(spark, root, "interactions", published))
    rows = with_history(log, config.history, earlier)
    if config.negatives is None:
        return tables.write(rows, root, "interactions", metadata, append=True)
    rows = rows.withColumn(SAMPLED, F.lit(False))
    version = tables.write(rows, root, "interactions", metadata, append=True)
    written = observed(tables.new_rows(spark, root, "interactions", published, version))
    everything = observed(tables.read(spark, root, "interactions", version))
    items = readable_side(config, everything, sides, "item")
    return _add_sampled(with_negatives(written, items, config.negatives, earlier), root, metadata)


def _add_sampled(rows: DataFrame, root: str, metadata: Mapping[str, str]) -> int:
    """Adds the sampled ones of some rows; the others are written already."""
    return tables.write(rows.where(SAMPLED), root, "interactions", metadata, append=True)
