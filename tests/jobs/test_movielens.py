"""The whole pipeline on 100,004 ratings, through the commands of the tutorial."""

import itertools
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from deltalake import DeltaTable

from afm.artifact import load
from afm.model import build_model
from afm.progress import Progress
from afm.ranks import Ranks
from afm.slots import to_slots
from afm.train import train as train_model
from conf.load import load as load_config
from features.spec import Prepared
from tests.documents import blocks, commands, shape
from tests.jobs.commands import (
    ROOT,
    SUBMIT,
    command,
    documented,
    documented_here,
    events,
    here,
    on_terminal,
    result,
    train,
)
from tests.reporting.pipelines import Page

pytestmark = [pytest.mark.spark]

YAML = "conf/movielens.yaml"
TOP_K = 10
TUTORIAL = "docs/tutorial.md"
STEPS = [line for line in commands(TUTORIAL) if not line.startswith(("make ", "source "))]
TOLD = ("prepare", "afm", "evaluate", "score")
DAY = next(n for n, line in enumerate(STEPS) if "mode=append" in line)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("movielens")


@pytest.fixture(scope="module")
def where(root: Path) -> list[str]:
    """Overrides that put everything into a folder of the test's own."""
    ratings = root / "raw" / "ratings.parquet"
    return [f"source.interactions.path={ratings}", f"tables.root={root}"]


def run_step(line: str, where: list[str], root: Path) -> CompletedProcess[str]:
    """Runs a command of the tutorial in the test's folder."""
    overrides = where if YAML in line else []
    return documented(line, *overrides, instead={"build/movielens": root})


def to_people(run: CompletedProcess[str], root: Path) -> str:
    """What a command said to people, as the tutorial shows it."""
    said = run.stderr if "--json" in run.args else run.stdout + run.stderr
    said = said.replace(str(root), "build/movielens")
    return re.sub(r"^\[\d+\]<std\w+>:", "", said, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def runs(where: list[str], root: Path) -> dict[str, CompletedProcess[str]]:
    """The commands of the tutorial's first day, by their file and by model; some tell machines."""
    names = ["movielens", "prepare", "fm", "afm", "evaluate", "score", "report"]
    return {
        name: run_step(line, where + ["--json"] * (name in TOLD), root)
        for name, line in zip(names, STEPS[:DAY], strict=True)
    }


@pytest.fixture(scope="module")
def outputs(runs: dict[str, CompletedProcess[str]], root: Path) -> dict[str, str]:
    """What each of them said to people."""
    return {name: to_people(run, root) for name, run in runs.items()}


@pytest.fixture(scope="module")
def told(runs: dict[str, CompletedProcess[str]]) -> dict[str, dict[str, Any]]:
    """What jobs said to machines in the end. (horovodrun names the rank before each line.)"""
    said = {
        job: re.sub(r"^\[0\]<stdout>:", "", runs[job].stdout, flags=re.MULTILINE) for job in TOLD
    }
    return {job: result(text) for job, text in said.items()}


def frame(root: Path, name: str) -> pd.DataFrame:
    return DeltaTable(str(root / name)).to_pandas()


def test_no_row_is_lost(outputs: dict[str, str], root: Path) -> None:
    sizes = frame(root, "features")["split"].value_counts()
    assert sizes.sum() + len(frame(root, "quarantine")) == 100_004
    assert abs(sizes["test"] / sizes.sum() - 0.1) < 0.01
    assert abs(sizes["validation"] / sizes.sum() - 0.1) < 0.01
    assert "100,004 read = 100,004 accepted + 0 quarantined" in outputs["prepare"]


def test_what_machines_are_told_are_the_tables_figures(told, root: Path) -> None:
    said, rows = told["prepare"], frame(root, "features")["split"].value_counts()
    assert {part: said["rows"][part] for part in rows.index} == rows.to_dict()
    for job in told.values():
        for name, version in job.get("versions", {}).items():
            assert DeltaTable(str(root / name), version=version).version() == version
    artifact = load(root / "models", "afm")
    assert told["afm"]["run"] == artifact.manifest.run
    assert Path(told["afm"]["folder"]) == artifact.folder.resolve()
    assert told["afm"]["validation"] == asdict(artifact.manifest.validation)
    metrics = frame(root, "metrics").to_dict("records")
    assert [m | {"run": m["run"] or None} for m in metrics] == told["evaluate"]["metrics"]
    scores = frame(root, "scores")
    assert told["score"]["rows"] == len(scores)
    assert told["score"]["users"] == scores["user_key"].nunique()


def test_machines_are_told_of_steps(runs, told) -> None:
    steps = [e["step"] for e in events(runs["prepare"].stdout) if e["event"] == "step"]
    assert steps[0] == "read 100,004 interactions, quarantined 0"
    assert len(steps) == 4
    epochs = re.findall(r'^\[0\]<stdout>:(\{"event": "step".*)', runs["afm"].stdout, re.M)
    assert [json.loads(e)["epoch"] for e in epochs] == list(range(1, 1 + told["afm"]["epochs"]))


def test_tables_open_in_spark_as_in_delta_rs(request, outputs, root: Path) -> None:
    session = request.getfixturevalue("spark")  # the name is taken by the command here
    for name in ("features", "users", "items", "scores"):
        rows = session.sql(f"SELECT count(*) AS n FROM delta.`{root / name}`").head()
        assert rows["n"] == len(frame(root, name)) > 0


def test_models_beat_the_constant_rate_by_far(outputs: dict[str, str], root: Path) -> None:
    metrics = frame(root, "metrics").set_index("model")
    assert metrics.loc["constant rate", "auc"] == 0.5
    for model in ("afm", "fm"):
        assert metrics.loc[model, "auc"] > 0.77
        assert metrics.loc[model, "log_loss"] < metrics.loc["constant rate", "log_loss"] - 0.1
        assert model in outputs["evaluate"]


def test_metrics_against_scikit_learn(outputs, root: Path) -> None:
    from sklearn import metrics as peer

    rows = rows_of_test(root)
    logits, labels = torch_logits(root / "models", "afm", rows)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    mine = frame(root, "metrics").set_index("model").loc["afm"]
    assert mine["auc"] == pytest.approx(peer.roc_auc_score(labels, logits), abs=1e-5)
    assert mine["log_loss"] == pytest.approx(peer.log_loss(labels, probabilities), abs=1e-5)
    assert mine["accuracy"] == pytest.approx(peer.accuracy_score(labels, logits >= 0), abs=2e-4)
    assert mine["f1"] == pytest.approx(peer.f1_score(labels, logits >= 0), abs=2e-4)
    threshold = load(root / "models", "afm").manifest.validation.threshold
    assert mine["threshold"] == threshold
    assert mine["f1_tuned"] == pytest.approx(peer.f1_score(labels, logits >= threshold), abs=2e-4)
    assert mine["f1_tuned"] > mine["f1"]
    users = rows.assign(logit=logits).groupby("user_key")
    both = [user for _, user in users if user["label"].nunique() == 2]
    aucs = [peer.roc_auc_score(user["label"], user["logit"]) for user in both]
    assert mine["gauc"] == pytest.approx(np.average(aucs, weights=list(map(len, both))), abs=1e-5)


def test_scores_hold_k_rows_for_each_user(outputs, root: Path) -> None:
    scores, users = frame(root, "scores"), frame(root, "users")
    assert not scores.duplicated(["user_key", "item_key"]).any()
    per_user = scores.groupby("user_key")["rank"].agg(list)
    assert set(per_user.index) == set(users["user_key"])
    assert all(sorted(ranks) == list(range(1, TOP_K + 1)) for ranks in per_user)
    ordered = scores.sort_values(["user_key", "rank"])
    assert (ordered.groupby("user_key")["logit"].diff().dropna() <= 0).all()


def test_seen_items_are_not_recommended(outputs, root: Path) -> None:
    seen = frame(root, "interactions")[["user_key", "item_key"]]
    assert seen.merge(frame(root, "scores"), on=["user_key", "item_key"]).empty


def test_scores_are_the_models_and_the_best(outputs, root: Path) -> None:
    """All items for some users by the torch model, against the table."""
    users, items = frame(root, "users"), frame(root, "items")
    scores = frame(root, "scores").set_index(["user_key", "item_key"])
    seen = frame(root, "interactions").groupby("user_key")["item_key"].agg(set)
    for user in users["user_key"].sample(5, random_state=0):
        pairs = users[users["user_key"] == user].merge(items, how="cross")
        logits = pd.Series(torch_logits(root / "models", "afm", pairs)[0], index=pairs["item_key"])
        table = scores.loc[user]
        np.testing.assert_allclose(table["logit"], logits[table.index], atol=1e-5)
        np.testing.assert_allclose(
            table["probability"], 1 / (1 + np.exp(-table["logit"].astype(float))), atol=1e-6
        )
        best = logits.drop(list(seen[user])).nlargest(TOP_K)
        np.testing.assert_allclose(table.sort_values("rank")["logit"], best, atol=1e-5)


def test_tutorial_shows_what_is_printed(outputs) -> None:
    printed = {shape(line) for said in outputs.values() for line in said.splitlines()}
    first, _ = (ROOT / TUTORIAL).read_text(encoding="utf-8").split("## 7.")
    assert set(shown(first)) <= printed
    assert len(shown(first)) > 20


def shown(text: str) -> list[str]:
    """Shapes of the lines that a text shows as printed, titles and reasons aside."""
    found = re.findall(r"^```text\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    of_commands = [block for block in found if not block.startswith("   rank")]
    return [shape(line) for b in of_commands for line in b.splitlines() if " × " not in line]


def test_queries_of_the_readme_work(request, outputs, root: Path) -> None:
    (code,) = blocks("README.md", "python")
    assert blocks(TUTORIAL, "python")[0].splitlines() == code.splitlines()[1:]
    code = code.replace("build/movielens", str(root))
    printed = command("python", "-c", code).stdout.splitlines()
    (query,) = blocks("README.md", "sql")
    rows = request.getfixturevalue("spark").sql(query.replace("build/movielens", str(root)))
    rows = rows.collect()
    assert [r["rank"] for r in rows] == list(range(1, TOP_K + 1))
    assert len(printed) == 1 + TOP_K
    assert rows[0]["title"][:40] in printed[1]  # pandas cuts long ones


def test_recipes_in_python_give_what_the_tables_hold(outputs, root: Path, capsys) -> None:
    ranked, single = blocks("docs/reference/python.md", "python")
    exec(ranked.replace("build/movielens", str(root)), {})
    first, *others = capsys.readouterr().out.splitlines()
    title, logit = re.fullmatch(r"(.+) (-?\d+\.\d+) \w+ × \w+", first).groups()
    users, items = frame(root, "users"), frame(root, "items")
    pairs = users[users["user_key"] == 1].merge(items, how="cross")
    logits, _ = torch_logits(root / "models", "afm", pairs)
    assert len(others) == 4
    assert title == pairs["title"][logits.argmax()]
    assert float(logit) == pytest.approx(logits.max(), abs=1e-3)
    exec(single.replace("build/movielens", str(root)), {})
    of_rows = np.array(capsys.readouterr().out.strip("[]\n").split(), float)
    logits, _ = torch_logits(root / "models", "afm", rows_of_test(root).head(5))
    np.testing.assert_allclose(of_rows, logits, atol=1e-5)
    (looked,) = blocks("docs/howto/own-log.md", "python")
    exec(looked.replace("build/movielens", str(root)), {})
    assert "genres.missing" in capsys.readouterr().out


def test_first_yaml_is_guessed_as_shown(outputs, root: Path) -> None:
    page = "docs/howto/own-log.md"
    target = root / "ratings.yaml"
    folders = {"build/movielens": root, "build/ratings.yaml": target}
    said = documented(commands(page)[0], instead=folders).stdout
    said = said.replace(str(target), "build/ratings.yaml").replace(str(root), "build/movielens")
    (expected,) = blocks(page, "text")
    assert set(expected.splitlines()) <= set(said.splitlines())
    assert load_config(target).label == "rating >= 4"


def test_explanations_name_pairs_of_fields(outputs, root: Path) -> None:
    fields = {"user", "movie", "genres", "decade", "year"}
    for explanation in frame(root, "scores")["explanation"].head(500):
        assert len(explanation) == 3
        attention = [pair["attention"] for pair in explanation]
        assert attention == sorted(attention, reverse=True)
        assert 0 < sum(attention) <= 1 + 1e-6
        assert all({p["field_a"], p["field_b"]} <= fields for p in explanation)


def test_scores_say_what_made_them(outputs, root: Path) -> None:
    metadata = json.loads(DeltaTable(str(root / "scores")).history(1)[0]["userMetadata"])
    manifest = load(root / "models", "afm").manifest
    assert metadata["model"] == f"afm/{manifest.run}"
    assert metadata["spec"] == manifest.spec_hash
    assert metadata["users"] == str(prepared(root).versions["users"])


def test_report_has_the_same_numbers(outputs, root: Path) -> None:
    assert "report.html" in outputs["report"]
    page = Page((root / "report.html").read_text(encoding="utf-8"))
    metrics = frame(root, "metrics").set_index("model")
    for row in page.tables["metrics"][2:]:
        name = {"AFM": "afm", "FM": "fm"}.get(row[0], row[0])
        assert float(row[1]) == pytest.approx(metrics.loc[name, "auc"], abs=5e-5)
    assert f"{metrics.loc['afm', 'auc']:.1%} of all pairs" in page.text["head"]
    assert len(re.findall(r"User \d+", page.text["recommendations"])) == 3
    assert 'class="missing"' in (root / "report.html").read_text()  # no rankings yet


def test_rerun_ends_in_the_same_content(request, outputs, where: list[str], root: Path) -> None:
    request.getfixturevalue("spark")
    before = {name: frame(root, name) for name in ("scores", "metrics", "features", "items")}
    run = load(root / "models", "afm").manifest.run
    versions = prepared(root).versions
    assert f"afm run {run}" in here("train", YAML, *where).stdout
    shown = on_terminal([*SUBMIT, "jobs/score.py", YAML, *where])
    assert re.search(r"\r\x1b\[Kscore: scoring 671 users .* of .* tasks", shown)
    assert "\r\x1b[Kscore: 6,710 recommendations for 671 users" in shown
    for job in ("evaluate", "prepare"):
        here(job, YAML, *where)
    assert prepared(root).versions != versions
    for name, content in before.items():
        keys = [k for k in ("user_key", "item_key", "row", "model") if k in content]
        one, two = (
            f.sort_values(keys).reset_index(drop=True).drop(columns="explanation", errors="ignore")
            for f in (content, frame(root, name))
        )
        pd.testing.assert_frame_equal(one, two)


def test_one_and_two_ranks_agree(where: list[str], outputs, root: Path) -> None:
    settings = [*where, "train.epochs=2", f"tables.models={root / 'ranks'}"]
    here("train", YAML, *settings, "train.run=one")
    train(2, YAML, *settings, "train.run=two")
    one, two = (load(root / "ranks", "afm", run).manifest.validation for run in ("one", "two"))
    assert one.auc == pytest.approx(two.auc, abs=0.005)
    assert one.log_loss == pytest.approx(two.log_loss, abs=0.005)


def test_afm_is_not_behind_fm_over_three_seeds(where: list[str], outputs, root: Path) -> None:
    from sklearn.metrics import roc_auc_score

    models, rows = root / "seeds", rows_of_test(root)  # apart: `latest` is to stay where it is
    auc: dict[str, list[float]] = {"afm": [], "fm": []}
    for name, seed in itertools.product(auc, range(3)):
        if seed:  # the first is that of the tutorial's runs
            overrides = [f"tables.models={models}", f"model.name={name}", f"train.seed={seed}"]
            config = load_config(ROOT / YAML, [*where, *overrides])
            train_model(config, Ranks(), Progress(sys.stderr), torch.device("cpu"))
        logits, labels = torch_logits(models if seed else root / "models", name, rows)
        auc[name].append(roc_auc_score(labels, logits))
    assert np.mean(auc["afm"]) >= np.mean(auc["fm"])
    assert min(auc["afm"]) > 0.78


def test_another_day_is_that_of_the_tutorial(
    request, where: list[str], outputs, root: Path
) -> None:
    request.getfixturevalue("spark")
    before = frame(root, "scores")
    (make_day,) = blocks(TUTORIAL, "python")[1:]
    exec(make_day.replace("build/movielens", str(root)), {})
    runs = [
        documented_here(
            line, *where, instead={"build/movielens": root}, check="monitor" not in line
        )
        for line in STEPS[DAY:]
    ]
    assert [run.returncode for run in runs] == [
        3 if "monitor" in line else 0 for line in STEPS[DAY:]
    ]
    printed = {shape(line) for run in runs for line in to_people(run, root).splitlines()}
    _, day = (ROOT / TUTORIAL).read_text(encoding="utf-8").split("## 7.")
    assert set(shown(day)) <= printed
    assert len(shown(day)) > 5
    # The films of that day are seen by now; all else stays.
    rated = pd.read_parquet(root / "raw" / "day.parquet")[["userId", "movieId"]]
    rated = rated.rename(columns={"userId": "user_key", "movieId": "item_key"})
    after, keys = frame(root, "scores"), ["user_key", "item_key"]
    assert after.merge(rated, on=keys).empty
    kept = before.merge(rated, on=keys, how="left", indicator=True).query("_merge == 'left_only'")
    assert len(kept.merge(after, on=keys)) == len(kept)


def test_candidates_are_scored_alone(request, where: list[str], outputs, root: Path) -> None:
    request.getfixturevalue("spark")
    seen = frame(root, "interactions").head(30)[["user_key", "item_key"]]
    wanted = frame(root, "scores").groupby("user_key").head(2)[["user_key", "item_key"]].head(40)
    pd.concat([wanted, seen]).astype(str).to_parquet(root / "candidates.parquet", index=False)
    candidates = f"score.candidates={{format: parquet, path: {root / 'candidates.parquet'}}}"
    everything = frame(root, "scores").set_index(["user_key", "item_key"])["logit"]
    here("score", YAML, *where, candidates, "score.top_k=1")
    scores = frame(root, "scores")
    assert len(scores) == wanted["user_key"].nunique()
    keys = pd.MultiIndex.from_frame(scores[["user_key", "item_key"]])
    np.testing.assert_allclose(scores["logit"], everything[keys], atol=1e-5)


def rows_of_test(root: Path) -> pd.DataFrame:
    features = frame(root, "features")
    return features[features["split"] == "test"]


def prepared(root: Path) -> Prepared:
    return Prepared.model_validate_json(frame(root, "prepared")["prepared"][0])


def torch_logits(models: Path, name: str, rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Logits by the torch model, loaded from its folder, and the labels if there are any."""
    artifact = load(models, name)
    model = build_model(artifact.layout, artifact.manifest.config.model, seed=0).eval()
    model.load_state_dict({k: torch.from_numpy(v) for k, v in artifact.weights.items()})
    columns = {
        i.name: np.stack(rows[i.name]) if i.encode == "multi" else rows[i.name].to_numpy()
        for i in artifact.layout.inputs
    }
    slots, x = to_slots(artifact.layout, columns)
    with torch.no_grad():
        logits = model(torch.from_numpy(slots), torch.from_numpy(x)).numpy()
    return logits, rows["label"].to_numpy() if "label" in rows else np.empty(0)
