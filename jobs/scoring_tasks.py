"""Scoring as Spark tasks: items go to all tasks, in blocks, and users come to them in batches."""

import hashlib
import pickle
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from afm.artifact import Artifact
from afm.errors import DivergedError
from afm.explain import explain_ranking
from afm.item_side import ItemSide, prepare_items
from afm.link import to_probability
from afm.scoring import Pairs, Ranking, best_of, recommend, recommend_among
from afm.slots import from_arrow
from conf.schema import Config, Loss, Scalar
from features import tables
from features.cross_table import CrossTable
from features.errors import DataError
from features.expressions import parse, type_of
from features.negatives import observed
from features.python_tasks import Work
from features.readable import readable_values
from features.sources import read as read_source
from features.spec import ITEM, SPLIT, UNSEEN, USER, Input, Prepared
from features.transform import Encoder

CONTEXT = "context"
_PLACES = "_places"
"""Column of the users: positions of the items they have seen, or are to be scored with."""
_ROWS_AT_ONCE = 524_288
"""Recommendations that a task holds."""
_FEWEST_USERS = 1_024
"""Users that come at once, however many items are kept: so many share most work."""
_ROWS_EXPLAINED = 65_536

_EXPLANATION = (
    "ARRAY<STRUCT<field_a: STRING, field_b: STRING, attention: FLOAT, contribution: FLOAT>>"
)


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
    vocabulary = tables.read(spark, root, "vocabulary", versions["vocabulary"]).toArrow()
    encoder = Encoder.of(prepared.spec, vocabulary)
    contexts = [i for i in model.layout.inputs if i.side == "context"]
    encoded = {
        name: encode_context(spark, name, values, encoder, contexts)
        for name, values in config.score.situations.items()
    }
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


def with_places(
    spark: SparkSession, config: Config, prepared: Prepared, users: DataFrame, items: Items
) -> DataFrame:
    """Adds to each user the items it has seen, or those that it is to be scored with.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: Encoded users.
        items: The items.

    Returns:
        The users; of a candidates table, those that it names. :class:`Ranker` takes them.

    Raises:
        DataError: The candidates table lacks a column.
    """
    seen = seen_pairs(spark, config, prepared.versions["features"])
    if config.score.candidates is None:
        if not config.score.exclude_seen:
            return users.withColumn(_PLACES, F.lit(None).cast("array<int>"))
        return users.join(_places(spark, seen, items.keys), USER, "left")
    wanted = read_source(spark, config.score.candidates, "score.candidates")
    lacking = [c for c in (USER, ITEM) if c not in wanted.columns]
    if lacking:
        raise DataError(f"score.candidates has no column {', '.join(lacking)}")
    # With keys of the log's types, so that they compare as keys do.
    keys = [F.col(key).try_cast(seen.schema[key].dataType).alias(key) for key in (USER, ITEM)]
    pairs = wanted.select(*keys).join(seen, [USER, ITEM], "left_anti")
    return users.join(_places(spark, pairs, items.keys), USER)


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


def _places(spark: SparkSession, pairs: DataFrame, keys: pa.Array) -> DataFrame:
    """For each user of some pairs, the positions of the items, each once."""
    numbered = pa.table({ITEM: keys, "_place": pa.array(range(len(keys)), pa.int32())})
    known = F.broadcast(spark.createDataFrame(numbered))
    placed = pairs.join(known, ITEM)
    return placed.groupBy(USER).agg(F.sort_array(F.collect_set("_place")).alias(_PLACES))


@dataclass(frozen=True)
class Block:
    """Some items in a context, as tasks hold them."""

    places: NDArray[np.int64]
    """Their positions among all, rising."""
    keys: pa.Array
    side: ItemSide


@dataclass(frozen=True)
class BlockFile:
    """A file that every task finds, with a pickled :class:`Block`."""

    name: str
    digest: bytes
    """SHA-256 of its content: tasks unpickle what the driver wrote, and nothing else."""
    first: int
    """Position of its first item among all; blocks of a context follow each other."""
    last: int


@dataclass(frozen=True)
class Ranker:
    """Ranks items for batches of users; tasks get a copy of it."""

    inputs: tuple[Input, ...]
    """Fields of the users."""
    contexts: tuple[tuple[str | None, tuple[BlockFile, ...]], ...]
    """Contexts in the order of the configuration, and the items in each."""
    top_k: int
    min_score: float
    explained: int
    among: bool
    """Whether users come with candidates, or with what must not be recommended."""
    shifts: tuple[float, ...]
    """Of each context's attention logits."""
    loss: Loss
    """What the model was trained for: how its scores are read."""

    @classmethod
    def of(
        cls,
        spark: SparkSession,
        config: Config,
        items: Items,
        folder: Path,
        places: NDArray[np.int64] | None = None,
        shifts: tuple[float, ...] | None = None,
    ) -> "Ranker":
        """Prepares the items, block by block, and gives them to all tasks.

        Args:
            spark: The session.
            config: The pipeline.
            items: The items.
            folder: Where the blocks stay while tasks run.
            places: Positions of the items to rank, rising; all if left out.
            shifts: As another ranker has them.

        Returns:
            The ranker.
        """
        size = config.score.items_per_block
        if places is None:
            places = np.arange(len(items.table))
        contexts, found = [], []
        for number, context in enumerate(items.contexts):
            shift = None if shifts is None else shifts[number]
            files = []
            for part in np.split(places, range(size, len(places), size)):
                side = items.side(context, part, shift)
                shift = side.shift
                block = Block(part, items.keys.take(pa.array(part)), side)
                name = f"items-{uuid.uuid4()}"
                content = pickle.dumps(block, pickle.HIGHEST_PROTOCOL)
                (folder / name).write_bytes(content)
                spark.sparkContext.addFile(str(folder / name))
                digest = hashlib.sha256(content).digest()
                files.append(BlockFile(name, digest, int(part[0]), int(part[-1])))
            contexts.append((context, tuple(files)))
            found.append(side.shift)
        score = config.score
        return cls(
            inputs=tuple(i for i in items.model.layout.inputs if i.side == "user"),
            contexts=tuple(contexts),
            top_k=score.top_k,
            min_score=score.min_score or 0.0,
            explained=score.explain,
            among=score.candidates is not None,
            shifts=tuple(found),
            loss=items.model.manifest.config.train.loss,
        )

    def rank(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Ranks the items for users.

        Args:
            batches: Users, as :func:`with_places` makes them.

        Yields:
            Rows of the table ``scores``, those of a user together, by context, then rank.
        """
        rows = self.top_k * len(self.contexts)
        step = max(_FEWEST_USERS, _ROWS_AT_ONCE // rows)
        for batch in batches:
            for start in range(0, batch.num_rows, step):
                yield from self._rank_users(batch.slice(start, step))

    def _rank_users(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        users, pairs = from_arrow(self.inputs, batch), _pairs(batch.column(_PLACES))
        # Without fields of the users, their positions say how many there are.
        users = users | {USER: np.arange(batch.num_rows)}
        parts, order = [], []
        for number, (context, files) in enumerate(self.contexts):
            best = best_of([_rank(self, file, users, pairs) for file in files], self.top_k)
            best = _at_least(best, self.min_score, self.loss)
            for some in _split(best, files):
                rows = _to_rows(batch.column(USER), users, some, self)
                if context is not None:
                    names = pa.repeat(pa.scalar(context), len(rows))
                    rows = rows.add_column(1, CONTEXT, names)
                parts.append(rows)
                ranking = some.ranking
                order.append([ranking.rank, np.full(len(rows), number), ranking.user])
        if parts:
            rows = pa.concat_tables(parts)
            if len(parts) > 1:
                rows = rows.take(pa.array(np.lexsort(np.concatenate(order, axis=1))))
            yield from rows.combine_chunks().to_batches()


class _Some(NamedTuple):
    """Rows of a ranking whose items are in one block."""

    file: BlockFile
    ranking: Ranking
    """With positions of items among all."""


def _split(best: Ranking, files: Sequence[BlockFile]) -> Iterator[_Some]:
    """A ranking by blocks of items, in parts small enough to explain at once."""
    for file in files:
        here = np.flatnonzero((best.item >= file.first) & (best.item <= file.last))
        for start in range(0, len(here), _ROWS_EXPLAINED):
            rows = here[start : start + _ROWS_EXPLAINED]
            yield _Some(file, _taken(best, rows))


def _taken(ranking: Ranking, rows: NDArray[Any]) -> Ranking:
    return Ranking(ranking.user[rows], ranking.item[rows], ranking.rank[rows], ranking.logit[rows])


def _rank(
    ranker: Ranker, file: BlockFile, users: Mapping[str, NDArray[Any]], pairs: Pairs
) -> Ranking:
    """Ranks the items of a block, with positions among all."""
    block = _load(file)
    user, item = pairs
    at = np.searchsorted(block.places, item).clip(max=len(block.places) - 1)
    here = block.places[at] == item
    ranked = recommend_among if ranker.among else recommend
    ranking = ranked(block.side, users, ranker.top_k, (user[here], at[here]))
    return replace(ranking, item=block.places[ranking.item])


_loaded: dict[str, Block] = {}


def _load(file: BlockFile) -> Block:
    """A block of items; a task holds one at a time."""
    if file.name not in _loaded:
        content = Path(SparkFiles.get(file.name)).read_bytes()
        if hashlib.sha256(content).digest() != file.digest:
            raise DataError(f"scoring: {file.name} is not the file that the driver wrote")
        _loaded.clear()
        _loaded[file.name] = pickle.loads(content)
    return _loaded[file.name]


def score_schema(spark: SparkSession, config: Config, prepared: Prepared) -> T.StructType:
    """Columns of the table ``scores``.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables, which know the keys' types.

    Returns:
        The columns; those that :meth:`Ranker.rank` yields.
    """
    log = tables.read(spark, config.tables.root, "features", prepared.versions["features"])
    user, item = (f"{key} {log.schema[key].dataType.simpleString()}" for key in (USER, ITEM))
    context = [f"{CONTEXT} STRING"] if config.score.contexts else []
    rest = ["rank INT", "probability FLOAT", "logit FLOAT", f"explanation {_EXPLANATION}"]
    return spark.createDataFrame([], ", ".join([user, *context, item, *rest])).schema


def arrow_schema(schema: T.StructType) -> pa.Schema:
    """The same columns for Arrow."""
    return to_arrow_schema(schema, timestamp_utc=True)


def written_out(work: Work, schema: T.StructType) -> Work:
    """The same rows with each name written out: Spark reads no dictionaries within structs.

    Args:
        work: :meth:`Ranker.rank` of a ranker.
        schema: Of the table.
    """
    columns = arrow_schema(schema)

    def plain(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in work(batches):
            yield from pa.Table.from_batches([batch]).cast(columns).to_batches()

    return plain


def _pairs(places: pa.ListArray) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    lengths = places.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    item = places.flatten().to_numpy(zero_copy_only=False).astype(np.int64)
    return np.repeat(np.arange(len(places)), lengths), item


def _at_least(ranking: Ranking, probability: float, loss: Loss) -> Ranking:
    """The rows with at least this probability: the first ones of each user."""
    if probability == 0.0:
        return ranking
    return _taken(ranking, to_probability(ranking.logit, loss) >= probability)


def _to_rows(
    user_keys: pa.Array, users: Mapping[str, NDArray[Any]], some: _Some, ranker: Ranker
) -> pa.Table:
    block, ranking = _load(some.file), some.ranking
    if not np.isfinite(ranking.logit).all():
        raise DivergedError(
            "the model's scores are no finite numbers: its weights are too large. "
            "Lower train.learning_rate, and train again"
        )
    at = np.searchsorted(block.places, ranking.item)
    why = explain_ranking(block.side, users, replace(ranking, item=at), ranker.explained)
    (rows, pairs), names = why.attention.shape, pa.array(why.names)
    reasons = pa.StructArray.from_arrays(
        [
            pa.DictionaryArray.from_arrays(why.a.ravel(), names),
            pa.DictionaryArray.from_arrays(why.b.ravel(), names),
            pa.array(why.attention.ravel()),
            pa.array(why.contribution.ravel()),
        ],
        names=["field_a", "field_b", "attention", "contribution"],
    )
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * pairs)
    columns = {
        USER: user_keys.take(pa.array(ranking.user)),
        ITEM: block.keys.take(pa.array(at)),
        "rank": pa.array(ranking.rank.astype(np.int32)),
        "probability": pa.array(to_probability(ranking.logit, ranker.loss).astype(np.float32)),
        "logit": pa.array(ranking.logit),
        "explanation": pa.ListArray.from_arrays(offsets, reasons),
    }
    return pa.table(columns)
