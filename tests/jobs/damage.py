"""What can be wrong with tables and models that a job finds."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from safetensors.numpy import load_file, save_file

from afm.artifact import hash_of

Damage = Callable[[Path], object]
"""Does something to a pipeline's folder."""


@dataclass(frozen=True)
class Found:
    """A job that finds something wrong."""

    name: str
    job: str
    damage: Damage
    overrides: tuple[str, ...] = ()
    may_work: bool = False
    """Whether a result is all right, too."""


def nothing(folder: Path) -> None:
    """Leaves all as it is."""


def file_of(folder: Path, table: str) -> Path:
    """A data file of a table, for training where it matters."""
    at = folder / "tables" / table
    return (sorted(at.glob("split=train/*.parquet")) or sorted(at.glob("*.parquet")))[0]


def commit_of(folder: Path, table: str) -> Path:
    """The newest commit of a table."""
    return sorted((folder / "tables" / table / "_delta_log").glob("*.json"))[-1]


def run_of(folder: Path) -> Path:
    """The folder of the model."""
    return (folder / "tables" / "models" / "afm" / "latest").resolve()


def cut(path: Path) -> None:
    """Leaves the first half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def scribble(path: Path) -> None:
    """Writes over the middle of a file."""
    content = bytearray(path.read_bytes())
    third = len(content) // 3
    content[third : 2 * third] = np.random.default_rng(0).bytes(third)
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    """Leaves a file of no bytes."""
    path.write_bytes(b"")


def _changed(path: Path, change: Callable[[dict], object]) -> None:
    about = json.loads(path.read_text())
    change(about)
    path.write_text(json.dumps(about))


def _weights(folder: Path, change: Callable[[dict], object]) -> None:
    path = run_of(folder) / "weights.safetensors"
    weights = {name: array.copy() for name, array in load_file(path).items()}
    change(weights)
    save_file(weights, path)
    right = {"weights_hash": hash_of(weights)}  # or nothing else about them is looked at
    _changed(run_of(folder) / "manifest.json", lambda manifest: manifest.update(right))


def _rewrite(folder: Path, table: str, change: Callable[[pa.Table], pa.Table]) -> None:
    path = file_of(folder, table)
    parquet.write_table(change(parquet.ParquetFile(path).read()), path)


def _with_nan(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("age")
    values = pa.array(np.full(len(table), np.nan, np.float32))
    return table.set_column(at, table.schema.field(at), values)


def _out_of_range(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("city")
    values = pa.array(np.full(len(table), 10**6, np.int32))
    return table.set_column(at, table.schema.field(at), values)


def _pairs(frame: pd.DataFrame) -> Damage:
    return lambda folder: frame.to_parquet(folder / "pairs.parquet", index=False)


def tables_found() -> Iterator[Found]:
    """Tables that are not as prepare left them."""
    damages: dict[str, Callable[[Path], object]] = {
        "gone": Path.unlink,
        "cut": cut,
        "scribbled": scribble,
        "empty": empty,
    }
    for what, damage in damages.items():
        for job in ("train", "evaluate"):
            yield Found(
                f"{job}: features file {what}", job, lambda f, d=damage: d(file_of(f, "features"))
            )
        for table in ("users", "items", "vocabulary"):
            yield Found(
                f"score: {table} file {what}",
                "score",
                lambda f, d=damage, t=table: d(file_of(f, t)),
                may_work=what == "scribbled",
            )
        for job in ("train", "score", "evaluate", "monitor"):
            yield Found(
                f"{job}: prepared file {what}", job, lambda f, d=damage: d(file_of(f, "prepared"))
            )
        yield Found(
            f"train: commit of features {what}",
            "train",
            lambda f, d=damage: d(commit_of(f, "features")),
        )
        yield Found(
            f"score: commit of users {what}", "score", lambda f, d=damage: d(commit_of(f, "users"))
        )
        yield Found(
            f"refit: interactions file {what}",
            "prepare",
            lambda f, d=damage: d(file_of(f, "interactions")),
            ("prepare.mode=refit",),
            may_work=what == "scribbled",
        )
    for table in ("prepared", "features", "users", "items", "vocabulary"):
        for job in ("train", "score"):
            yield Found(
                f"{job}: no table {table}",
                job,
                lambda f, t=table: shutil.rmtree(f / "tables" / t),
                may_work=(job, table) not in [("train", "features"), ("train", "prepared")]
                and job == "train",
            )
    prepared = [("[]", "a list"), ("{}", "nothing"), ("\x00", "no JSON"), ("9" * 10**5, "a number")]
    for text, what in prepared:
        for job in ("train", "score"):
            yield Found(
                f"{job}: prepared says {what}",
                job,
                lambda f, x=text: _rewrite(
                    f, "prepared", lambda t: t.set_column(0, "prepared", pa.array([x]))
                ),
            )
    yield Found("train: features with nan", "train", lambda f: _rewrite(f, "features", _with_nan))
    yield Found(
        "train: features out of range", "train", lambda f: _rewrite(f, "features", _out_of_range)
    )
    yield Found(
        "train: features without a column",
        "train",
        lambda f: _rewrite(f, "features", lambda t: t.drop(["city"])),
    )


def models_found() -> Iterator[Found]:
    """Models that are not as training left them."""
    for name in ("manifest.json", "weights.safetensors"):
        damages = {"gone": Path.unlink, "cut": cut, "scribbled": scribble, "empty": empty}
        for what, damage in damages.items():
            for job in ("score", "evaluate"):
                yield Found(
                    f"{job}: {name} {what}",
                    job,
                    lambda f, d=damage, n=name: d(run_of(f) / n),
                    may_work=(name, what) == ("manifest.json", "scribbled"),
                )
    for text, what in [
        ("[]", "a list"),
        ("null", "null"),
        ('{"run": 1}', "little"),
        ("[" * 9**5, "deep"),
    ]:
        yield Found(
            f"score: manifest is {what}",
            "score",
            lambda f, x=text: (run_of(f) / "manifest.json").write_text(x),
        )
    yield Found(
        "score: manifest of another spec",
        "score",
        lambda f: _changed(run_of(f) / "manifest.json", lambda m: m.update(spec_hash="0" * 16)),
    )
    yield Found(
        "score: manifest with a path as run",
        "score",
        lambda f: _changed(run_of(f) / "manifest.json", lambda m: m.update(run="../../x")),
        may_work=True,
    )
    yield Found(
        "score: manifest of a future format",
        "score",
        lambda f: _changed(run_of(f) / "manifest.json", lambda m: m.update(format=99)),
    )
    yield Found("score: latest leads nowhere", "score", lambda f: _relink(f, "nowhere"))
    yield Found("score: latest leads to itself", "score", lambda f: _relink(f, "latest"))
    yield Found("score: latest leads out", "score", lambda f: _relink(f, "/etc"))
    changes: dict[str, Callable[[dict], object]] = {
        "nan": lambda w: w["embedding"].fill(np.nan),
        "inf": lambda w: w["linear"].fill(np.inf),
        "huge": lambda w: w["embedding"].fill(1e30),
        "no p": lambda w: w.pop("p"),
        "no bias": lambda w: w.pop("bias"),
        "another K": lambda w: w.update(embedding=w["embedding"][:, :-1].copy()),
        "fewer rows": lambda w: w.update(embedding=w["embedding"][:-1].copy()),
        "another A": lambda w: w.update({"attention.W": w["attention.W"][:-1].copy()}),
        "other types": lambda w: w.update(embedding=w["embedding"].astype(np.float64)),
        "integers": lambda w: w.update(embedding=w["embedding"].astype(np.int32)),
        "three dimensions": lambda w: w.update(p=w["p"][None, None]),
        "one more": lambda w: w.update(extra=np.zeros(3, np.float32)),
    }
    for what, change in changes.items():
        for job in ("score", "evaluate"):
            yield Found(
                f"{job}: weights, {what}",
                job,
                lambda f, c=change: _weights(f, c),
                may_work=what in ("one more", "other types"),
            )


def _relink(folder: Path, target: str) -> None:
    link = folder / "tables" / "models" / "afm" / "latest"
    link.unlink()
    link.symlink_to(target)


def arguments_found() -> Iterator[Found]:
    """Conditions, contexts, candidates and settings that do not fit."""
    conditions = {
        "division by zero": "1 / (age - age) > 0",
        "two statements": "true; DROP TABLE users",
        "unknown column": "nobody > 3",
        "no condition": "user_key",
        "generator": "explode(array(1))",
        "half a quote": "'",
        "nothing": "false",
        "sum": "sum(1) > 0",
        "null": "cast(null as boolean)",
        "cast": "cast(user_key as int) > 0",
        "sub-query": "user_key in (select 1)",
        "sql": "user_key = ''; DROP TABLE users; --'",
        "raised": "raise_error('no') is null",
    }
    for what, condition in conditions.items():
        for side in ("users", "items"):
            text = condition.replace("user_key", "item_key") if side == "items" else condition
            text = text.replace("age", "item") if side == "items" else text
            yield Found(
                f"score.{side}: {what}",
                "score",
                nothing,
                (f"score.{side}={json.dumps(text)}",),
                may_work=True,
            )
    for value in (
        "{}",
        "{city: null}",
        "{city: nowhere}",
        "{city: 3}",
        "{city: true}",
        "{city: '''; DROP TABLE x'}",
        "{city: 99999999999}",
    ):
        yield Found(
            f"score.context={value}",
            "score",
            nothing,
            (f"score.context={value}",),
            may_work=value != "{}",
        )
    frames = {
        "other columns": pd.DataFrame({"u": ["u1"], "i": [1]}),
        "no rows": pd.DataFrame({"user_key": pd.Series([], dtype=str), "item_key": []}),
        "strangers": pd.DataFrame({"user_key": ["x"], "item_key": [999]}),
        "other types": pd.DataFrame({"user_key": [1.5], "item_key": ["one"]}),
        "nulls": pd.DataFrame({"user_key": ["u1", None], "item_key": [1, None]}),
        "pairs twice": pd.DataFrame({"user_key": ["u1"] * 9, "item_key": [1] * 9}),
    }
    for what, frame in frames.items():
        yield Found(
            f"score.candidates: {what}",
            "score",
            _pairs(frame),
            ("score.candidates={format: parquet, path: FOLDER/pairs.parquet}",),
            may_work=what in ("nulls", "pairs twice", "other types"),
        )
    yield Found(
        "score.candidates: none there",
        "score",
        nothing,
        ("score.candidates={format: csv, path: FOLDER/none.csv}",),
    )
    settings = {
        "train.learning_rate=1.0e+30": False,
        "train.learning_rate=1.0e-300": True,
        "train.batch_size=2147483647": True,
        "train.batch_size=1": True,
        "model.init_std=1.0e+30": False,
        "model.embedding_size=65536": True,
        "model.name=fwfm": True,
        "train.l2.embedding=1.0e+300": True,
        "train.clip_norm=1.0e-300": True,
        "train.seed=9223372036854775807": True,
        "model.pretrained=fm": False,
        "model.pretrained=/etc": False,
        "model.pretrained=../../x": False,
        "train.run=a": True,
        "train.schedule.warmup=1000000000000": True,
        "train.shuffle_rows=1": True,
        "label=clicked = 0": False,
        "split.seed=5": False,
        "fields.1.scale=none": False,
    }
    for setting, may_work in settings.items():
        yield Found(f"train: {setting}", "train", nothing, (setting,), may_work=may_work)
    for setting in (
        "score.top_k=2147483647",
        "score.parts=2147483647",
        "score.explain=2147483647",
        "score.items_per_block=1",
        "score.min_score=1",
        "score.mode=changed",
    ):
        yield Found(setting, "score", nothing, (setting,), may_work=True)
    yield Found("monitor: nothing appended", "monitor", nothing)
    yield Found("monitor: unknown batch", "monitor", nothing, ("monitor.batch=none",))
    yield Found("evaluate: no such run", "evaluate", nothing, ("train.run=none",))
    yield Found("score: no such model", "score", nothing, ("model.name=fm",))
    yield Found("tune: no ranges", "tune", nothing)


def all_found() -> Sequence[Found]:
    """All of it."""
    found = [*tables_found(), *models_found(), *arguments_found()]
    assert len({one.name for one in found}) == len(found)
    return found
