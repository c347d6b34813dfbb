"""Every number on the page, computed again from the tables by pandas and scikit-learn."""

import html
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from sklearn import metrics as peer

import jobs.evaluate
import jobs.monitor
from afm.artifact import load, read_curves
from conf.schema import Config
from features.prepare import prepare
from jobs.monitor import Finding
from reporting.models import find_models
from reporting.scored import score_test_rows
from reporting.tables import Tables, read_prepared
from tests.reporting.pipelines import (
    PASSWORD,
    TITLE,
    Page,
    add_model,
    add_rankings,
    frame,
    log,
    make_config,
    named,
    numbers,
    page,
    score,
)

pytestmark = [pytest.mark.spark]

MODELS = ("afm", "fm", "fwfm")
TITLES = ("AFM", "FM", "FwFM")


@pytest.fixture(scope="module")
def config(spark, tmp_path_factory: pytest.TempPathFactory) -> Config:
    config = make_config(tmp_path_factory.mktemp("report"))
    prepared = prepare(spark, config)
    for seed, name in enumerate(MODELS):
        add_model(named(config, name), prepared, seed)
    jobs.evaluate.main(config)
    add_rankings(spark, config)
    score(config)
    return config


@pytest.fixture(scope="module")
def text(config: Config) -> str:
    return page(config)


@pytest.fixture(scope="module")
def shown(text: str) -> Page:
    return Page(text)


@pytest.fixture(scope="module")
def rows(config: Config) -> pd.DataFrame:
    """The test rows with the logit of each model, a pair of fields at a time in float64."""
    features = frame(config, "features")
    rows = features[features["split"] == "test"].reset_index(drop=True)
    return rows.assign(**{name: logits(config, name, rows)[0] for name in MODELS})


def logits(config: Config, model: str, rows: pd.DataFrame) -> tuple[np.ndarray, ...]:
    """The equations of the papers: logits (B,), attention and contributions (B, P)."""
    artifact = load(config.models_root, model)
    w = {k: v.astype(float) for k, v in artifact.weights.items()}
    vectors, linear, start = [], 0.0, 0
    for field in artifact.manifest.spec.inputs:
        own = slice(start, start + field.cardinality)
        start += field.cardinality
        table = np.c_[w["linear"][own], w["embedding"][own]]
        column = rows[field.name]
        if field.encode == "value":
            looked_up = column.to_numpy()[:, None] * table[0]
        elif field.encode == "index":
            looked_up = table[column]
        else:
            given = [[i for i in some if i] or [0] for some in column]
            looked_up = np.array([table[some].mean(axis=0) for some in given])
        linear = linear + looked_up[:, 0]
        vectors.append(looked_up[:, 1:])
    pairs = [a * b for n, a in enumerate(vectors) for b in vectors[n + 1 :]]
    e = np.stack(pairs, axis=1)  # (B, P, K)
    attention = np.full(e.shape[:2], 1 / e.shape[1])
    added = e.sum(axis=2)
    if model == "afm":
        hidden = np.maximum(e @ w["attention.W"].T + w["attention.b"], 0)
        exponent = np.exp(hidden @ w["attention.h"] + w["attention.pair_bias"])
        attention = exponent / exponent.sum(axis=1, keepdims=True)
        added = e.shape[1] * attention * (e @ w["p"])
    if model == "fwfm":
        added = added * w["pair_weights"]
    return w["bias"] + linear + added.sum(axis=1), attention, added


def probability(scores: pd.Series) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(-scores)))


def test_rows_read_and_refused(config: Config, shown: Page) -> None:
    refused = frame(config, "quarantine")
    raw = log()
    ((name, *counts),) = shown.body("sources")
    assert name == "interactions"
    assert numbers(counts) == [len(raw), len(raw) - len(refused), len(refused)]
    bad_label = (raw["clicked"] > 1).sum()
    no_user = (raw["u"].isna() & (raw["clicked"] <= 1)).sum()
    assert [(r[1], *numbers(r[3:])) for r in shown.body("refusals")] == [
        ("label", bad_label, pytest.approx(bad_label / len(raw), abs=5e-4)),
        ("user_key", no_user, pytest.approx(no_user / len(raw), abs=5e-4)),
    ]


def test_split(config: Config, shown: Page) -> None:
    groups = frame(config, "interactions").groupby("split")["label"]
    total = groups.size().sum()
    for name, *cells in shown.body("split"):
        count = groups.size()[name]
        assert numbers(cells) == pytest.approx(
            [count, count / total, groups.mean()[name]], abs=5e-4
        )


def test_fields(config: Config, shown: Page) -> None:
    readable = frame(config, "interactions")
    train, test = (readable[readable["split"] == s] for s in ("train", "test"))
    table = {row[0]: row[1:] for row in shown.body("fields")}
    assert list(table) == [
        *("user", "age", "age_missing", "city", "item", "tags", "price", "year", "maker"),
        *("hour", "hour_city", "title"),
    ]
    for name in ("user", "city", "item", "hour"):
        counts = train[name].value_counts()
        known = counts.index[counts >= (30 if name == "city" else 1)]
        assert 0 < len(known) == numbers(table[name][3:4])[0]
        column = test[name]
        expected = [column.isin(known), column.notna() & ~column.isin(known), column.isna()]
        assert numbers(table[name][4:]) == pytest.approx([x.mean() for x in expected], abs=5e-4)
        assert numbers(table[name][2:3])[0] == pytest.approx(readable[name].isna().mean(), abs=5e-4)
    missing = test["tags"].isna().mean()
    assert numbers(table["tags"][4:]) == pytest.approx([1 - missing, 0, missing], abs=5e-4)
    assert table["price"][3:] == ["–"] * 4
    assert numbers(table["maker"][3:4]) == [5]
    assert table["title"][1] == "shown only"


def test_batches_that_were_added(spark, config: Config) -> None:
    assert "batches" not in Page(page(config)).tables
    found = [
        Finding("price", "psi", None, 0.4, 0.2, True),
        Finding("age", "psi", None, 0.01, 0.2, False),
        Finding(None, "psi", None, 0.125, 0.2, False),
        Finding("<city>", "unseen", 0.01, 0.3, 0.1, True),
        Finding(None, "auc", 0.7, 0.6125, 0.05, True),
    ]
    jobs.monitor.keep(spark, config, "friday", 1234, None, found)
    jobs.monitor.keep(spark, config, "saturday", 99, None, found[1:2])
    today = f"{datetime.now(UTC):%d %B %Y}"
    moved = "price 0.40, scores 0.12, age 0.01"
    friday = (moved, "0.6125", "price: moved, <city>: unseen, AUC")
    assert Page(page(config)).body("batches") == [
        ["saturday", today, "99", "age 0.01", "–", "none"],
        ["friday", today, "1,234", *friday],
    ]


def test_training(config: Config, shown: Page) -> None:
    rows = (frame(config, "features")["split"] == "train").sum()
    seconds = rows / 1000 * (1 + 1 / 2 + 1 / 3)
    waits, talks = [0.2] * 3, [0.3, 0.4, 0.5]
    share = np.array([6, 3, 2]) / 11
    for title, row in zip(TITLES, shown.body("time"), strict=True):
        assert [row[0], *row[7:]] == [title, "3", "1", "1"]
        talk, wait = np.dot(share, talks), np.dot(share, waits)
        expected = [1 - talk - wait, talk, wait, seconds, 3 * rows / seconds]
        assert numbers(row[2:7]) == pytest.approx(expected, rel=0.02)
    assert len(shown.body("epochs")) == 9
    assert shown.body("epochs")[1][:3] == ["AFM", "2", "0.5000"]


def test_metrics_are_those_of_the_table_and_of_scikit_learn(
    config: Config, shown: Page, rows: pd.DataFrame
) -> None:
    table = frame(config, "metrics").set_index("model")
    columns = ["auc", "gauc", "log_loss", "rmse", "calibration_error", "accuracy", "f1"]
    lines = {row[0]: row for row in shown.tables["metrics"][2:]}
    assert list(lines) == [*TITLES, "constant rate"]
    for title, name in zip(lines, table.index, strict=True):
        assert numbers(lines[title][1:8]) == pytest.approx(table.loc[name, columns], abs=5e-5)
        assert numbers(lines[title][9:]) == pytest.approx(
            table.loc[name, ["accuracy_tuned", "f1_tuned"]], abs=5e-5
        )
    for title, name in zip(TITLES, MODELS, strict=True):
        labels, p = rows["label"], probability(rows[name])
        assert numbers(lines[title][1:2])[0] == pytest.approx(
            peer.roc_auc_score(labels, p), abs=2e-4
        )
        assert numbers(lines[title][3:4])[0] == pytest.approx(peer.log_loss(labels, p), abs=2e-4)
        assert numbers(lines[title][8:9])[0] == pytest.approx(1 / (1 + np.exp(-0.5)), abs=5e-5)


def test_differences(shown: Page, rows: pd.DataFrame) -> None:
    labels = rows["label"]
    for name, row in zip(MODELS[1:], shown.body("differences"), strict=True):
        auc, log_loss = (
            measure(labels, of(rows["afm"])) - measure(labels, of(rows[name]))
            for measure, of in ((peer.roc_auc_score, np.asarray), (peer.log_loss, probability))
        )
        low, high = numbers(row[2].split(" to "))
        assert numbers([row[1], row[3]]) == pytest.approx([auc, log_loss], abs=2e-4)
        assert low < auc < high
        assert high - low == pytest.approx(bootstrapped_width(rows, name), rel=0.3)


def bootstrapped_width(rows: pd.DataFrame, name: str) -> float:
    """Width of the interval that has 95 % of the differences in AUC, of rows drawn anew."""
    random, found = np.random.default_rng(0), []
    for _ in range(200):
        drawn = rows.iloc[random.integers(0, len(rows), len(rows))]
        afm, other = (peer.roc_auc_score(drawn["label"], drawn[m]) for m in ("afm", name))
        found.append(afm - other)
    return float(4 * np.std(found))


def test_curves_against_scikit_learn(shown: Page, rows: pd.DataFrame) -> None:
    labels = rows["label"]
    for n, name in enumerate(MODELS):
        alarms, found, _ = peer.roc_curve(labels, rows[name], drop_intermediate=False)
        expected = np.interp([0.01, 0.05, 0.1, 0.2, 0.5], alarms, found)
        assert numbers(shown.body("roc")[n][1:]) == pytest.approx(expected, abs=2e-3)
        p = np.sort(probability(rows[name]))
        y = labels.to_numpy()[np.argsort(probability(rows[name]), kind="stable")]
        tenths = zip(np.array_split(p, 10), np.array_split(y, 10), strict=True)
        for row, (mean, share) in zip(shown.tables["calibration"][2:], tenths, strict=True):
            cells = numbers(row[1 + 2 * n : 3 + 2 * n])
            # Equal scores lie on both sides of the border of two tenths: in any order.
            assert cells == pytest.approx([mean.mean(), share.mean()], abs=0.02)


def test_distribution(shown: Page, rows: pd.DataFrame) -> None:
    p = probability(rows["afm"])
    for label in (0, 1):
        counts, _ = np.histogram(p[rows["label"] == label], bins=20, range=(0, 1))
        cells = numbers([row[1 + label] for row in shown.body("distribution")])
        assert cells == pytest.approx(counts / counts.sum(), abs=1.1e-3)


def test_confusion_matrix(shown: Page, rows: pd.DataFrame) -> None:
    (tn, fp), (fn, tp) = peer.confusion_matrix(rows["label"], rows["afm"] >= 0.5)
    (_, *positive), (_, *negative) = shown.body("confusion")
    assert numbers(positive) == pytest.approx([tp, fn, tp / (tp + fn)], abs=2)
    assert numbers(negative) == pytest.approx([fp, tn, tn / (tn + fp)], abs=2)


def test_auc_within_values(config: Config, shown: Page, rows: pd.DataFrame) -> None:
    names = frame(config, "vocabulary")
    city = names[names["field"] == "city"].set_index("index")["value"]
    rows = rows.assign(city=rows["city"].map({0: "missing", 1: "unseen or rare", **city}))
    table = {row[0]: row for row in shown.body("values city")}
    assert set(table) == set(rows["city"])
    for value, some in rows.groupby("city"):
        check_group(table[value], some)
    few = [r for r in table.values() if r[-1] == "few rows"]
    small = rows.groupby("city")["label"].agg(lambda y: min(y.sum(), (1 - y).sum())) < 30
    assert len(few) == small.sum()

    tags = names[names["field"] == "tags"].set_index("index")["value"]
    for index, value in tags.items():
        row = next(r for r in shown.body("values tags") if r[0] == value)
        check_group(row, rows[[index in some for some in rows["tags"]]])

    quarters = shown.body("values price")
    assert len(quarters) == 4
    assert sum(numbers(q[3:4])[0] for q in quarters) == len(rows)
    low, high = numbers(quarters[0][0].split(" to "))
    prices = np.exp(log()["i"] / 5) + 2
    assert low == pytest.approx(prices.min(), rel=1e-3)
    price = np.expm1(rows["price"]) + prices.min()
    check_group(quarters[0], rows[price <= high * (1 + 1e-4)])

    assert [r[0] for r in shown.body("values age_missing")] == ["given", "missing"]
    years = [r[0] for r in shown.body("values year")]
    assert any(y.startswith("below ") for y in years)
    assert sum(numbers([r[3] for r in shown.body("values year")])) == len(rows)
    assert "8 other" not in str(shown.tables["values city"])
    assert f"{30 - 8} other values" in [r[0] for r in shown.body("values item")]
    assert not {"values maker", "values hour_city"} & set(shown.tables)


def test_auc_within_users_items_and_hours(config: Config, shown: Page, rows: pd.DataFrame) -> None:
    names = frame(config, "vocabulary").set_index(["field", "value"])["index"]
    for field in ("user", "item", "hour"):
        known = {row[0]: row for row in shown.body(f"values {field}") if row[0] in names[field]}
        assert len(known) == min(8, len(names[field]))
        for value, row in known.items():
            check_group(row, rows[rows[field] == names[field, value]])


def test_bars_are_the_intervals(config: Config, text: str, shown: Page, rows: pd.DataFrame) -> None:
    names = frame(config, "vocabulary").query("field == 'city'").set_index("value")["index"]
    (drawn,) = re.findall(r'data-field="city">(.*?)</table>', text, re.DOTALL)
    bars = re.findall(r'interval" style="left:([\d.]+)%;width:([\d.]+)%', drawn)
    for row, bar in zip(shown.body("values city"), bars, strict=True):
        some = rows[rows["city"] == {"missing": 0, "unseen or rare": 1, **names}[row[0]]]
        ones, zeros = (some["afm"][some["label"] == y].to_numpy() for y in (1, 0))
        wins = (ones[:, None] > zeros) + (ones[:, None] == zeros) / 2  # DeLong, pair by pair
        error = np.sqrt(sum(wins.mean(n).var(ddof=1) / wins.shape[1 - n] for n in (0, 1)))
        low, high = np.clip(wins.mean() + 1.96 * error * np.array([-1, 1]), 0.3, 1)
        wanted = [100 * (low - 0.3) / 0.7, 100 * (high - low) / 0.7]
        assert [float(x) for x in bar] == pytest.approx(wanted, abs=0.6)


def check_group(cells: list[str], some: pd.DataFrame) -> None:
    assert numbers(cells[3:5]) == pytest.approx([len(some), some["label"].mean()], abs=5.1e-4)
    auc = peer.roc_auc_score(some["label"], some["afm"])
    assert numbers(cells[1:2])[0] == pytest.approx(auc, abs=2e-3)


def test_rankings(config: Config, shown: Page) -> None:
    table = frame(config, "rankings").set_index("model")
    for title, name in (("AFM", "afm"), ("popularity", "popularity")):
        (row,) = [r for r in shown.body("rankings") if r[0] == title]
        columns = ["hit_rate", "recall", "ndcg", "coverage"]
        assert numbers(row[1:]) == pytest.approx(table.loc[name, columns], abs=5e-5)
    assert "ranked for 20 users" in shown.text["ranking"]


def test_attention_and_contributions(config: Config, shown: Page, rows: pd.DataFrame) -> None:
    _, attention, added = logits(config, "afm", rows)
    fields = [i.name for i in load(config.models_root, "afm").manifest.spec.inputs]
    pairs = [f"{a} × {b}" for n, a in enumerate(fields) for b in fields[n + 1 :]]
    expected = pd.DataFrame(
        {"a": attention.mean(axis=0), "c": added.mean(axis=0), "m": np.abs(added).mean(axis=0)},
        index=pairs,
    )
    listed = shown.body("pairs")
    assert [row[0] for row in listed] == list(expected["a"].nlargest(10).index)
    for row in listed:
        assert numbers(row[1:]) == pytest.approx(expected.loc[row[0]], abs=1e-3)
    titles = [attrs["title"] for tag, attrs in shown.tags if tag == "td" and "title" in attrs]
    assert len(titles) == 2 * len(pairs)
    for title, (pair, wanted) in zip(titles[: len(pairs)], expected["a"].items(), strict=True):
        name, value = title.split(": ")
        assert name == pair
        assert numbers([value])[0] == pytest.approx(wanted, abs=5.1e-4)


def test_recommendations(config: Config, shown: Page, text: str) -> None:
    scores = frame(config, "scores")
    items = frame(config, "items").set_index("item_key")["title"]
    said = re.sub(r"\s+", " ", shown.text["recommendations"])
    users = re.findall(r"User (\w+)", said)
    assert len(users) == 3
    interactions = frame(config, "interactions").sort_values("event_time", ascending=False)
    for user, part in zip(users, re.split(r"User \w+", said)[1:], strict=True):
        mine = scores[scores["user_key"] == user].sort_values("rank")
        at = [
            part.index(f" {r.rank} {items[r.item_key]} {r.probability:.1%}")
            for r in mine.itertuples()
        ]
        assert at == sorted(at)
        first = mine.iloc[0]["explanation"][0]
        assert f"{first['attention']:.1%}, " in part
        liked = interactions[(interactions["user_key"] == user) & (interactions["label"] == 1)]
        assert f"Liked last: {liked['title'].iloc[0]}" in part
    assert "price " in said
    assert re.search(r"age \d", said) or re.search(r"city \w", said)


def test_lineage(config: Config, shown: Page, text: str) -> None:
    prepared = read_prepared(Tables(config.tables.root), None)
    versions = {row[0]: row[1] for row in shown.body("tables")}
    assert {k: str(v) for k, v in prepared.versions.items()}.items() <= versions.items()
    assert {"prepared", "metrics", "rankings", "scores"} <= set(versions)
    assert [row[0] for row in shown.body("models")] == list(TITLES)
    commands = re.search(r'<pre id="commands">(.*?)</pre>', text, re.DOTALL)
    assert commands
    assert commands[1].splitlines() == [
        "spark-submit --properties-file conf/spark.conf jobs/prepare.py conf/small.yaml",
        "python jobs/train.py conf/small.yaml model.name=fwfm",
        "python jobs/train.py conf/small.yaml model.name=fm",
        "python jobs/train.py conf/small.yaml",
        "spark-submit --properties-file conf/spark.conf jobs/evaluate.py conf/small.yaml "
        "evaluate.ranking=true",
        "spark-submit --properties-file conf/spark.conf jobs/score.py conf/small.yaml",
    ]
    assert "torch 2." in shown.text["lineage"]
    assert "label: clicked" in html.unescape(text)


def test_the_verdict_says_how_sure_it_is(shown: Page, rows: pd.DataFrame) -> None:
    aucs = {name: peer.roc_auc_score(rows["label"], rows[name]) for name in MODELS}
    assert f"{aucs['afm']:.1%}" in shown.text["head"]
    for row in shown.body("differences"):
        said = (
            f"From {row[0]}, AFM differs by {row[1]}, and with other test rows probably by {row[2]}"
        )
        assert said in shown.text["head"]


def test_tiles_and_the_sentence_on_the_test_rows(
    config: Config, text: str, shown: Page, rows: pd.DataFrame
) -> None:
    tiles = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", text))
    refused = len(frame(config, "quarantine"))
    assert tiles == {
        "rows read": f"{len(log()):,}",
        "rows refused": f"{refused:,}",
        **{name: tiles[name] for name in map("test AUC of {}".format, TITLES)},  # below
        "recommendations": f"{len(frame(config, 'scores')):,}",
    }
    for title, name in zip(TITLES, MODELS, strict=True):
        auc = peer.roc_auc_score(rows["label"], rows[name])
        assert float(tiles[f"test AUC of {title}"]) == pytest.approx(auc, abs=2e-4)
    said = f"On {len(rows):,} test rows, {rows['label'].mean():.1%} of them positive"
    assert said in shown.text["quality"]


def test_every_field_against_the_tables(config: Config, shown: Page) -> None:
    readable, features = frame(config, "interactions"), frame(config, "features")
    spec = load(config.models_root, "afm").manifest.spec
    test = features[features["split"] == "test"]
    table = {row[0]: row[1:] for row in shown.body("fields")}
    for field in config.fields:
        share = numbers(table[field.name][2:3])[0]
        assert share == pytest.approx(readable[field.name].isna().mean(), abs=5e-4), field.name
    for i in spec.inputs:
        side, _, _, values, *coverage = table[i.name]
        assert side == i.side
        if i.encode == "value":
            assert [values, *coverage] == ["–"] * 4
            continue
        assert numbers([values]) == [i.cardinality - 2]
        if i.encode == "index":
            column = test[i.name]
            expected = [(column > 1).mean(), (column == 1).mean(), (column == 0).mean()]
            assert numbers(coverage) == pytest.approx(expected, abs=5.1e-4), i.name


def test_epochs_are_those_of_the_models_folders(config: Config, shown: Page) -> None:
    expected = [
        (title, e.number, e.train_loss, e.validation.log_loss, e.validation.auc)
        for title, name in zip(TITLES, MODELS, strict=True)
        for e in read_curves(load(config.models_root, name).folder)
    ]
    for row, (title, *figures) in zip(shown.body("epochs"), expected, strict=True):
        assert row[0] == title
        assert numbers(row[1:]) == pytest.approx(figures, abs=5e-5)


def test_drawings_lie_where_the_numbers_are(
    config: Config, text: str, shown: Page, rows: pd.DataFrame
) -> None:
    plots = r'<svg class="plot".*?aria-label="(.*?)">(.*?)</svg>'
    drawn = dict(re.findall(plots, text, re.DOTALL))
    assert len(drawn) == 6
    percent = np.array([numbers(row) for row in shown.tables["calibration"][2:]])
    edges = np.linspace(0, 1, 21)
    for n, name in enumerate(MODELS):
        curves = read_curves(load(config.models_root, name).folder)
        for what, values in (
            ("training loss", [e.train_loss for e in curves]),
            ("validation log loss", [e.validation.log_loss for e in curves]),
            ("validation AUC", [e.validation.auc for e in curves]),
        ):
            x, y = line(drawn[f"{what} of each epoch"], f"--series-{n + 1}")
            assert on_a_line(x, [1, 2, 3]) and on_a_line(y, values), (name, what)
        chart = drawn["Calibration curves"]
        x, y = at_chance(chart, *line(chart, f"--series-{n + 1}"))
        np.testing.assert_allclose(x, percent[:, 1 + 2 * n], atol=2e-3)
        np.testing.assert_allclose(y, percent[:, 2 + 2 * n], atol=2e-3)
        chart = drawn["ROC curves"]
        x, y = at_chance(chart, *line(chart, f"--series-{n + 1}"))
        alarms, found, _ = peer.roc_curve(rows["label"], rows[name], drop_intermediate=False)
        np.testing.assert_allclose(y[1:-1], np.interp(x, alarms, found)[1:-1], atol=0.02)
        assert np.trapz(y, x) == pytest.approx(np.trapz(found, alarms), abs=0.01)
    for label in (0, 1):
        shares = [row[1 + label] for row in shown.body("distribution")]
        x, y = line(drawn["Distribution of predicted probabilities by label"], f"--label-{label}")
        steps = np.r_[0, np.repeat(numbers(shares), 2), 0]
        assert on_a_line(x, np.repeat(edges, 2), within=0.5)
        assert on_a_line(y, steps, within=1.0)


def line(drawing: str, colour: str) -> tuple[np.ndarray, np.ndarray]:
    """The coordinates of the line of a colour."""
    paths = re.findall(r'<path d="([^"]*)"[^>]*style="([^"]*)"', drawing)
    (found,) = [
        d for d, style in paths if f"stroke: var({colour})" in style and "fill: none" in style
    ]
    points = np.array(re.findall(r"[ML] (\S+) (\S+)", found), dtype=float)
    return points[:, 0], points[:, 1]


def at_chance(drawing: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates as shares: the grey line of chance leads from (0, 0) to (1, 1)."""
    paths = re.findall(r'<path d="M (\S+) (\S+) \nL (\S+) (\S+) \n" clip[^>]*--muted', drawing)
    ((x0, y0, x1, y1),) = np.array(paths, dtype=float)
    return (x - x0) / (x1 - x0), (y - y0) / (y1 - y0)


def on_a_line(
    places: np.ndarray, values: Sequence[float] | np.ndarray, within: float = 0.1
) -> bool:
    """Whether an axis puts these values at these places."""
    if np.ptp(values) == 0:
        return bool(np.ptp(places) <= within)
    fitted = np.polyval(np.polyfit(values, places, 1), values)
    return len(places) == len(values) and bool(np.abs(fitted - places).max() <= within)


def test_metrics_at_thresholds_against_scikit_learn(
    config: Config, shown: Page, rows: pd.DataFrame
) -> None:
    lines = {row[0]: row for row in shown.tables["metrics"][2:]}
    for title, name in zip(TITLES, MODELS, strict=True):
        labels, p = rows["label"], probability(rows[name])
        users = [u for _, u in rows.groupby("user_key") if u["label"].nunique() == 2]
        aucs = [peer.roc_auc_score(u["label"], u[name]) for u in users]
        expected = [
            np.average(aucs, weights=list(map(len, users))),
            2 * np.sqrt(np.mean((labels - p) ** 2)),
            peer.accuracy_score(labels, p >= 0.5),
            peer.f1_score(labels, p >= 0.5),
            peer.accuracy_score(labels, rows[name] >= 0.5),
            peer.f1_score(labels, rows[name] >= 0.5),
        ]
        cells = [lines[title][n] for n in (2, 4, 6, 7, 9, 10)]
        assert numbers(cells) == pytest.approx(expected, abs=2e-3)
    train = frame(config, "features").query("split == 'train'")["label"].mean()
    constant = np.full(len(rows), train)
    (cell,) = numbers(lines["constant rate"][3:4])
    assert cell == pytest.approx(peer.log_loss(rows["label"], constant), abs=1e-4)


def test_calibration_error_of_ten_equal_parts(
    config: Config, shown: Page, rows: pd.DataFrame
) -> None:
    lines = {row[0]: row for row in shown.tables["metrics"][2:]}
    for title, name in zip(TITLES, MODELS, strict=True):
        # Rows of one score stand for each other, and ten copies of each row make ten equal parts.
        alike = rows.groupby(rows[name].round(5))["label"].transform("mean")
        order = np.argsort(rows[name], kind="stable")
        p, y = (np.repeat(np.asarray(x)[order], 10) for x in (probability(rows[name]), alike))
        parts = zip(np.split(p, 10), np.split(y, 10), strict=True)
        expected = np.mean([abs(mine.mean() - share.mean()) for mine, share in parts])
        assert numbers(lines[title][5:6])[0] == pytest.approx(expected, abs=2e-4)
    train = frame(config, "features").query("split == 'train'")["label"].mean()
    (cell,) = numbers(lines["constant rate"][5:6])
    assert cell == pytest.approx(abs(train - rows["label"].mean()), abs=1e-4)


def test_interval_of_the_log_loss(shown: Page, rows: pd.DataFrame) -> None:
    for name, row in zip(MODELS[1:], shown.body("differences"), strict=True):
        losses = [
            -np.log(np.where(rows["label"] == 1, probability(rows[m]), 1 - probability(rows[m])))
            for m in ("afm", name)
        ]
        gap = losses[0] - losses[1]
        error = 1.96 * gap.std() / np.sqrt(len(gap))
        low, high = numbers(row[4].split(" to "))
        assert [low, high] == pytest.approx([gap.mean() - error, gap.mean() + error], abs=2e-4)


def test_contributions_of_all_pairs(config: Config, shown: Page, rows: pd.DataFrame) -> None:
    _, _, added = logits(config, "afm", rows)
    titles = [attrs["title"] for tag, attrs in shown.tags if tag == "td" and "title" in attrs]
    of_contributions = titles[added.shape[1] :]
    for title, wanted in zip(of_contributions, added.mean(axis=0), strict=True):
        assert numbers([title.split(": ")[1]])[0] == pytest.approx(wanted, abs=1e-3)


def test_every_reason_is_that_of_the_table(config: Config, text: str) -> None:
    scores = frame(config, "scores")
    users = re.findall(r"<h3>User (\w+)", text)
    expected = [
        (r["field_a"], r["field_b"], f"{r['attention']:.1%}", f"{r['contribution']:+.2f}")
        for user in users
        for row in scores[scores["user_key"] == user].sort_values("rank").itertuples()
        for r in row.explanation
    ]
    reason = r"<li><b>(\w+)</b>[^<]* × <b>(\w+)</b>[^<]*:\s+([\d.]+%), <span[^>]*>(.*?)</span>"
    found = [(*r[:3], r[3].replace("−", "-")) for r in re.findall(reason, text)]
    assert found == [(*r[:3], re.sub(r"^[+-]0.00$", "0.00", r[3])) for r in expected]


def test_lineage_of_tables_and_models(config: Config, shown: Page) -> None:
    for name, version, time, made_by in shown.body("tables"):
        history = DeltaTable(f"{config.tables.root}/{name}").history()
        (commit,) = [c for c in history if c["version"] == int(version)]
        at = datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        assert time == f"{at:%Y-%m-%d %H:%M:%S}"
        assert made_by == json.loads(commit.get("userMetadata") or "{}").get("config", "–")
    for row, name in zip(shown.body("models"), MODELS, strict=True):
        made = load(config.models_root, name).manifest
        wanted = [
            made.run,
            made.spec_hash,
            *map(str, (made.features.version, made.seed, made.ranks)),
        ]
        assert row[1:6] == wanted


def test_titles_are_escaped(text: str, shown: Page) -> None:
    assert "alert(1)" in text
    assert TITLE in shown.text["recommendations"]
    assert "<script" not in text
    assert not [tag for tag, _ in shown.tags if tag in ("script", "iframe", "object", "embed")]


def test_secrets_do_not_reach_the_page(config: Config, text: str) -> None:
    assert PASSWORD in config.model_dump_json()
    assert PASSWORD not in text
    assert "password: •••" in text
    assert PASSWORD not in page(config, f"source.interactions.options.password={PASSWORD}")


def test_the_page_needs_nothing_else(shown: Page, text: str) -> None:
    for tag, attributes in shown.tags:
        assert tag != "link" or attributes["href"] == "data:,"
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.findall(r"url\((?!#)", text)
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_links_of_the_page_lead_somewhere(shown: Page) -> None:
    ids = [attributes["id"] for _, attributes in shown.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a.get("href") or a.get("xlink:href") for _, a in shown.tags]
    targets = [link[1:] for link in links if link and link.startswith("#")]
    assert len(targets) > 7
    assert set(targets) <= set(ids)


def test_a_sample_says_so(config: Config, rows: pd.DataFrame, monkeypatch) -> None:
    tables, models = Tables(config.tables.root), find_models(config)
    prepared = read_prepared(tables, None)
    some = score_test_rows(tables, prepared, models, most=500)
    assert some.rows == len(rows)
    assert 400 < len(some.labels) < 600
    every = score_test_rows(tables, prepared, models)
    assert not every.is_sample
    np.testing.assert_allclose(np.sort(every.scores["fwfm"]), np.sort(rows["fwfm"]), atol=1e-4)
    nearest = np.abs(some.scores["afm"][:, None] - every.scores["afm"]).min(axis=1)
    assert nearest.max() <= 1e-5  # sums of other batches round otherwise
    share = [np.mean(s.labels) for s in (some, every)]
    assert share[0] == pytest.approx(share[1], abs=0.08)

    monkeypatch.setattr("reporting.scored.MOST_ROWS", 500)
    monkeypatch.setattr("reporting.page.score_test_rows", lambda *a: score_test_rows(*a, most=500))
    assert f"a sample of {len(some.labels)} of {len(rows):,} test rows" in page(config)


def test_a_model_that_was_trained_again_is_named(config: Config) -> None:
    again = config.model_copy(update={"train": config.train.model_copy(update={"run": None})})
    prepared = read_prepared(Tables(config.tables.root), None)
    folder = load(config.models_root, "fm").folder
    from tests.jobs.scored import with_random_model

    with_random_model(named(again, "fm"), prepared, seed=9, run="b")
    try:
        assert "FM was trained since" in Page(page(config)).text["quality"]
    finally:
        (folder.parent / "latest").unlink()
        (folder.parent / "latest").symlink_to(folder.name)
