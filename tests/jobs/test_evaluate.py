"""What evaluate counts in Spark, against scikit-learn on the same rows."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from afm.metrics import compute
from jobs.evaluate import count


def scored_rows() -> pd.DataFrame:
    """Rows of 30 users, some of whom have one label only; scores tie often."""
    random = np.random.default_rng(0)
    user = random.integers(0, 30, 600)
    label = (random.random(600) < 0.4).astype(np.int32)
    label[user < 3] = 0
    label[user == 3] = 1
    logit = np.round(label + user / 15 + random.normal(0, 1.5, 600), 1)
    return pd.DataFrame(
        {
            "user_key": user.astype(np.int64),
            "logit": logit.astype(np.float32),
            "label": label,
            "weight": random.integers(1, 5, 600) / 2,
        }
    )


def test_counts_and_gauc_against_scikit_learn(spark) -> None:
    rows = scored_rows()
    state, gauc = count(spark.createDataFrame(rows).repartition(3))
    metrics, weights = compute(state), {"sample_weight": rows["weight"]}
    probability = 1 / (1 + np.exp(-rows["logit"].astype(np.float64)))
    assert metrics.rows == rows["weight"].sum()
    assert metrics.auc == pytest.approx(roc_auc_score(rows["label"], rows["logit"], **weights))
    assert metrics.log_loss == pytest.approx(log_loss(rows["label"], probability, **weights))

    both = [g for _, g in rows.groupby("user_key") if g["label"].nunique() == 2]
    assert len(both) == 26
    aucs = [roc_auc_score(g["label"], g["logit"], sample_weight=g["weight"]) for g in both]
    expected = np.average(aucs, weights=[g["weight"].sum() for g in both])
    assert gauc == pytest.approx(expected)
    assert abs(gauc - metrics.auc) > 0.01  # they differ in what they say


def test_without_users_of_both_labels_there_is_no_gauc(spark) -> None:
    rows = scored_rows().assign(user_key=lambda r: r["label"].astype(np.int64))
    frame = spark.createDataFrame(rows)
    assert count(frame)[1] is None
    assert count(frame.drop("user_key"))[1] is None


def test_few_rows_are_counted_in_few_tasks(spark) -> None:
    """Cached rows were counted in as many tasks as shuffles have partitions, 200, three times."""
    before, group = spark.conf.get("spark.sql.shuffle.partitions"), "counting few rows"
    spark.conf.set("spark.sql.shuffle.partitions", 50)
    spark.sparkContext.setJobGroup(group, group)
    try:
        count(spark.createDataFrame(scored_rows()))
    finally:
        spark.conf.set("spark.sql.shuffle.partitions", before)
        spark.sparkContext.setLocalProperty("spark.jobGroup.id", None)
    known = spark.sparkContext.statusTracker()
    stages = {s for job in known.getJobIdsForGroup(group) for s in known.getJobInfo(job).stageIds}
    done = [info.numCompletedTasks for s in stages if (info := known.getStageInfo(s))]
    assert 0 < sum(done) < 50
