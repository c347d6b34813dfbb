"""Users in ranges of their keys: a task's each, so that a file of the scores holds a range.

A range has about as many users as any other, however much of the log is theirs. That is why the
ranges are found from the users alone, and not by Spark from all that is sorted into them.
"""

from collections.abc import Sequence

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from conf.schema import Config
from features import tables
from features.spec import USER, Prepared

USERS_PER_TASK = 16_384
_SAMPLE = 100_000  # users, at least, by whose keys ranges are cut

Ranges = tuple[tuple[str | None, ...], ...]
"""For each part, the first user of each of its ranges as text; None for the very first."""


def tasks_for(spark: SparkSession, count: int) -> int:
    """How many ranges are worth it: as many for each core, and none too large for a task.

    Args:
        spark: The session.
        count: How many users.
    """
    cores = spark.sparkContext.defaultParallelism
    return cores * max(1, -(-count // (cores * USERS_PER_TASK)))


def find_ranges(
    config: Config, prepared: Prepared, users: DataFrame, count: int, parts: int
) -> Ranges:
    """Cuts users into ranges, and these into parts.

    Args:
        config: The pipeline.
        prepared: The published tables.
        users: Rows with ``user_key``.
        count: How many.
        parts: How many parts.

    Returns:
        The ranges; fewer where there are fewer users.
    """
    spark = users.sparkSession
    tasks = parts * tasks_for(spark, -(-count // parts))
    keys = _some_keys(config, prepared, users, count)
    tasks = min(tasks, len(keys))
    firsts = sorted({len(keys) * task // tasks for task in range(1, tasks)} - {0})
    ranges = np.array([None, *(keys[first] for first in firsts)], object)
    return tuple(tuple(part) for part in np.array_split(ranges, min(parts, len(ranges))))


def _some_keys(config: Config, prepared: Prepared, users: DataFrame, count: int) -> list[str]:
    """Keys of some users, in their order, as text."""
    spark, every = users.sparkSession, max(1, count // _SAMPLE)
    simple = users.schema[USER].dataType.simpleString() in ("int", "bigint", "string")
    if every == 1 and simple and config.score.users is None:
        version = prepared.versions["users"]
        found = tables.read_arrow(spark, config.tables.root, "users", version, [USER])
        return [str(key) for key in found.sort_by(USER)[USER].to_pylist()]
    some = users.where(F.pmod(F.xxhash64(USER), F.lit(every)) == 0).orderBy(USER)
    return [row[0] for row in some.select(F.col(USER).cast("string")).collect()]


def by_range(frame: DataFrame, firsts: Sequence[str | None], *order: str) -> DataFrame:
    """Gives each task the rows of a range of users, sorted.

    Args:
        frame: Rows with ``user_key``.
        firsts: First user of each range; what comes before the second is in the first one.
        order: Columns that order the rows of a user.
    """
    kind = frame.schema[USER].dataType
    numbers = _one_per_task(frame.sparkSession, len(firsts))
    which: Column | None = None
    for first, until in zip(firsts[1:], numbers, strict=False):
        assert first is not None  # as only the very first is
        before = F.col(USER) < F.lit(first).cast(kind)
        which = F.when(before, until) if which is None else which.when(before, until)
    if which is None:
        return frame.repartition(1).sortWithinPartitions(USER, *order)
    ranged = frame.repartition(len(firsts), which.otherwise(numbers[-1]))
    return ranged.sortWithinPartitions(USER, *order)


def _one_per_task(spark: SparkSession, tasks: int) -> list[int]:
    """A number for each task that Spark sends there, and no other: it sends by a hash."""
    if tasks == 1:
        return [0]
    many = 8 * tasks * tasks.bit_length()
    numbers = F.sequence(F.lit(0), F.lit(many))
    sent = F.transform(numbers, lambda number: F.pmod(F.hash(number), F.lit(tasks)))
    # Of a row that Spark computes with at once, without a job.
    to = np.array(spark.sql("SELECT 1").select(sent).collect()[0][0])
    found, number = np.unique(to, return_index=True)
    assert len(found) == tasks  # all but certain, of so many numbers
    return [int(n) for n in number]


def within(frame: DataFrame, first: str | None, end: str | None) -> DataFrame:
    """The rows of users from one on, up to another.

    Args:
        frame: Rows with ``user_key``.
        first: First key, as text; None for no bound.
        end: The one after the last, likewise.
    """
    kind = frame.schema[USER].dataType
    if first is not None:
        frame = frame.where(F.col(USER) >= F.lit(first).cast(kind))
    if end is not None:
        frame = frame.where(F.col(USER) < F.lit(end).cast(kind))
    return frame
