"""What changes of the tables since the last run change in the scores.

A user is scored anew, with all items, if anything that its scores depend on has changed: its row,
what it has seen, or an item of its list that is gone or changed. All other lists can only grow by
items that are new or changed, so these alone are scored for all other users, and the best of both
are kept. That is what a run over everything finds.
"""

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from delta.tables import DeltaTable
from numpy.typing import NDArray
from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from conf.schema import Config
from features import tables
from features.spec import ITEM, USER, Prepared
from jobs.score_inputs import Items, chosen, seen_pairs
from jobs.scoring_tasks import CONTEXT

_SAME = ("weights", "spec", "score", "shifts")
"""What two runs' commits must both say, so that the rows of one hold in the other."""


@dataclass(frozen=True)
class Changes:
    """What has to be scored, and what stays."""

    scored: DataFrame
    """Users to score with all items, encoded."""
    others: DataFrame
    """All other users, encoded."""
    kept: DataFrame
    """Rows of the last run for these."""
    new_items: NDArray[np.int64]
    """Positions of the items that the last run did not have, or had otherwise."""


def find_changes(
    spark: SparkSession,
    config: Config,
    prepared: Prepared,
    users: DataFrame,
    items: Items,
    metadata: dict[str, str],
) -> Changes | str:
    """Compares the tables with those that the last run scored.

    Args:
        spark: The session.
        config: The pipeline.
        prepared: The published tables.
        users: Encoded users.
        items: The items.
        metadata: What this run's commit will say.

    Returns:
        What changed, or why everything has to be scored.
    """
    root, versions = config.tables.root, prepared.versions
    path = tables.table_path(root, "scores")
    if not DeltaTable.isDeltaTable(spark, path):
        return "there are no scores yet"
    last = tables.newest_commit(spark, root, "scores")
    said = json.loads(last["userMetadata"] or "{}")
    if said.get("job") != "score":
        return f"version {last['version']} of the scores is not of this job"
    if config.score.candidates is not None:
        return "candidates are not compared"
    if different := [name for name in _SAME if said.get(name) != metadata[name]]:
        return f"another {', '.join(different)} made the last scores"

    before = chosen(spark, config, "users", int(said["users"]), items.model)
    touched = users.exceptAll(before).select(USER)
    if config.score.exclude_seen and said["features"] != metadata["features"]:
        old = seen_pairs(spark, config, int(said["features"]))
        new = seen_pairs(spark, config, versions["features"])
        touched = touched.union(new.subtract(old).union(old.subtract(new)).select(USER))
    catalogue = chosen(spark, config, "items", versions["items"], items.model)
    earlier = chosen(spark, config, "items", int(said["items"]), items.model)
    gone = earlier.exceptAll(catalogue).select(ITEM)
    scores = tables.read(spark, root, "scores", last["version"])
    touched = touched.union(scores.join(F.broadcast(gone), ITEM, "left_semi").select(USER))
    touched = touched.distinct().persist()
    others = users.join(touched, USER, "left_anti")
    return Changes(
        scored=users.join(touched, USER, "left_semi"),
        others=others,
        kept=scores.join(others.select(USER), USER, "left_semi"),
        new_items=_positions(items.keys, catalogue.exceptAll(earlier).select(ITEM).toArrow()[ITEM]),
    )


def best_rows(rows: DataFrame, k: int) -> DataFrame:
    """The K best of each user's rows, in each context; equal logits by item.

    Args:
        rows: Rows of ``scores``, each item once.
        k: K.
    """
    lists = [USER, *(c for c in (CONTEXT,) if c in rows.columns)]
    order = Window.partitionBy(*lists).orderBy(F.desc("logit"), ITEM)
    return rows.withColumn("rank", F.row_number().over(order)).where(F.col("rank") <= k)


def _positions(keys: pa.Array, wanted: pa.ChunkedArray) -> NDArray[np.int64]:
    found = pc.index_in(wanted.combine_chunks(), keys).to_numpy(zero_copy_only=False)
    positions: NDArray[np.int64] = np.sort(found).astype(np.int64)
    return positions
