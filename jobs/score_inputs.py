"""What is scored: the items, the users, and the pairs that are left out or asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from afm.artifact import Artifact
from afm.item_side import ItemSide, prepare_items
from afm.slots import from_arrow
from conf.schema import Config
from conf.section import Scalar
from features import tables
from features.cross_table import CrossTable
from features.errors import DataError
from features.expressions import parse, type_of
from features.negatives import observed
from features.readable import readable_values
from features.sources import read as read_source
from features.spec import ITEM, SPLIT, UNSEEN, USER, Input, Prepared
from features.transform import Encoder


@dataclass(frozen=True)
class Items:
    """The items that are ranked, encoded, in the order of their keys."""

    table: pa.Table
    """``item_key`` and a column per field."""
    contexts: Mapping[str | None, Mapping[str, NDArray[Any]]]
    """Encoded value of each context field, by the context's name."""
    model: Artifact
    crosses: Mapping[str, CrossTable]

    @property
    def keys(self) -> pa.Array:
        """Their keys."""
        return self.table[ITEM].combine_chunks()

    def side(
        self, context: str | None, places: NDArray[np.int64], shift: float | None = None
    ) -> ItemSide:
        """Works out all that does not depend on the user, for some items.

        Args:
            context: Name of a context.
            places: Positions of the items, rising.
            shift: As ``prepare_items`` takes it.

        Returns:
            Their item side.
        """
        layout = self.model.layout
        own = [i for i in layout.inputs if i.side == "item"]
        # Without fields of the items, their positions say how many there are.
        columns = from_arrow(own, self.table.take(pa.array(places))) | {ITEM: places}
        return prepare_items(
            self.model.weights,
            layout,
            self.model.manifest.config.model.scale,
            columns,
            context=self.contexts[context],
            crosses=self.crosses,
            shift=shift,
        )


def read_items(spark: SparkSession, config: Config, prepared: Prepared, model: Artifact) -> Items:
    """Reads the items that ``score.items`` lets through.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        model: A model trained on them.

    Returns:
        The items.

    Raises:
        DataError: There are none, or a context field has no value.
    """
    versions = prepared.versions
    if "items" not in versions or "users" not in versions:
        raise DataError("scoring needs users and items: set keys.user and keys.item")
    root = config.tables.root
    vocabulary = tables.read_arrow(
        spark, root, "vocabulary", versions["vocabulary"], ["field", "value", "index"]
    )
    encoder = Encoder.of(prepared.spec, vocabulary)
    contexts = [i for i in model.layout.inputs if i.side == "context"]
    encoded = {
        name: encode_context(spark, name, values, encoder, contexts)
        for name, values in config.score.situations.items()
    }
    if config.score.items is None:
        columns = [ITEM, *(i.name for i in model.layout.inputs if i.side == "item")]
        table = tables.read_arrow(spark, root, "items", versions["items"], columns).sort_by(ITEM)
    else:
        table = chosen(spark, config, "items", versions["items"], model).toArrow().sort_by(ITEM)
    if not len(table):
        if config.score.items is None:
            raise DataError("the table items has no rows. Run jobs/prepare.py again")
        raise DataError(f"score.items: no item meets {config.score.items!r}")
    return Items(table, encoded, model, encoder.crosses)


def chosen(
    spark: SparkSession, config: Config, side: str, version: int, model: Artifact
) -> DataFrame:
    """The users or the items that are scored, encoded.

    Args:
        spark: The session.
        config: The pipeline, whose ``score.users`` and ``score.items`` choose.
        side: ``users`` or ``items``.
        version: Of that table.
        model: The model.

    Returns:
        The key and a column per field that the model looks at.

    Raises:
        DataError: The condition does not fit the table.
    """
    frame = tables.read(spark, config.tables.root, side, version)
    condition: str | None = getattr(config.score, side)
    if condition is not None:
        where = f"score.{side}"
        holds = parse(frame, condition, where)
        if not isinstance(type_of(frame, holds), T.BooleanType):
            raise DataError(f"{where}: {condition!r} is not a condition, such as `age > 0`")
        frame = frame.where(holds)
    inputs = [i.name for i in model.layout.inputs if f"{i.side}s" == side]
    return frame.select(USER if side == "users" else ITEM, *inputs)


def encode_context(
    spark: SparkSession,
    name: str | None,
    values: Mapping[str, Scalar | None],
    encoder: Encoder,
    inputs: Sequence[Input],
) -> dict[str, NDArray[Any]]:
    """Encodes the values of a context, as ``prepare`` encodes a log's.

    Args:
        spark: The session.
        name: The context's; None for ``score.context`` alone.
        values: A value per context field.
        encoder: Spec and vocabularies.
        inputs: The context fields.

    Returns:
        An encoded value per field.

    Raises:
        DataError: A field has no value, or one that no training row had.
    """
    if not inputs:
        return {}
    where = "score.context" if name is None else f"score.contexts, {name!r}"
    names = dict.fromkeys(encoder.fields[i.name].config.name for i in inputs if not i.parents)
    lacking = [field for field in names if field not in values]
    if lacking:
        raise DataError(
            f"{where}: give a value for {', '.join(lacking)} (null for a missing one): "
            "recommendations are made for one context at a time"
        )
    fields = [f.config for f in encoder.spec.fields if f.config.name in names]
    readable = readable_values(spark, fields, values).toArrow()
    columns = encoder.encode(readable.combine_chunks().to_batches()[0].column, inputs)
    for wanted in inputs:
        if wanted.encode != "value" and wanted.parents is None and UNSEEN in columns[wanted.name]:
            known = encoder.vocabularies[wanted.name].slice(0, 10).to_pylist()
            raise DataError(
                f"{where}: {wanted.name} = {values[wanted.name]!r}: no training row had it. "
                f"The most frequent are {', '.join(known)}"
            )
    return {name: column[0] for name, column in columns.items()}


def with_pairs(users: DataFrame, pairs: DataFrame) -> DataFrame:
    """Puts users and pairs that are theirs into one frame, for :class:`jobs.scoring_tasks.Ranker`.

    Args:
        users: Encoded users.
        pairs: ``user_key`` and ``item_key``.

    Returns:
        A row for each user, without an item, and one for each pair, without fields.
    """
    return users.unionByName(pairs, allowMissingColumns=True)


def wanted_pairs(
    spark: SparkSession, config: Config, prepared: Prepared, users: DataFrame, items: Items
) -> DataFrame:
    """The pairs of ``score.candidates`` that can be scored, without those that are excluded.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: Encoded users.
        items: The items.

    Returns:
        ``user_key`` and ``item_key``, each pair once.

    Raises:
        DataError: The candidates table lacks a column.
    """
    assert config.score.candidates is not None
    wanted = read_source(spark, config.score.candidates, "score.candidates")
    lacking = [c for c in (USER, ITEM) if c not in wanted.columns]
    if lacking:
        raise DataError(f"score.candidates has no column {', '.join(lacking)}")
    seen = seen_pairs(spark, config, prepared.versions["features"])
    # With keys of the log's types, so that they compare as keys do.
    keys = [F.col(key).try_cast(seen.schema[key].dataType).alias(key) for key in (USER, ITEM)]
    known = F.broadcast(spark.createDataFrame(pa.table({ITEM: items.keys})))
    pairs = (
        wanted.select(*keys).join(seen, [USER, ITEM], "left_anti").join(known, ITEM, "left_semi")
    )
    return pairs.join(users, USER, "left_semi").select(USER, ITEM).distinct()


def excluded_pairs(
    spark: SparkSession, config: Config, prepared: Prepared, users: DataFrame
) -> DataFrame:
    """Pairs that must not be recommended, some of them maybe of other users and items.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: The users that are scored.

    Returns:
        ``user_key`` and ``item_key``, in as many rows as the log has.
    """
    pairs = seen_pairs(spark, config, prepared.versions["features"])
    pairs = pairs.where(F.col(USER).isNotNull() & F.col(ITEM).isNotNull())
    if not config.score.exclude_seen:
        return pairs.limit(0)
    return pairs if config.score.users is None else pairs.join(users, USER, "left_semi")


def seen_pairs(spark: SparkSession, config: Config, version: int) -> DataFrame:
    """The user and item keys of interactions whose items ``score.exclude_seen`` excludes.

    Args:
        spark: The session.
        config: The pipeline.
        version: Of the table ``features``.

    Returns:
        ``user_key`` and ``item_key``, in as many rows as the log has.
    """
    log = observed(tables.read(spark, config.tables.root, "features", version))
    return log.where(F.col(SPLIT).isin(list(config.score.exclude_seen))).select(USER, ITEM)
