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
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark import SparkFiles
from pyspark.sql import SparkSession
from pyspark.sql import types as T
from pyspark.sql.pandas.types import to_arrow_schema

from afm.errors import DivergedError
from afm.explain import explain_ranking
from afm.item_side import ItemSide
from afm.link import to_probability
from afm.scoring import USERS_AT_ONCE, Ranking, best_of, recommend, recommend_among
from afm.slots import from_arrow
from conf.schema import Config
from conf.training import Loss
from features import tables
from features.errors import DataError
from features.python_tasks import Work
from features.spec import ITEM, USER, Input, Prepared
from jobs.score_inputs import Items

CONTEXT = "context"
_ROWS_AT_ONCE = 1_048_576
"""Recommendations that a task holds."""
_FEWEST_USERS = 1_024
"""Users that come at once, however many items are kept: so many share most work."""
_ROWS_EXPLAINED = 262_144
"""Recommendations explained at once: many, for most pairs of fields are the same in several."""

_EXPLANATION = (
    "ARRAY<STRUCT<field_a: STRING, field_b: STRING, attention: FLOAT, contribution: FLOAT>>"
)


@dataclass(frozen=True)
class Block:
    """Some items in a context, as tasks hold them."""

    places: NDArray[np.int64]
    """Their positions among all, rising."""
    keys: pa.Array
    side: ItemSide

    def at(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in the block items are that have these positions among all."""
        first, last = self.places[0], self.places[-1]
        if last - first == len(self.places) - 1:  # without gaps, as all blocks but of new items
            there: NDArray[np.int64] = places - first
            return there
        return np.searchsorted(self.places, places)


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
            batches: Users and their pairs, as :func:`jobs.score_inputs.with_pairs` puts them
                together, by ``user_key``, then ``item_key``.

        Yields:
            Rows of the table ``scores``, those of a user together, by context, then rank.
        """
        rows = self.top_k * len(self.contexts)
        step = min(USERS_AT_ONCE, max(_FEWEST_USERS, _ROWS_AT_ONCE // rows))
        for users, pairs in _by_users(batches, step):
            yield from self._rank_users(users, pairs)

    def _rank_users(self, batch: pa.Table, pairs: "_Pairs") -> Iterator[pa.RecordBatch]:
        users = from_arrow(self.inputs, batch)
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


class _Pairs(NamedTuple):
    """Pairs of users and items."""

    user: NDArray[np.int64]
    """Positions of the users."""
    item: pa.Array
    """Keys of the items."""


def _by_users(batches: Iterable[pa.RecordBatch], step: int) -> Iterator[tuple[pa.Table, _Pairs]]:
    """Takes users and pairs apart, some users with all their pairs at a time."""
    held: list[pa.RecordBatch] = []
    users = 0
    for batch in batches:
        held.append(batch)
        users += batch.column(ITEM).null_count
        while users > step:
            table = pa.Table.from_batches(held).combine_chunks()
            end = int(np.flatnonzero(table[ITEM].is_null())[step])
            yield _apart(table.slice(0, end))
            held, users = table.slice(end).to_batches(), users - step
    if held:
        yield _apart(pa.Table.from_batches(held).combine_chunks())


def _apart(table: pa.Table) -> tuple[pa.Table, _Pairs]:
    is_user = table[ITEM].is_null().to_numpy()
    users, pairs = table.filter(is_user), table.filter(~is_user)
    user = (np.cumsum(is_user) - 1)[~is_user].clip(min=0)
    if not len(users):
        return users, _Pairs(user[:0], pairs[ITEM].slice(0, 0).combine_chunks())
    # A pair of a user that is not scored comes after another one.
    theirs = pc.equal(pairs[USER], users[USER].take(pa.array(user)))
    user = user[theirs.to_numpy(zero_copy_only=False)]
    return users, _Pairs(user, pairs.filter(theirs)[ITEM].combine_chunks())


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
    ranker: Ranker, file: BlockFile, users: Mapping[str, NDArray[Any]], pairs: _Pairs
) -> Ranking:
    """Ranks the items of a block, with positions among all."""
    block = _load(file)
    at = pc.index_in(pairs.item, block.keys)
    here = at.is_valid().to_numpy(zero_copy_only=False)
    ranked = recommend_among if ranker.among else recommend
    places = at.drop_null().to_numpy().astype(np.int64)
    ranking = ranked(block.side, users, ranker.top_k, (pairs.user[here], places))
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


def _at_least(ranking: Ranking, probability: float, loss: Loss) -> Ranking:
    """The rows with at least this probability: the first ones of each user."""
    if probability == 0.0:
        return ranking
    return _taken(ranking, to_probability(ranking.logit, loss) >= probability)


def _to_rows(
    user_keys: pa.ChunkedArray, users: Mapping[str, NDArray[Any]], some: _Some, ranker: Ranker
) -> pa.Table:
    block, ranking = _load(some.file), some.ranking
    if not np.isfinite(ranking.logit).all():
        raise DivergedError(
            "the model's scores are no finite numbers: its weights are too large. "
            "Lower train.learning_rate, and train again"
        )
    at = block.at(ranking.item)
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
