"""Train, validation, test: a function of the row, never of the run.

By hash, a row's part follows from the seeded hash of its keys alone: it survives repartitioning,
reruns and appended data, and rows with equal keys stay together. By time it follows from the row's
time and two cuts, which a later fit on more rows moves.
"""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import SplitConfig
from features.errors import DataError
from features.spec import ROW, SPLITS, TIME, FittedSplit

_BUCKETS = 1_000_000


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
    if config.by == "hash":
        return FittedSplit(config=config)
    shares = [1 - config.validation - config.test, 1 - config.test]
    seconds = F.col(TIME).cast("double")
    cuts = accepted.select(F.percentile(seconds, shares)).head()
    if cuts is None or cuts[0] is None or cuts[0][0] == cuts[0][1]:
        raise DataError(
            "split.by: time finds the same time on both sides of a cut; "
            "use split.by: hash or check keys.time"
        )
    return FittedSplit(config=config, cuts=(cuts[0][0], cuts[0][1]))


def part(split: FittedSplit) -> Column:
    """The part of a row.

    Args:
        split: A fitted split.

    Returns:
        ``train``, ``validation`` or ``test``, from the column ``row`` or ``event_time``.
    """
    train, validation, test = (F.lit(s) for s in SPLITS)
    if split.cuts is not None:
        seconds = F.col(TIME).cast("double")
        return (
            F.when(seconds <= split.cuts[0], train)
            .when(seconds <= split.cuts[1], validation)
            .otherwise(test)
        )
    bucket = F.pmod(F.col(ROW), F.lit(_BUCKETS)) / _BUCKETS
    config = split.config
    return (
        F.when(bucket < config.test, test)
        .when(bucket < config.test + config.validation, validation)
        .otherwise(train)
    )
