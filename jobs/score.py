"""Scores every user with every item, exactly, and keeps the best K items of each user.

    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml
    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml score.top_k=100
    spark-submit --properties-file conf/spark.conf jobs/score.py conf/movielens.yaml \
        score.explain_plan=true

Writes the Delta table `scores`: user_key, item_key, rank, probability, logit, explanation. (Of a
model trained on squared loss, `logit` is its score, an estimate of 2 · probability - 1.) A rerun
replaces it by the same rows, in one commit.
"""

import time

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from afm.artifact import load
from afm.plan_report import describe_plan
from conf.schema import Config, digest
from features import tables
from features.spec import ITEM, USER
from jobs.door import run
from jobs.scoring_tasks import load_items, score
from jobs.session import open_session

_USERS_SHOWN, _ITEMS_SHOWN = 3, 5


def main(config: Config) -> None:
    """Writes the recommendations of a pipeline."""
    started = time.monotonic()
    spark = open_session("score")
    root = config.tables.root
    newest = tables.published(spark, root)
    model = load(config.models_root, config.model.name, config.train.run)
    prepared = tables.prepared_with(spark, config, newest, model.manifest.spec, print)
    model.require(prepared.spec)
    items = load_items(spark, config, prepared, model)
    if config.score.explain_plan:
        users = tables.read(spark, root, "users", prepared.versions["users"]).count()
        plan = describe_plan(items.side, users, len(items.keys), 1, config.score.top_k)
        print(f"score: {config.model.name}, {plan}")
        return
    metadata = {
        "job": "score",
        "config": digest(config.model_dump_json()),
        "model": f"{config.model.name}/{model.manifest.run}",
        "spec": prepared.spec.hash,
        "users": str(prepared.versions["users"]),
        "items": str(prepared.versions["items"]),
    }
    version = tables.write(score(spark, config, prepared, model, items), root, "scores", metadata)
    scores = tables.read(spark, root, "scores", version)
    counts = F.count(USER).alias("rows"), F.count_distinct(USER).alias("users")
    (totals,) = scores.agg(*counts).collect()
    print(
        f"score: {totals['rows']:,} recommendations for {totals['users']:,} users out of "
        f"{len(items.keys):,} items in {time.monotonic() - started:.0f} s, "
        f"{tables.table_path(root, 'scores')} version {version}"
    )
    shown = [f.name for f in config.fields if f.side == "item" and f.encode == "none"]
    known = tables.read(spark, root, "items", prepared.versions["items"])
    print(sample(scores, known.select(ITEM, *shown), shown[0] if shown else ITEM))


def sample(scores: DataFrame, items: DataFrame, name: str) -> str:
    """The best items of a few users with the pairs of fields that explain them, to read."""
    some = scores.select(USER).distinct().orderBy(F.xxhash64(USER)).limit(_USERS_SHOWN)
    few = scores.join(some, USER).where(F.col("rank") <= _ITEMS_SHOWN)
    rows = few.join(items, ITEM).orderBy(USER, "rank").collect()
    lines = []
    for row in rows:
        if row["rank"] == 1:
            lines.append(f"  user {row[USER]}")
        reasons = ", ".join(
            f"{r['field_a']} × {r['field_b']} {r['attention']:.0%} ({r['contribution']:+.2f})"
            for r in row["explanation"]
        )
        lines.append(f"  {row['rank']}. {row['probability']:.3f}  {row[name]!s:<44.44} {reasons}")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, __doc__)
