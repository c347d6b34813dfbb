"""History: what a user liked before each interaction, as known at its time.

For every row: the values of an item's field in the last N positive rows of the same user with a
strictly smaller ``event_time``, from the oldest to the newest; null if there are none. Rows of the
same moment do not see each other, so no row sees its own label. A positive row whose value is null
does not count. Among positive rows of the same moment, order is by ``row``.

The log is shuffled by user and sorted by time once. Then its batches are read in one pass that
keeps, of the current user, N values before the current moment and N of that moment: neither a
user of a million rows nor the number of users takes more memory.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T

from conf.features import History
from features.python_tasks import map_in_arrow
from features.runs import starts
from features.spec import LABEL, ROW, TIME, USER

SHOWN = "_shown"
"""Column of the sorted log: false for rows that only count as the past of others."""


def with_history(
    log: DataFrame, histories: Sequence[History], earlier: DataFrame | None = None
) -> DataFrame:
    """Adds to each row what its user liked before.

    Args:
        log: Readable interactions.
        histories: The histories to add.
        earlier: Readable interactions that were prepared before; they count as part of the log, at
            their own times, but do not come out.

    Returns:
        The rows of the log with an array of strings for each history.
    """
    if not histories:
        return log
    past = None
    if earlier is not None:
        past = earlier.join(log.select(USER).distinct(), USER, "left_semi")
    return _added(log, past, histories)


def latest_history(log: DataFrame, histories: Sequence[History]) -> DataFrame:
    """What each user liked, up to now: the history to score with.

    Args:
        log: Readable interactions.
        histories: The histories to make.

    Returns:
        One row per ``user_key`` of the log, with an array of strings for each history.
    """
    # A null sorts as a moment after all others.
    now = F.lit(None).cast(log.schema[TIME].dataType)
    users = log.select(USER).distinct().withColumn(TIME, now)
    return _added(users, log, histories).drop(TIME)


def _added(rows: DataFrame, past: DataFrame | None, histories: Sequence[History]) -> DataFrame:
    """Adds histories to rows, from the positive ones among them and those of the past."""
    fields = list(dict.fromkeys(h.of for h in histories))
    marked = rows.withColumn(SHOWN, F.lit(True))
    if past is not None:
        positive = past.where(F.col(LABEL) == 1).select(USER, TIME, ROW, LABEL, *fields)
        marked = marked.unionByName(
            positive.withColumn(SHOWN, F.lit(False)), allowMissingColumns=True
        )
    # Beyond time, the order makes the result a function of the rows alone.
    by_time = F.col(TIME).asc_nulls_last()
    ordered = marked.repartition(USER).sortWithinPartitions(USER, by_time, ROW, *fields)
    made = [T.StructField(h.name, T.ArrayType(T.StringType())) for h in histories]
    names = rows.columns

    def add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        return history_batches(batches, histories, names)

    return map_in_arrow(ordered, add, T.StructType([*rows.schema.fields, *made]))


@dataclass(frozen=True)
class _Carried:
    """What the rows to come may still see of the current user, oldest first."""

    values: pa.Array
    """At most N values before the current moment, then at most N of that moment."""
    before: int
    """How many of them are before the current moment."""


def history_batches(
    batches: Iterable[pa.RecordBatch], histories: Sequence[History], keep: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Adds histories to batches of a sorted log, wherever it was cut into batches.

    Args:
        batches: The log, all rows of a user together and in the order of time, with ``_shown``.
        histories: The histories to add.
        keep: Columns to take along.

    Yields:
        The rows that are shown: the kept columns and a list of strings for each history.
    """
    user = moment = None
    carried: dict[str, _Carried] = {}
    for batch in batches:
        if not batch.num_rows:
            continue
        users = starts(batch.column(USER), user)
        moments = users | starts(batch.column(TIME), moment)
        user, moment = batch.column(USER)[-1], batch.column(TIME)[-1]
        liked = pc.fill_null(pc.equal(batch.column(LABEL), 1), False)
        shown = batch.column(SHOWN)
        columns = batch.select(list(keep)).filter(shown).columns
        rows = shown.to_numpy(zero_copy_only=False)
        for history in histories:
            values = batch.column(history.of)
            positive = pc.and_(liked, values.is_valid())
            before = carried.get(history.name, _Carried(values.slice(0, 0), 0))
            pool = pa.concat_arrays([before.values, values.filter(positive)])
            first, end = _visible(positive, users, moments, before)
            first = np.maximum(first, end - history.length)
            carried[history.name] = _carry(pool, first[-1], end[-1], history.length)
            columns.append(_slices(pool, first[rows], end[rows]))
        names = [*keep, *(h.name for h in histories)]
        yield pa.RecordBatch.from_arrays(columns, names=names)


def _visible(
    positive: pa.Array,
    users: NDArray[np.bool_],
    moments: NDArray[np.bool_],
    carried: _Carried,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which positive values each row may see.

    Args:
        positive: The rows that give a value (B,).
        users: Where a user starts (B,).
        moments: Where a moment of a user starts (B,).
        carried: The values that come before this batch's.

    Returns:
        First place and end (B,), (B,), counted over the carried values and then this batch's.
    """
    gives = positive.to_numpy(zero_copy_only=False)
    counts = len(carried.values) + np.cumsum(gives) - gives  # of the values before each row
    row = np.arange(len(users))
    # Where each row's user and moment start; -1 is in an earlier batch.
    user_from = np.maximum.accumulate(np.where(users, row, -1))
    moment_from = np.maximum.accumulate(np.where(moments, row, -1))
    first = np.where(user_from < 0, 0, counts[user_from])
    end = np.where(moment_from < 0, carried.before, counts[moment_from])
    return first, end


def _carry(pool: pa.Array, first: int, end: int, length: int) -> _Carried:
    """Keeps what the last row sees, and the latest values of its own moment."""
    here = max(end, len(pool) - length)
    return _Carried(pa.concat_arrays([pool[first:end], pool[here:]]), end - first)


def _slices(values: pa.Array, first: NDArray[np.int64], end: NDArray[np.int64]) -> pa.ListArray:
    """Lists of neighbouring values, null where there are none."""
    lengths = end - first
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - first, lengths)
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), values.take(pa.array(place)), mask=pa.array(lengths == 0)
    )
