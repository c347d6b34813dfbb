"""Negatives: for each positive row, rows with label 0 of items that its user does not have.

An item is drawn for a positive row by a hash of (seed, row, number of the attempt), in proportion
to the items' weights; items that the user has in any row of the log, and those drawn before for
that row, are passed over. So the result is a function of the rows and the seed: no partitioning,
order or retry changes it. Every positive row gets exactly ``per_positive`` negatives, or as many as
there are items that its user does not have.

Attempts go on as long as there are fewer of them than items left to the user. Beyond that, as for a
user who has nearly the whole catalogue, all items left get a seeded key, and the smallest win
(Efraimidis and Spirakis, IPL 2006): the same distribution, at a cost of at most the items left to
that user, per row.

The keys of all items go through the driver and are broadcast: fine for millions.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from conf.features import Negatives
from features.cross_table import mixed
from features.errors import DataError
from features.python_tasks import map_in_arrow
from features.runs import starts
from features.spec import ITEM, LABEL, ROW, SAMPLED, SPLIT, SPLITS, USER

CODE = "_code"
"""Column with the place of an item among the sorted keys."""

_DRAWN, _DRAW = "_drawn", "_draw"
_BLOCK = 1 << 20
"""Attempts that are looked at together: what bounds the memory."""

Codes = NDArray[np.int64]


def observed(log: DataFrame) -> DataFrame:
    """The rows of a log that were not sampled."""
    return log.where(~F.col(SAMPLED)).drop(SAMPLED) if SAMPLED in log.columns else log


def with_negatives(
    log: DataFrame, items: DataFrame, negatives: Negatives, earlier: DataFrame | None = None
) -> DataFrame:
    """Adds sampled negatives to a log.

    A sampled row is its positive row, with the key and the fields of another item, label 0 and a
    ``row`` of its own. The log is read several times: hand over a table, not the work of making it.

    Args:
        log: Readable interactions of all splits.
        items: One row per ``item_key``, with all readable fields of the items.
        negatives: How many to sample, and how.
        earlier: Interactions that were prepared before; a user has their items too, and they
            count for the popularity of items, but no negatives are sampled for them.

    Returns:
        The rows of the log and the sampled ones, told apart by the boolean column ``sampled``.

    Raises:
        DataError: Items are to be drawn by popularity, and no training row is positive.
    """
    positive = log.where(F.col(LABEL) == 1)
    known = [USER, ITEM, LABEL, SPLIT]
    everything = log if earlier is None else log.select(known).union(earlier.select(known))
    keys, candidates = _candidates(everything.where(F.col(LABEL) == 1), items, negatives)
    codes = F.broadcast(
        log.sparkSession.createDataFrame(
            pa.table({ITEM: keys, CODE: pa.array(range(len(keys)), pa.int32())})
        )
    )
    drawn = positive.join(_drawn(positive, everything, codes, candidates, negatives), [USER, ROW])
    own = [c for c in items.columns if c in log.columns and c != ITEM]
    kept = [c for c in log.columns if c not in (*own, ITEM, LABEL)]
    sampled = (
        drawn.select(*kept, F.posexplode(_DRAWN).alias(_DRAW, CODE))
        .join(codes, CODE)
        .join(items.select(ITEM, *own), ITEM)
        .withColumn(LABEL, F.lit(0).cast(log.schema[LABEL].dataType))
        .withColumn(ROW, F.xxhash64(F.lit(negatives.seed), ROW, _DRAW))
        .withColumn(SAMPLED, F.lit(True))
    )
    return log.withColumn(SAMPLED, F.lit(False)).unionByName(sampled.select(*log.columns, SAMPLED))


def _candidates(
    positive: DataFrame, items: DataFrame, negatives: Negatives
) -> tuple[pa.Array, "Candidates"]:
    """The sorted keys of all items, and how likely each is drawn."""
    if negatives.by == "uniform":
        keys = items.select(ITEM).toArrow().sort_by(ITEM)[ITEM]
        return keys, Candidates(len(keys))
    # Of training rows only, so that no held-out row shapes what is learned.
    train = positive.where(F.col(SPLIT) == SPLITS[0]).groupBy(ITEM).count()
    counted = items.select(ITEM).join(train, ITEM, "left").fillna(0, "count")
    table = counted.toArrow().sort_by(ITEM)
    counts = table["count"].to_numpy()
    if not counts.any():
        raise DataError(
            "negatives.by: popularity finds no positive training row; use negatives.by: uniform "
            "or check label and split"
        )
    return table[ITEM], Candidates(len(table), counts)


def _drawn(
    positive: DataFrame,
    log: DataFrame,
    codes: DataFrame,
    candidates: "Candidates",
    negatives: Negatives,
) -> DataFrame:
    """The codes drawn for each name of a positive row: ``user_key``, ``row`` and ``_drawn``."""
    null = F.lit(None)
    mine = log.join(positive.select(USER).distinct(), USER, "left_semi")
    seen = mine.join(codes, ITEM).select(USER, null.cast("bigint").alias(ROW), CODE)
    wanted = positive.select(USER, ROW, null.cast("int").alias(CODE))
    # Of each user, nulls and thus seen items first, then the names of rows.
    ordered = seen.union(wanted).repartition(USER).sortWithinPartitions(USER, ROW)
    shared = log.sparkSession.sparkContext.broadcast(candidates)

    def draw(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return draw_batches(batches, shared.value, negatives)

    key = log.schema[USER].dataType.simpleString()
    return map_in_arrow(ordered, draw, f"{USER} {key}, {ROW} bigint, {_DRAWN} array<int>")


@dataclass(frozen=True, eq=False)
class Candidates:
    """The items to draw from, V of them, known by their codes 0 … V - 1."""

    size: int
    """V."""
    counts: Codes | None = None
    """An item is drawn in proportion to its count (V,); None: all alike."""

    @cached_property
    def _cumulative(self) -> Codes | None:
        return None if self.counts is None else np.cumsum(self.counts)

    def at(self, uniform: NDArray[np.float64]) -> Codes:
        """The items that numbers in [0, 1) fall on."""
        if self._cumulative is None:
            return (uniform * self.size).astype(np.int64)
        place = uniform * self._cumulative[-1]
        codes: Codes = np.searchsorted(self._cumulative, place, side="right")
        return codes

    def keys(self, uniform: NDArray[np.float64], codes: Codes) -> NDArray[np.float64]:
        """Keys whose smallest are a draw without replacement; items without a count come last."""
        rate = 1.0 if self.counts is None else np.maximum(self.counts[codes], 1e-30)
        keys: NDArray[np.float64] = -np.log1p(-uniform) / rate
        return keys


def draw_batches(
    batches: Iterable[pa.RecordBatch], candidates: Candidates, negatives: Negatives
) -> Iterator[pa.RecordBatch]:
    """Draws for a log sorted by user, wherever it was cut into batches.

    Args:
        batches: All rows of a user together: first those with a ``_code`` and no ``row``, the items
            that the user has; then those with a ``row`` to draw for, in its order.
        candidates: The items to draw from.
        negatives: How many to draw.

    Yields:
        ``user_key``, ``row`` and ``_drawn``, the codes of the items drawn, for each distinct row.
    """
    user = row = None
    carried = np.zeros(0, np.int64)  # what the user of the last row has
    for batch in batches:
        if not batch.num_rows:
            continue
        users = starts(batch.column(USER), user)
        names = users | starts(batch.column(ROW), row)
        user, row = batch.column(USER)[-1], batch.column(ROW)[-1]
        group = np.cumsum(users)  # 0 is the user of the batch before
        named = batch.column(ROW).is_valid().to_numpy(zero_copy_only=False)
        has = batch.column(CODE).filter(pa.array(~named)).to_numpy()
        seen = np.unique(np.concatenate([carried, group[~named] * candidates.size + has]))
        carried = seen[seen >= group[-1] * candidates.size] - group[-1] * candidates.size
        wanted = named & names
        found = batch.select([USER, ROW]).filter(pa.array(wanted))
        drawn = draw(found.column(ROW).to_numpy(), group[wanted], seen, candidates, negatives)
        yield pa.RecordBatch.from_arrays(
            [*found.columns, _lists(drawn)], names=[*found.schema.names, _DRAWN]
        )


def draw(
    rows: Codes, users: Codes, seen: Codes, candidates: Candidates, negatives: Negatives
) -> Codes:
    """Draws items for rows, none twice for the same row and none that its user has.

    Args:
        rows: Names of the rows (B,).
        users: The user of each, as a number that rises or stays (B,).
        seen: user · V + code for each item that a user has, rising strictly.
        candidates: The V items to draw from.
        negatives: ``per_positive``, P, and the seed.

    Returns:
        Codes (B, P) in the order of the draws, -1 where no item is left.
    """
    drawn = np.full((len(rows), negatives.per_positive), -1, np.int64)
    held = np.searchsorted(seen, (users + 1) * candidates.size)
    held -= np.searchsorted(seen, users * candidates.size)
    left = candidates.size - held
    attempts = negatives.per_positive + 4
    short = np.arange(len(rows))
    while len(going := short[left[short] > attempts]):
        for some in _pieces(going, attempts):
            drawn[some] = _attempted(rows[some], users[some], seen, candidates, negatives, attempts)
        short = np.flatnonzero(drawn[:, -1] < 0)
        attempts *= 4
    for mine in np.split(short, np.flatnonzero(np.diff(users[short])) + 1):
        if len(mine) and left[mine[0]]:
            start = users[mine[0]] * candidates.size
            bounds = np.searchsorted(seen, [start, start + candidates.size])
            unseen = np.delete(np.arange(candidates.size), seen[slice(*bounds)] - start)
            for some in _pieces(mine, len(unseen)):
                drawn[some] = _completed(drawn[some], rows[some], unseen, candidates, negatives)
    return drawn


def _attempted(
    rows: Codes,
    users: Codes,
    seen: Codes,
    candidates: Candidates,
    negatives: Negatives,
    attempts: int,
) -> Codes:
    """What a number of attempts gives: codes (B, P), -1 where they were too few."""
    uniform = _uniform(negatives.seed, rows[:, None], 2 * np.arange(attempts))
    codes = candidates.at(uniform)
    pairs = users[:, None] * candidates.size + codes
    has = np.append(seen, -1)[np.searchsorted(seen, pairs)] == pairs
    order = np.argsort(codes, axis=1, kind="stable")
    ordered = np.take_along_axis(codes, order, axis=1)
    again = np.zeros_like(has)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    taken = ~has & ~again
    place = np.cumsum(taken, axis=1) - 1
    row, attempt = np.nonzero(taken & (place < negatives.per_positive))
    drawn = np.full((len(rows), negatives.per_positive), -1, np.int64)
    drawn[row, place[row, attempt]] = codes[row, attempt]
    return drawn


def _completed(
    drawn: Codes, rows: Codes, unseen: Codes, candidates: Candidates, negatives: Negatives
) -> Codes:
    """Fills what attempts left open for rows of one user, from all items that it does not have."""
    keys = candidates.keys(_uniform(negatives.seed, rows[:, None], 2 * unseen + 1), unseen)
    row, place = np.nonzero(drawn >= 0)
    keys[row, np.searchsorted(unseen, drawn[row, place])] = np.inf  # is there already
    most = min(negatives.per_positive, len(unseen))
    best = np.argpartition(keys, most - 1, axis=1)[:, :most]
    order = np.argsort(np.take_along_axis(keys, best, axis=1), axis=1)
    best = np.take_along_axis(best, order, axis=1)
    count = (drawn >= 0).sum(axis=1)
    row, place = np.nonzero(np.arange(most) >= count[:, None])
    completed = drawn.copy()
    completed[row, place] = unseen[best[row, place - count[row]]]
    return completed


def _pieces(rows: Codes, width: int) -> list[Codes]:
    """Cuts rows so that a piece of them times a width stays within a block."""
    size = max(1, _BLOCK // max(width, 1))
    return [rows[i : i + size] for i in range(0, len(rows), size)]


def _lists(drawn: Codes) -> pa.ListArray:
    found = drawn >= 0
    offsets = np.concatenate([[0], np.cumsum(found.sum(axis=1))])
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(drawn[found], pa.int32())
    )


def _uniform(seed: int, rows: Codes, counter: Codes) -> NDArray[np.float64]:
    """Numbers in [0, 1), a function of seed, row and counter, by SplitMix64 (Steele et al., 2014).

    Args:
        seed: Any integer.
        rows: Names of rows, of a shape that broadcasts with the counter's.
        counter: Which number of the row.

    Returns:
        The numbers, of the common shape.
    """
    start = mixed(rows.astype(np.uint64) ^ mixed(np.array([seed % 2**64], np.uint64)))
    state = start + counter.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed(state) >> np.uint64(11)) * 2.0**-53
