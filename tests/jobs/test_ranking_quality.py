"""The ranking part of evaluate against pandas."""

import numpy as np
import pytest

import jobs.evaluate
from features import publication
from jobs.ranking_quality import hold_out
from tests.jobs.scored import expected, frame, pipeline

pytestmark = [pytest.mark.spark]
K = 6


def test_rankings_against_pandas(spark, tmp_path) -> None:
    config = pipeline(spark, tmp_path)
    evaluate = config.evaluate.model_copy(update={"ranking": True, "top_k": K, "als_rank": 4})
    config = config.model_copy(update={"evaluate": evaluate})
    jobs.evaluate.main(config)
    found = frame(config, "rankings").set_index("model")
    assert list(found.index) == ["afm", "popularity", "ALS"]

    log = frame(config, "features")
    before = log[log["split"] != "test"].groupby("user_key")["item_key"].agg(set)
    test = log[(log["split"] == "test") & (log["label"] == 1)]
    train = log[(log["split"] == "train") & (log["label"] == 1)]
    liked = {
        user: items - before.get(user, set())
        for user, items in test.groupby("user_key")["item_key"].agg(set).items()
    }
    liked = {user: items for user, items in liked.items() if items}
    popular = train.drop_duplicates(["user_key", "item_key"])["item_key"].value_counts()
    every = expected(config).assign(popularity=lambda r: r["item_key"].map(popular).fillna(0))
    for model, by in (("afm", "logit"), ("popularity", "popularity")):
        lists = {}
        for user, rows in every.sort_values([by, "item_key"], ascending=[False, True]).groupby(
            "user_key", sort=False
        ):
            fresh = rows[~rows["item_key"].isin(before.get(user, set()))]
            lists[user] = fresh["item_key"].head(K).tolist()
        hits = {user: [item in liked[user] for item in lists[user]] for user in liked}
        gains = 1 / np.log2(np.arange(2, K + 2))
        ndcg = [
            gains[: len(h)][np.array(h)].sum() / gains[: len(liked[u])].sum()
            for u, h in hits.items()
        ]
        mine = found.loc[model]
        assert mine["users"] == len(liked)
        assert mine["hit_rate"] == pytest.approx(np.mean([any(h) for h in hits.values()]))
        recall = [sum(h) / len(liked[user]) for user, h in hits.items()]
        assert mine["recall"] == pytest.approx(np.mean(recall))
        assert mine["ndcg"] == pytest.approx(np.mean(ndcg))
        shown = {item for user in liked for item in lists[user]}
        assert mine["coverage"] == pytest.approx(len(shown) / every["item_key"].nunique())
    assert 0 < found.loc["ALS", "recall"] <= 1


def test_fewer_users_are_chosen_by_hash(spark, tmp_path) -> None:
    config = pipeline(spark, tmp_path)
    evaluate = config.evaluate.model_copy(update={"users": 7})
    prepared = publication.published(spark, config.tables.root)
    held = hold_out(spark, config.model_copy(update={"evaluate": evaluate}), prepared)
    assert len(held.users) == len(held.seen) == len(held.wanted) == 7
