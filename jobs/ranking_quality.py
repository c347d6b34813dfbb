"""How well models rank all items for users, next to popularity and to Spark's ALS.

Of each user, the items with label 1 among the test rows are held out; items that it has in rows
before are not ranked. ALS (Hu, Koren and Volinsky, ICDM 2008) learns from the positive training
rows alone, as it takes no fields. All rank the same items for the same users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.ml.recommendation import ALS
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from afm.artifact import Artifact
from afm.ranking_metrics import RankingMetrics, best_by_score, rank_metrics
from conf.schema import Config
from features import tables
from features.negatives import observed
from features.python_tasks import map_in_arrow
from features.spec import ITEM, LABEL, SPLIT, USER, Prepared
from jobs.score_inputs import chosen, excluded_pairs, read_items, with_pairs
from jobs.scoring_tasks import Ranker, score_schema

POPULARITY, ALS_NAME = "popularity", "ALS"
_USERS_AT_ONCE = 1_024  # whose scores by ALS are in memory


@dataclass(frozen=True)
class HeldOut:
    """Users with what they liked in the test rows, all by position."""

    users: pa.Array
    """Their keys."""
    items: pa.Array
    """Keys of all items, rising."""
    wanted: dict[int, list[int]]
    seen: list[list[int]]
    """Items that each has in training and validation rows."""
    positives: tuple[NDArray[np.int64], NDArray[np.int64]]
    """User and item positions of the positive training rows; users beyond those above go on."""


def measure_rankings(
    spark: SparkSession, config: Config, prepared: Prepared, artifacts: Mapping[str, Artifact]
) -> dict[str, RankingMetrics]:
    """Ranks all items for users of the test rows and compares with what they liked.

    Args:
        spark: The session.
        config: The pipeline; ``evaluate`` says how many items and users count.
        prepared: The published tables.
        artifacts: The models by name.

    Returns:
        The metrics of each model, of popularity and of ALS; nothing if nobody liked anything.

    Raises:
        DataError: There are no users or items, or a context field has no value.
    """
    k = config.evaluate.top_k
    held = hold_out(spark, config, prepared)
    if not held.wanted:
        return {}
    rankings: dict[str, Mapping[int, Sequence[int]]] = {
        name: rank_by_model(spark, config, prepared, artifact, held)
        for name, artifact in artifacts.items()
    }
    popularity = np.bincount(held.positives[1], minlength=len(held.items)).astype(float)
    same = np.broadcast_to(popularity, (len(held.users), len(held.items)))
    rankings[POPULARITY] = dict(enumerate(best_by_score(same, held.seen, k)))
    rankings[ALS_NAME] = rank_by_als(spark, config, held)
    return {
        name: rank_metrics(ranked, held.wanted, len(held.items), k)
        for name, ranked in rankings.items()
    }


def hold_out(spark: SparkSession, config: Config, prepared: Prepared) -> HeldOut:
    """Finds the users that are measured, and what they liked.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.

    Returns:
        At most ``evaluate.users`` of them, chosen by a hash of their keys.
    """
    root, versions = config.tables.root, prepared.versions
    log = observed(tables.read(spark, root, "features", versions["features"]))
    items = tables.read(spark, root, "items", versions["items"]).select(ITEM).orderBy(ITEM)
    known = items.toArrow()[ITEM].combine_chunks()
    before = log.where(F.col(SPLIT) != "test").select(USER, ITEM).distinct()
    liked = log.where((F.col(SPLIT) == "test") & (F.col(LABEL) == 1)).select(USER, ITEM).distinct()
    liked = liked.join(before, [USER, ITEM], "left_anti")
    users = liked.select(USER).distinct().orderBy(F.xxhash64(USER)).limit(config.evaluate.users)
    chosen_users = users.toArrow()[USER].combine_chunks()
    some = F.broadcast(users)
    wanted = _by_user(liked.join(some, USER, "left_semi"), chosen_users, known)
    seen = _by_user(before.join(some, USER, "left_semi"), chosen_users, known)
    trained = log.where((F.col(SPLIT) == "train") & (F.col(LABEL) == 1)).select(USER, ITEM)
    pairs = trained.distinct().toArrow()
    everyone = pa.concat_arrays([chosen_users, pairs[USER].combine_chunks()]).unique()
    positives = (_positions(pairs[USER], everyone), _positions(pairs[ITEM], known))
    return HeldOut(
        users=chosen_users,
        items=known,
        wanted=wanted,
        seen=[seen.get(user, []) for user in range(len(chosen_users))],
        positives=positives,
    )


def rank_by_model(
    spark: SparkSession, config: Config, prepared: Prepared, model: Artifact, held: HeldOut
) -> dict[int, list[int]]:
    """The best items of each user, by the scores of a model, in the first context."""
    score = config.score.model_copy(
        update={
            "top_k": config.evaluate.top_k,
            "exclude_seen": ("train", "validation"),
            "explain": 0,
            "contexts": config.score.contexts[:1],
            **dict.fromkeys(("users", "items", "candidates", "min_score")),
        }
    )
    config = config.model_copy(update={"score": score})
    items = read_items(spark, config, prepared, model)
    some = spark.createDataFrame(pa.table({USER: held.users}))
    users = chosen(spark, config, "users", prepared.versions["users"], model)
    users = users.join(F.broadcast(some), USER, "left_semi")
    seen = excluded_pairs(spark, config, prepared, users).join(F.broadcast(some), USER, "left_semi")
    placed = with_pairs(users, seen).repartition(USER).sortWithinPartitions(USER, ITEM)
    with TemporaryDirectory() as folder:
        ranker = Ranker.of(spark, config, items, Path(folder))
        schema = score_schema(spark, config, prepared)
        rows = map_in_arrow(placed, ranker.rank, schema).select(USER, ITEM, "rank")
        return _by_user(rows.orderBy(USER, "rank"), held.users, held.items)


def rank_by_als(spark: SparkSession, config: Config, held: HeldOut) -> dict[int, list[int]]:
    """The best items of each user, by Spark's ALS for implicit feedback."""
    user, item = held.positives
    ratings = pa.table({"user": pa.array(user), "item": pa.array(item)})
    frame = spark.createDataFrame(ratings).withColumn("rating", F.lit(1.0))
    als = ALS(
        rank=config.evaluate.als_rank,
        implicitPrefs=True,
        seed=config.train.seed,
        userCol="user",
        itemCol="item",
    )
    model = als.fit(frame.select(F.col("user").cast("int"), F.col("item").cast("int"), "rating"))
    of_item, items = _factors(model.itemFactors)
    of_user, users = _factors(model.userFactors)
    place = np.full(1 + max(int(of_user.max()), len(held.users)), -1)
    place[of_user] = np.arange(len(of_user))
    ranked: list[list[int]] = []
    for start in range(0, len(held.users), _USERS_AT_ONCE):
        rows = np.arange(start, min(start + _USERS_AT_ONCE, len(held.users)))
        scores = np.full((len(rows), len(held.items)), -np.inf)
        known = place[rows] >= 0
        scores[np.ix_(known, of_item)] = users[place[rows[known]]] @ items.T
        ranked += best_by_score(scores, held.seen[rows[0] : rows[-1] + 1], config.evaluate.top_k)
    return dict(enumerate(ranked))


def _factors(frame: DataFrame) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Numbers and vectors of users or items."""
    table = frame.orderBy("id").toArrow()
    vectors = np.stack(table["features"].to_numpy()).astype(np.float64)
    return table["id"].to_numpy().astype(np.int64), vectors


def _by_user(pairs: DataFrame, users: pa.Array, items: pa.Array) -> dict[int, list[int]]:
    """The items of each user, by position, in the order of the rows."""
    table = pairs.select(USER, ITEM).toArrow()
    lists: dict[int, list[int]] = {}
    for user, item in zip(
        _positions(table[USER], users), _positions(table[ITEM], items), strict=True
    ):
        lists.setdefault(int(user), []).append(int(item))
    return lists


def _positions(keys: pa.ChunkedArray, among: pa.Array) -> NDArray[np.int64]:
    found = pc.index_in(keys.combine_chunks(), among).to_numpy(zero_copy_only=False)
    positions: NDArray[np.int64] = found.astype(np.int64)
    return positions
