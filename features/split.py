"""Train, validation, test: a function of the row, never of the run.

By hash, a row's part follows from the seeded hash of its keys alone: it survives repartitioning,
reruns and appended data, and rows with equal keys stay together. By time it follows from the row's
time and two cuts, which a later fit on more rows moves.

By last, it follows from how many rows its user has after it: the newest `last` test, as many before
them validate, the rest trains. Users with fewer than 2 · `last` + 1 rows only train, as is usual:
there would be nothing to know them by. Simultaneous rows go by ``row``; rows with equal keys count
once and stay together. A user's later rows move this split for that user alone.
"""

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from conf.features import SplitConfig
from features.errors import DataError
from features.spec import ROW, SPLITS, TIME, USER, FittedSplit

_BUCKETS = 1_000_000
_ACCURACY = 10_000


def fit_split(config: SplitConfig, accepted: DataFrame) -> FittedSplit:
    """Learns what the split needs: the two cuts of a split by time.

    Args:
        config: How to split.
        accepted: Accepted rows with the column ``event_time``.

    Returns:
        The split; by time, with the last moments of training and of validation.

    Raises:
        DataError: All rows have the same time.
    """
    if config.by != "time":
        return FittedSplit(config=config)
    shares = [1 - config.validation - config.test, 1 - config.test]
    cuts = _times_at(accepted.select(F.col(TIME).cast("double").alias(TIME)), shares)
    if len(set(cuts)) < len(shares):
        raise DataError(
            "split.by: time finds the same time on both sides of a cut; "
            "use split.by: hash or check keys.time"
        )
    return FittedSplit(config=config, cuts=(cuts[0], cuts[1]))


def _times_at(times: DataFrame, shares: list[float]) -> list[float]:
    """The earliest times that at least some shares of the rows do not exceed, exactly.

    Spark's exact percentile holds all distinct times in one task. Here a sketch, whose error is
    bounded, says between which times each must lie, and only the distinct times there are counted.
    """
    slack = 2 / _ACCURACY  # the sketch may be off by half of it
    around = [min(max(s + d, 0.0), 1.0) for s in shares for d in (-slack, slack)]
    sketch = times.agg(F.percentile_approx(TIME, around, _ACCURACY)).head()
    if sketch is None or sketch[0] is None:
        return []
    low, high = sketch[0][::2], sketch[0][1::2]
    # Times outside count as the bound above them or, beyond the last, as that: no rank is lost.
    time, bounds = F.col(TIME), zip(low, high, strict=True)
    counted_as = F.lit(high[-1])
    for below, above in reversed(list(bounds)):
        counted_as = F.when(time < below, below).when(time <= above, time).otherwise(counted_as)
    counts = times.groupBy(counted_as.alias(TIME)).count().toArrow().sort_by(TIME)
    rows = np.cumsum(counts["count"].to_numpy())
    # In floating point, a share of 8 rows may come out as 8.000000000000002.
    places = np.searchsorted(rows, np.ceil(np.array(shares) * rows[-1] - 1e-6))
    found: list[float] = counts[TIME].take(pa.array(places)).to_pylist()
    return found


def part(split: FittedSplit) -> Column:
    """The part of a row.

    Args:
        split: A fitted split.

    Returns:
        ``train``, ``validation`` or ``test``, from the column ``row`` or ``event_time``; by last
        from both and ``user_key``, over a window that sees all rows of a user.
    """
    train, validation, test = (F.lit(s) for s in SPLITS)
    if split.cuts is not None:
        seconds = F.col(TIME).cast("double")
        return (
            F.when(seconds <= split.cuts[0], train)
            .when(seconds <= split.cuts[1], validation)
            .otherwise(test)
        )
    config = split.config
    if config.by == "last":
        user = Window.partitionBy(USER)
        # Rows of the user from this one on, and up to this one; it is in both.
        newer = F.dense_rank().over(user.orderBy(F.desc(TIME), F.desc(ROW)))
        older = F.dense_rank().over(user.orderBy(TIME, ROW))
        return (
            F.when((newer > 2 * config.last) | (newer + older <= 2 * config.last + 1), train)
            .when(newer > config.last, validation)
            .otherwise(test)
        )
    bucket = F.pmod(F.col(ROW), F.lit(_BUCKETS)) / _BUCKETS
    return (
        F.when(bucket < config.test, test)
        .when(bucket < config.test + config.validation, validation)
        .otherwise(train)
    )
