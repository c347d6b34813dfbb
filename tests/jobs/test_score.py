"""Which recommendations the table holds, against the plain forward and pandas."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

import jobs.score
from afm.artifact import load, save
from features.errors import DataError
from jobs.score_parts import open_run
from tests.jobs.commands import ENVIRONMENT, ROOT
from tests.jobs.scored import best, expected, frame, pipeline, scored

pytestmark = [pytest.mark.spark]


@pytest.fixture(scope="module")
def base(spark, tmp_path_factory: pytest.TempPathFactory):
    return pipeline(spark, tmp_path_factory.mktemp("scored"))


def with_score(config, **changes):
    score = config.score.model_dump() | changes
    return config.model_validate(config.model_dump() | {"score": score})


def agree(rows: pd.DataFrame, wanted: pd.DataFrame) -> None:
    assert len(rows) == len(wanted) > 0
    for key in ("user_key", "item_key"):
        np.testing.assert_array_equal(rows[key], wanted[key])
    np.testing.assert_allclose(rows["logit"], wanted["logit"], rtol=1e-5, atol=1e-5)


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    texts = [rows.assign(explanation=rows["explanation"].map(repr)) for rows in (one, other)]
    pd.testing.assert_frame_equal(*texts)


def test_best_items_are_those_of_the_forward(base) -> None:
    rows = scored(base)
    agree(rows, best(expected(base), 5))
    probability = 1 / (1 + np.exp(-rows["logit"].astype(float)))
    np.testing.assert_allclose(rows["probability"], probability, atol=1e-6)
    for row in rows.head(20).itertuples():
        attention = [reason["attention"] for reason in row.explanation]
        assert len(attention) == 3
        assert attention == sorted(attention, reverse=True)
        assert all(np.isfinite(reason["contribution"]) for reason in row.explanation)
    assert "context" not in rows


@pytest.mark.parametrize("encoder", ["self_attention", "gru"])
def test_histories_are_encoded_as_in_the_forward(spark, tmp_path: Path, encoder: str) -> None:
    config = pipeline(spark, tmp_path, encoder=encoder)
    assert frame(config, "users")["liked"].map(max).gt(0).all()
    wanted = expected(config)
    agree(scored(config), best(wanted, 5))
    mean = load(config.models_root, "afm")
    weights = {n: w for n, w in mean.weights.items() if not n.startswith("history")}
    save(mean.folder, weights, (), mean.manifest)
    assert (expected(config)["logit"] - wanted["logit"]).abs().max() > 0.1


def test_commit_names_model_and_tables(base) -> None:
    jobs.score.main(base)
    said = json.loads(DeltaTable(f"{base.tables.root}/scores").history(1)[0]["userMetadata"])
    assert said["model"] == "afm/a"
    for name in ("users", "items", "features"):
        assert said[name] == str(DeltaTable(f"{base.tables.root}/{name}").version())


def test_conditions_choose_users_and_items(base) -> None:
    config = with_score(base, users="user_key < 'u120'", items="title != 'film 9' and genre > 2")
    everything = expected(base)
    everything = everything[(everything["user_key"] < "u120") & (everything["title"] != "film 9")]
    agree(scored(config), best(everything[everything["genre"] > 2], 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"users": "agee > 1"}, "score.users: there is no column `agee`; there are: user_key"),
        ({"items": "genre + 1"}, "score.items: 'genre + 1' is not a condition"),
        ({"items": "genre > 99"}, "score.items: no item meets 'genre > 99'"),
        ({"users": "user_key = ''"}, "score.users: no user meets"),
        ({"context": {}}, "score.context: give a value for hour"),
        ({"contexts": [{"name": "now"}], "context": {}}, "score.contexts, 'now': give a value for"),
        ({"context": {"hour": 77}}, "score.context: hour = 77: no training row had it"),
    ],
)
def test_what_cannot_be_scored_is_named(base, changes: dict, message: str) -> None:
    before = DeltaTable(f"{base.tables.root}/scores").version()
    with pytest.raises(DataError, match=re.escape(message)):
        jobs.score.main(with_score(base, **changes))
    assert DeltaTable(f"{base.tables.root}/scores").version() == before


def test_least_score_cuts_lists_short(base) -> None:
    everything = expected(base)
    enough = everything[1 / (1 + np.exp(-everything["logit"])) >= 0.9]
    rows = scored(with_score(base, min_score=0.9))
    agree(rows, best(enough, 5))
    assert (rows.groupby("user_key").size() < 5).any()


def test_contexts_are_scored_apart(base) -> None:
    contexts = [{"name": "late", "values": {"hour": 3}}, {"name": "early", "values": {"hour": 0}}]
    rows = scored(with_score(base, contexts=contexts))
    for name, hour in (("late", 3), ("early", 0)):
        agree(rows[rows["context"] == name], best(expected(base, hour), 5))
    one, other = (rows[rows["context"] == name]["item_key"].tolist() for name in ("late", "early"))
    assert one != other


def test_blocks_of_items_and_parts_of_users_change_nothing(base) -> None:
    seen = {"exclude_seen": ["train", "test"], "top_k": 7}
    whole = scored(with_score(base, **seen))
    parts = scored(with_score(base, **seen, items_per_block=9, parts=3))
    same(whole, parts)
    log = frame(base, "interactions")
    had = log[log["split"] != "validation"][["user_key", "item_key"]]
    assert whole.merge(had, on=["user_key", "item_key"]).empty
    assert not (Path(base.tables.root) / "scores" / "_staging" / "x").exists()


def test_plan_is_said_and_nothing_is_scored(base, capsys: pytest.CaptureFixture[str]) -> None:
    before = DeltaTable(f"{base.tables.root}/scores").version()
    jobs.score.main(with_score(base, explain_plan=True))
    said = capsys.readouterr().out
    assert "user × item" in said
    assert "multiply-adds" in said
    assert DeltaTable(f"{base.tables.root}/scores").version() == before


SLOW = """
import sys, time
import jobs.score, jobs.score_parts
from conf.schema import Config
config = Config.model_validate_json(open(sys.argv[1]).read())
write, done = jobs.score_parts.write_files, []
def slowly(*arguments):
    if len(done) == 2:
        print("two parts are there", flush=True)
        time.sleep(600)
    done.append(1)
    return write(*arguments)
jobs.score_parts.write_files = slowly
jobs.score.main(config)
"""


def test_a_killed_run_leaves_the_table_and_goes_on(base, tmp_path: Path, capsys) -> None:
    before = scored(base)
    table = Path(base.tables.root) / "scores"
    version = DeltaTable(str(table)).version()
    config = with_score(base, top_k=6, parts=4)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    submit = ["spark-submit", "--properties-file", "conf/spark.conf", "--driver-memory", "1g"]
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [*submit, tmp_path / "slow.py", tmp_path / "config.json"],
        cwd=ROOT,
        env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert any("two parts are there" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    assert DeltaTable(str(table)).version() == version
    by = ["user_key", "rank"]
    now = frame(base, "scores").sort_values(by).reset_index(drop=True)
    pd.testing.assert_frame_equal(
        now.drop(columns="explanation"), before.drop(columns="explanation")
    )
    (staged,) = (table / "_staging").iterdir()
    finished = {path.name: path.stat().st_mtime_ns for path in staged.glob("0*.json")}
    assert sorted(finished) == ["00000.json", "00001.json"]
    files = {file for path in staged.glob("0*.json") for file in paths_in(path)}

    capsys.readouterr()
    rows = scored(config)
    assert "2 of 4 parts are there" in capsys.readouterr().err
    assert files <= {Path(uri).name for uri in DeltaTable(str(table)).file_uris()}
    agree(rows, best(expected(base), 6))
    assert not list((table / "_staging").iterdir())
    again = scored(with_score(base, top_k=6, parts=1))
    pd.testing.assert_frame_equal(
        rows.drop(columns="explanation"), again.drop(columns="explanation")
    )


def paths_in(manifest: Path) -> list[str]:
    return [json.loads(text)["path"] for text in json.loads(manifest.read_text())["files"]]


def test_what_other_runs_left_is_removed(base) -> None:
    jobs.score.main(base)
    table = Path(base.tables.root) / "scores"
    left = open_run(table, "other", lambda: ((None,),))
    stray = table / f"{left.prefix(0)}-1.parquet"
    stray.write_bytes(b"")
    jobs.score.main(base)
    assert not stray.exists()
    assert not list((table / "_staging").iterdir())
    # Of a run that was killed between its commit and the end, the files stay.
    said = json.loads(DeltaTable(str(table)).history(1)[0]["userMetadata"])
    (table / "_staging" / "other").mkdir()
    plan = {"run": said["run"], "ranges": [[None]]}
    (table / "_staging" / "other" / "plan.json").write_text(json.dumps(plan))
    old = DeltaTable(str(table)).file_uris()
    jobs.score.main(base)
    assert all(Path(uri).exists() for uri in old)
