"""Scoring what changed gives the table that scoring everything gives, to the last bit."""

import json
from collections.abc import Callable

import pandas as pd
import pytest
from deltalake import DeltaTable

import jobs.score
from conf.schema import Config
from features import publication, tables
from tests.jobs.scored import pipeline, scored, with_random_model
from tests.jobs.test_score import same, with_score

pytestmark = [pytest.mark.spark]

Edit = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def base(spark, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return pipeline(spark, tmp_path_factory.mktemp("changes"), exclude_seen=["train"])


def edit(spark, config: Config, **edits: Edit) -> None:
    """Publishes the first tables with rows edited, as another ``prepare`` could have left them."""
    root = config.tables.root
    first = publication.published(spark, root, version=0)
    versions = dict(first.versions)
    for name, change in edits.items():
        rows = tables.read(spark, root, name, first.versions[name])
        edited = spark.createDataFrame(change(rows.toPandas()), rows.schema)
        partition = ["split"] if name == "features" else []
        versions[name] = tables.write(edited, root, name, {}, partition_by=partition)
    published = first.model_copy(update={"versions": versions})
    publication.publish(spark, root, published, {"spec": first.spec.hash})


def another_user(users: pd.DataFrame) -> pd.DataFrame:
    new = users.tail(1).assign(user_key="u999", age=1.5)
    changed = users["age"].where(users["user_key"] != users["user_key"][7], -1.0)
    return pd.concat([users.assign(age=changed).drop(index=3), new], ignore_index=True)


def another_item(items: pd.DataFrame) -> pd.DataFrame:
    """One is gone, one has another genre, and there is a copy of each of ten others."""
    copies = items.head(10).assign(item_key=lambda rows: rows["item_key"] + 1)
    genre = items["genre"].where(items["item_key"] != items["item_key"].iloc[20], 3)
    return pd.concat([items.assign(genre=genre).drop(index=12), copies], ignore_index=True)


def only_new_items(items: pd.DataFrame) -> pd.DataFrame:
    copies = items.assign(item_key=lambda rows: rows["item_key"] + 1)
    return pd.concat([items, copies], ignore_index=True)


def other_split(log: pd.DataFrame) -> pd.DataFrame:
    some = (log["user_key"].isin(log["user_key"].unique()[:5])) & (log["split"] == "train")
    return log.assign(split=log["split"].where(~some, "test"))


SEVERAL = [{"name": "b", "values": {"hour": 3}}, {"name": "a", "values": {"hour": 0}}]


@pytest.mark.parametrize(
    ("edits", "contexts"),
    [
        ({}, []),
        ({"items": only_new_items}, []),
        ({"users": another_user, "items": another_item, "features": other_split}, SEVERAL),
    ],
    ids=["nothing", "new items", "all"],
)
def test_changes_lead_to_what_everything_does(
    spark, base: Config, edits: dict[str, Edit], contexts: list, capsys
) -> None:
    config = with_score(base, contexts=contexts)
    edit(spark, config)
    before = scored(config)
    edit(spark, config, **edits)
    changed = scored(with_score(config, mode="changed"))
    assert "users are scored with all items" in capsys.readouterr().out
    same(changed, scored(config))
    if edits:
        assert not changed.drop(columns="explanation").equals(before.drop(columns="explanation"))


def test_another_model_or_section_means_everything(spark, base: Config, capsys) -> None:
    edit(spark, base)
    changed = with_score(base, mode="changed")
    first = scored(base)
    assert "scoring everything" not in capsys.readouterr().out
    same(scored(with_score(changed, top_k=4)), first[first["rank"] <= 4].reset_index(drop=True))
    assert "scoring everything, for another score made the last" in capsys.readouterr().out
    with_random_model(base, publication.published(spark, base.tables.root), seed=1, run="b")
    assert not scored(with_score(changed, top_k=4))["logit"].equals(first["logit"])
    assert "scoring everything, for another weights" in capsys.readouterr().out
    said = json.loads(DeltaTable(f"{base.tables.root}/scores").history(1)[0]["userMetadata"])
    assert said["model"] == "afm/b"


def test_unchanged_users_are_not_scored_again(spark, base: Config, capsys) -> None:
    edit(spark, base)
    scored(base)
    edit(spark, base, users=another_user)
    capsys.readouterr()
    jobs.score.main(with_score(base, mode="changed"))
    assert "2 users are scored with all items, 58 with 0 new ones" in capsys.readouterr().out
