"""Scoring as Spark tasks: the item side goes to every task once, users come in blocks."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from afm.artifact import Artifact
from afm.explain import explain_ranking
from afm.forward import Columns
from afm.item_side import ItemSide, prepare_items
from afm.link import to_probability
from afm.scoring import Pairs, Ranking, recommend, recommend_among
from afm.slots import from_arrow
from conf.schema import Config, Loss
from features import tables
from features.errors import DataError
from features.negatives import observed
from features.python_tasks import map_in_arrow
from features.readable import readable_values
from features.sources import read as read_source
from features.spec import ITEM, SPLIT, UNSEEN, USER, Input, Prepared
from features.transform import Encoder

_USERS_PER_TASK = 16_384
_PLACES = "_places"
"""Column of the users: positions of the items they have seen, or are to be scored with."""

_SCORES = (
    "rank INT, probability FLOAT, logit FLOAT, "
    "explanation ARRAY<STRUCT<field_a: STRING, field_b: STRING, attention: FLOAT, "
    "contribution: FLOAT>>"
)


@dataclass(frozen=True)
class Items:
    """The items that are ranked, in the order of their keys."""

    keys: pa.Array
    side: ItemSide
    loss: Loss
    """What the model was trained for: how its scores are read."""


def load_items(spark: SparkSession, config: Config, prepared: Prepared, model: Artifact) -> Items:
    """Reads all items and works out everything that does not depend on the user.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        model: A model trained on them.

    Returns:
        The items.

    Raises:
        DataError: There are no items, or a context field has no value in ``score.context``.
    """
    root, versions = config.tables.root, prepared.versions
    if "items" not in versions or "users" not in versions:
        raise DataError("scoring needs users and items: set keys.user and keys.item")
    inputs = model.layout.inputs
    own = [i for i in inputs if i.side == "item"]
    encoded = tables.read(spark, root, "items", versions["items"])
    items = encoded.select(ITEM, *[i.name for i in own]).toArrow().sort_by(ITEM)
    vocabulary = tables.read(spark, root, "vocabulary", versions["vocabulary"]).toArrow()
    encoder = Encoder.of(prepared.spec, vocabulary)
    contexts = [i for i in inputs if i.side == "context"]
    side = prepare_items(
        model.weights,
        model.layout,
        model.manifest.config.model.scale,
        from_arrow(own, items),
        context=encode_context(spark, config, encoder, contexts),
        crosses=encoder.crosses,
    )
    return Items(items[ITEM].combine_chunks(), side, model.manifest.config.train.loss)


def encode_context(
    spark: SparkSession, config: Config, encoder: Encoder, inputs: Sequence[Input]
) -> dict[str, NDArray[Any]]:
    """Encodes the values that ``score.context`` gives, as ``prepare`` encodes a log's.

    Args:
        spark: The session.
        config: The pipeline.
        encoder: Spec and vocabularies.
        inputs: The context fields.

    Returns:
        An encoded value per field.

    Raises:
        DataError: A field has no value, or one that no training row had.
    """
    if not inputs:
        return {}
    values = config.score.context
    names = dict.fromkeys(encoder.fields[i.name].config.name for i in inputs if not i.parents)
    lacking = [name for name in names if name not in values]
    if lacking:
        raise DataError(
            f"score.context: give a value for {', '.join(lacking)} (null for a missing one): "
            "recommendations are made for one context"
        )
    fields = [f.config for f in encoder.spec.fields if f.config.name in names]
    readable = readable_values(spark, fields, values).toArrow()
    columns = encoder.encode(readable.combine_chunks().to_batches()[0].column, inputs)
    for wanted in inputs:
        if wanted.encode != "value" and wanted.parents is None and UNSEEN in columns[wanted.name]:
            known = encoder.vocabularies[wanted.name].slice(0, 10).to_pylist()
            raise DataError(
                f"score.context.{wanted.name} = {values[wanted.name]!r}: no training row had it. "
                f"The most frequent are {', '.join(known)}"
            )
    return {name: column[0] for name, column in columns.items()}


def score(
    spark: SparkSession, config: Config, prepared: Prepared, model: Artifact, items: Items
) -> DataFrame:
    """The best items of each user, lazily.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        model: The model.
        items: The items to rank.

    Returns:
        ``user_key``, ``item_key``, ``rank`` (1 is best), ``probability``, ``logit`` and
        ``explanation``, the pairs of fields with the largest attention.

    Raises:
        DataError: The candidates table lacks a column, or names nobody that is known.
    """
    root, versions = config.tables.root, prepared.versions
    users = tables.read(spark, root, "users", versions["users"])
    inputs = [i for i in model.layout.inputs if i.side == "user"]
    users = users.select(USER, *[i.name for i in inputs])
    log = tables.read(spark, root, "features", versions["features"])
    seen = observed(log).where(F.col(SPLIT).isin(list(config.score.exclude_seen)))
    seen = seen.select(USER, ITEM)
    best_of: Callable[[ItemSide, Columns, int, Pairs], Ranking]
    if config.score.candidates is None:
        best_of = recommend
        count = users.count()  # before the join, where the Delta log knows it
        users = users.join(_places(spark, seen, items.keys), USER, "left")
    else:
        best_of = recommend_among
        wanted = read_source(spark, config.score.candidates, "score.candidates")
        pairs = _typed_pairs(wanted, log).join(seen, [USER, ITEM], "left_anti")
        users = users.join(_places(spark, pairs, items.keys), USER)
        count = users.count()
        if not count:
            raise DataError("score.candidates: no pair is left that names a known user and item")
    tasks = max(spark.sparkContext.defaultParallelism, -(-count // _USERS_PER_TASK))
    # By range: each file then holds a range of users, and a query for one user reads one file.
    blocks = users.repartitionByRange(tasks, USER)

    shared = spark.sparkContext.broadcast(items)
    top_k, explained = config.score.top_k, config.score.explain

    def rank(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        side: ItemSide = shared.value.side
        for batch in batches:
            columns = from_arrow(inputs, batch)
            ranking = best_of(side, columns, top_k, _pairs(batch.column(_PLACES)))
            yield _to_rows(batch.column(USER), shared.value, columns, ranking, explained)

    keys = [f"{key} {log.schema[key].dataType.simpleString()}" for key in (USER, ITEM)]
    return map_in_arrow(blocks, rank, ", ".join([*keys, _SCORES]))


def _typed_pairs(wanted: DataFrame, log: DataFrame) -> DataFrame:
    """Candidates with keys of the log's types, so that they compare as keys do."""
    lacking = [c for c in (USER, ITEM) if c not in wanted.columns]
    if lacking:
        raise DataError(f"score.candidates has no column {', '.join(lacking)}")
    keys = [F.col(key).try_cast(log.schema[key].dataType).alias(key) for key in (USER, ITEM)]
    return wanted.select(*keys)


def _places(spark: SparkSession, pairs: DataFrame, keys: pa.Array) -> DataFrame:
    """For each user of some pairs, the positions of the items, each once."""
    numbered = pa.table({ITEM: keys, "_place": pa.array(range(len(keys)), pa.int32())})
    known = F.broadcast(spark.createDataFrame(numbered))
    placed = pairs.select(USER, ITEM).join(known, ITEM)
    return placed.groupBy(USER).agg(F.sort_array(F.collect_set("_place")).alias(_PLACES))


def _pairs(places: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = places.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    item = places.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return np.repeat(np.arange(len(places)), lengths), item


def _to_rows(
    user_keys: pa.Array,
    items: Items,
    users: Mapping[str, NDArray[Any]],
    ranking: Ranking,
    explained: int,
) -> pa.RecordBatch:
    why = explain_ranking(items.side, users, ranking, explained)
    rows, pairs = why.attention.shape
    reasons = pa.StructArray.from_arrays(
        [
            pa.array(column.ravel())
            for column in (
                why.field_a.astype(object),
                why.field_b.astype(object),
                why.attention,
                why.contribution,
            )
        ],
        names=["field_a", "field_b", "attention", "contribution"],
    )
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * pairs)
    probability = to_probability(ranking.logit, items.loss)
    columns = {
        USER: user_keys.take(pa.array(ranking.user)),
        ITEM: items.keys.take(pa.array(ranking.item)),
        "rank": pa.array(ranking.rank.astype(np.int32)),
        "probability": pa.array(probability.astype(np.float32)),
        "logit": pa.array(ranking.logit),
        "explanation": pa.ListArray.from_arrays(offsets, reasons),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))
