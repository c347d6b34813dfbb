"""The encoded tables of a pipeline: ``features``, and ``users`` and ``items`` for scoring."""

from collections.abc import Mapping

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema

from conf.names import is_url
from conf.schema import Config
from features import tables
from features.clean import KEYS, has_table, latest_rows, with_strangers
from features.history import latest_history
from features.negatives import observed
from features.new_files import commit_files
from features.row_groups import RowGroups
from features.spec import FIRST, LABEL, ROW, SAMPLED, SPLIT, WEIGHT, FeatureSpec, Input
from features.transform import Encoder
from features.transform_files import encode_files
from features.transform_frame import encode_frame

_ROWS_PER_FILE = 1_000_000


def load_encoder(
    spark: SparkSession, config: Config, spec: FeatureSpec, version: int
) -> tuple[Encoder, DataFrame]:
    """A published spec with its vocabularies.

    Args:
        spark: The session.
        config: The pipeline.
        spec: The spec.
        version: Of the table ``vocabulary`` that belongs to it.

    Returns:
        The encoder, which holds the head of large vocabularies, and the whole table.
    """
    whole = tables.read(spark, config.tables.root, "vocabulary", version)
    limit = config.prepare.broadcast_values
    listed = [f.config.name for f in spec.fields if f.config.encode == "multi"]
    listed += [h.config.of for h in spec.histories]
    listed += [c.config.name for c in spec.crosses]
    held = (F.col("index") < FIRST + limit) | F.col("field").isin(listed)
    return Encoder.of(spec, whole.where(held).toArrow()), whole


def write_features(
    interactions: DataFrame,
    groups: RowGroups | None,
    encoder: Encoder,
    vocabulary: DataFrame,
    root: str,
    metadata: Mapping[str, str],
    *,
    append: bool = False,
) -> int:
    """Encodes readable rows and writes them, partitioned by split.

    Args:
        interactions: The rows, as their files hold them.
        groups: Their row groups, where Python can read them.
        encoder: The spec and its vocabularies.
        vocabulary: The whole vocabulary.
        root: Folder of the tables.
        metadata: What the commit says of itself.
        append: Add to the rows that the table has.

    Returns:
        The version of ``features``.
    """
    spark = interactions.sparkSession
    carried = [*KEYS.values(), LABEL, WEIGHT, ROW, SAMPLED]
    keep = [c for c in carried if c in interactions.columns]
    if groups is not None and not is_url(root) and not encoder.tails:
        folder = tables.table_path(root, "features")
        files = encode_files(spark, groups, encoder, keep, folder)
        schema = _arrow_schema(interactions, keep, encoder.spec.inputs)
        return commit_files(folder, files, schema, metadata, partition_by=[SPLIT], append=append)
    encoded = encode_frame(interactions, encoder, encoder.spec.inputs, [*keep, SPLIT], vocabulary)
    # Training hands out row groups, and here a file has one: enough of them for 16 ranks, as long
    # as one is worth opening.
    rows = interactions.count()
    parts = max(1, min(16, rows // 1_024), rows // _ROWS_PER_FILE)
    # Sorted by the seeded hash, rows lie shuffled, and in the same order after every rerun. SPLIT
    # leads because the partitioned write would sort by it again.
    weight = [WEIGHT] if WEIGHT in keep else []
    order = [SPLIT, ROW, LABEL, *(i.name for i in encoder.spec.inputs), *weight]
    ordered = encoded.repartition(parts, ROW).sortWithinPartitions(*order)
    return tables.write(ordered, root, "features", metadata, partition_by=[SPLIT], append=append)


def write_sides(
    config: Config,
    interactions: DataFrame,
    sides: Mapping[str, DataFrame],
    encoder: Encoder,
    vocabulary: DataFrame,
    metadata: Mapping[str, str],
) -> dict[str, int]:
    """Encodes each user and each item once and writes them, for scoring.

    Args:
        config: The pipeline.
        interactions: All readable rows.
        sides: Readable users and items that have a table of their own; the others follow from
            the log.
        encoder: The spec and its vocabularies.
        vocabulary: The whole vocabulary.
        metadata: What the commits say of themselves.

    Returns:
        The versions of ``users`` and ``items``, as far as there are keys for them.
    """
    versions = {}
    log = observed(interactions)
    for side in ("user", "item"):
        if getattr(config.keys, side) is None:
            continue
        key = KEYS[side]
        known = readable_side(config, log, sides, side)
        if side == "user" and config.history:
            known = known.join(latest_history(log, config.history), key, "left")
        shown = [f.name for f in config.fields if f.side == side and f.encode == "none"]
        inputs = [i for i in encoder.spec.inputs if i.side == side]
        encoded = encode_frame(known, encoder, inputs, [key, *shown], vocabulary)
        root = config.tables.root
        versions[f"{side}s"] = tables.write(encoded.orderBy(key), root, f"{side}s", metadata)
    return versions


def readable_side(
    config: Config, log: DataFrame, sides: Mapping[str, DataFrame], side: str
) -> DataFrame:
    """The users or the items: those of their own table and of the log, or as the log has them last.

    Args:
        config: The pipeline.
        log: Readable interactions, none of them sampled.
        sides: Readable users and items that have a table of their own.
        side: ``user`` or ``item``.

    Returns:
        One row per key, with the key and the side's fields.
    """
    if has_table(config, side):
        return with_strangers(sides[side], log, KEYS[side])
    return latest_rows(log, side, [f.name for f in config.fields if f.side == side])


def _arrow_schema(frame: DataFrame, keep: list[str], inputs: tuple[Input, ...]) -> pa.Schema:
    types = {"index": pa.int32(), "value": pa.float32(), "multi": pa.list_(pa.int32())}
    kept = to_arrow_schema(frame.select(*keep).schema, timestamp_utc=True)
    encoded = [pa.field(i.name, types[i.encode]) for i in inputs]
    return pa.schema([*kept, *encoded, pa.field(SPLIT, pa.string())])
