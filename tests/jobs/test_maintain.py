"""Tidying up removes what nobody needs; whatever is referred to reads as before."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable

import jobs.maintain
import jobs.monitor
import jobs.score
from afm.alone import WRITERS, Writer, alone
from afm.artifact import read_manifest
from afm.reader import open_part
from afm.slots import Layout
from afm.storage import table_uri
from afm.tables import read_prepared
from conf.schema import Config
from features import publication, tables
from features.append import append
from features.prepare import prepare
from features.refit import refit
from jobs import maintain_tables
from tests.jobs.scored import make_config, small_log, with_random_model

pytestmark = [pytest.mark.spark]

DAYS = {"log": (0, 900), "d1": (900, 1_000), "d2": (1_000, 1_100), "d3": (1_100, 1_200)}
NOW = {"retention_hours": 0, "compact_files": 1}


def on_day(config: Config, day: str) -> Config:
    """The pipeline with the log of a day."""
    interactions = config.source.interactions
    path = str(Path(str(interactions.path)).with_name(f"{day}.parquet"))
    source = {"interactions": interactions.model_copy(update={"path": path})}
    return config.model_copy(update={"source": config.source.model_copy(update=source)})


def maintained(config: Config, **settings: object) -> None:
    """Tidies up."""
    section = config.maintain.model_copy(update=settings)
    jobs.maintain.main(config.model_copy(update={"maintain": section}))


@pytest.fixture(scope="module")
def base(spark, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A model of an old spec, one of the present, a day appended to each, and scores."""
    folder = tmp_path_factory.mktemp("maintain")
    log = small_log(rows=1_200)
    for day, (first, end) in DAYS.items():
        log.iloc[first:end].to_parquet(folder / f"{day}.parquet", index=False)
    config = make_config(folder, log.head(900), exclude_seen=["train"])
    with_random_model(config, prepare(spark, config), run="old")
    append(spark, on_day(config, "d1"))
    with_random_model(config, refit(spark, config), run="new", seed=1)
    append(spark, on_day(config, "d2"))
    jobs.score.main(config)
    return config


@pytest.fixture
def fresh(base: Config, tmp_path: Path) -> Callable[[str], Config]:
    """Copies of all that."""

    def copy(name: str) -> Config:
        root = tmp_path / name
        shutil.copytree(base.tables.root, root, symlinks=True)
        return base.model_copy(
            update={"tables": base.tables.model_copy(update={"root": str(root)})}
        )

    return copy


@pytest.fixture
def config(fresh: Callable[[str], Config]) -> Config:
    return fresh("tables")


def rows_at(config: Config, name: str, version: int | None = None) -> pd.DataFrame:
    """A table in an order that follows from its rows; lists as text."""
    table = DeltaTable(table_uri(config.tables.root, name), version=version)
    rows = table.to_pyarrow_table().to_pandas()
    lists = [c for c in rows if rows[c].map(lambda v: isinstance(v, np.ndarray | list)).any()]
    rows = rows.assign(**{c: rows[c].map(lambda v: repr(list(v))) for c in lists})
    return rows.sort_values(list(rows)).reset_index(drop=True)[sorted(rows)]


def files_of(config: Config) -> set[str]:
    """All files but the logs'."""
    root = Path(config.tables.root)
    found = {p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file()}
    return {path for path in found if "_delta_log" not in path}


def versions_of(config: Config) -> dict[str, int]:
    """The newest version of each table."""
    names = maintain_tables.tables_of(config.tables.root)
    return {n: DeltaTable(table_uri(config.tables.root, n)).version() for n in names}


def test_what_is_referred_to_reads_as_before_and_nothing_else(spark, config: Config) -> None:
    root = config.tables.root
    publications = {v: publication.published(spark, root, v) for v in range(4)}
    # prepared: 0 with the old spec, 1 with a day more, 2 refitted, 3 with a day more; scores of 3
    old, new = publications[1], publications[3]
    assert old.spec.hash == publications[0].spec.hash != new.spec.hash
    wanted = {(name, v) for p in (old, new) for name, v in p.versions.items()} | {("prepared", 1)}
    wanted |= {("features", publications[0].versions["features"])}  # which the old model learned
    wanted |= {("features", publications[2].versions["features"])}  # which the monitor compares
    before = {at: rows_at(config, *at) for at in wanted}
    newest = {name: rows_at(config, name) for name in versions_of(config)}

    maintained(config, **NOW)

    for at, rows in before.items():
        pd.testing.assert_frame_equal(rows_at(config, *at), rows)
    for name, rows in newest.items():
        if name != "prepared":
            pd.testing.assert_frame_equal(rows_at(config, name), rows)
    for p in (publications[0], publications[2]):
        for name in ("users", "items"):
            with pytest.raises(Exception, match="No such file|not found|does not exist"):
                rows_at(config, name, p.versions[name])


def test_tables_that_grew_are_few_files_with_the_same_rows_for_training(config: Config) -> None:
    root, before = config.tables.root, read_prepared(config.tables.root)
    maintained(config, **NOW)
    after = read_prepared(root)
    assert after.model_copy(update={"versions": before.versions}) == before
    for name in ("interactions", "features"):
        old, new = (
            DeltaTable(table_uri(root, name), version=p.versions[name]) for p in (before, after)
        )
        assert len(old.file_uris()) > len(new.file_uris())
        assert len(new.file_uris()) == (3 if name == "features" else 1)
    layout = Layout.of(after.spec.inputs)

    def read(version: int) -> list[tuple[object, ...]]:
        part = open_part(
            root, version, "train", layout, weighted=False, batch_size=64, rank=0, size=1
        )
        batches = list(part.batches())
        rows, x = (np.concatenate([getattr(b, n) for b in batches]) for n in ("rows", "x"))
        labels = np.concatenate([b.labels for b in batches])
        return sorted(map(tuple, np.column_stack([rows, x, labels])))

    assert read(after.versions["features"]) == read(before.versions["features"])


def test_a_rerun_finds_nothing_to_do(config: Config, capsys) -> None:
    maintained(config, **NOW)
    files, versions = files_of(config), versions_of(config)
    capsys.readouterr()
    maintained(config, **NOW)
    assert (files_of(config), versions_of(config)) == (files, versions)
    assert "removed 0 files of tables and 0 folders, 0 bytes" in capsys.readouterr().out


@pytest.mark.parametrize("writer", WRITERS)
def test_it_waits_for_jobs_that_write(config: Config, writer: Writer) -> None:
    files = files_of(config)
    with ThreadPoolExecutor(1) as other:
        with alone(config.tables.root, writer):
            tidying = other.submit(maintained, config, **NOW)
            with pytest.raises(TimeoutError):
                tidying.result(timeout=0.5)
            assert files <= files_of(config)  # which has a lock, too
        tidying.result(timeout=60)
    assert not files <= files_of(config)


def test_a_dry_run_says_what_would_go_and_does_nothing(config: Config, capsys) -> None:
    files, versions = files_of(config), versions_of(config)
    settings = {"retention_hours": 0, "keep_models": 1}
    maintained(config, **settings, dry_run=True)
    assert (files_of(config), versions_of(config)) == (files, versions)
    said = capsys.readouterr().out.splitlines()[-1]
    maintained(config, **settings)
    assert capsys.readouterr().out.splitlines()[-1] == said.replace("would remove", "removed")
    assert files_of(config) < files


def test_the_pipeline_goes_on_as_if_nothing_had_been(
    spark, fresh: Callable[[str], Config], capsys
) -> None:
    told, ends = [], []
    for name in ("untouched", "tidy"):
        config = fresh(name)
        if name == "tidy":
            maintained(config, **NOW)
        capsys.readouterr()
        append(spark, on_day(config, "d3"))
        jobs.score.main(
            config.model_copy(update={"score": config.score.model_copy(update={"mode": "changed"})})
        )
        scored = [x for x in capsys.readouterr().out.splitlines() if "users are scored" in x]
        assert len(scored) == 1, "everything was scored"
        with suppress(SystemExit):  # the code of an alarm
            jobs.monitor.main(config)
        told.append([scored, capsys.readouterr().out])
        ends.append({n: rows_at(config, n) for n in versions_of(config)})
    assert told[0] == told[1]
    for name in ends[0]:
        if name not in ("prepared", "monitor"):  # which tell versions, and the time
            pd.testing.assert_frame_equal(ends[0][name], ends[1][name])


def test_models_beyond_those_to_keep_go_with_the_versions_they_held(config: Config) -> None:
    models = Path(config.models_root) / "afm"
    held = tables_with_spec(config, "old")
    given_up, at_work = models / "given up", models / "at work"
    for folder in (given_up, at_work):
        (folder / "checkpoint").mkdir(parents=True)
        (folder / "checkpoint" / "state.safetensors").write_bytes(b"x")
    for path in (given_up / "checkpoint" / "state.safetensors", *given_up.iterdir(), given_up):
        os.utime(path, (1, 1))
    maintained(config, retention_hours=1, keep_models=1)
    assert sorted(p.name for p in models.iterdir()) == ["at work", "latest", "new"]
    assert rows_at(config, "users", held).size  # nothing of the last hour goes
    maintained(config, retention_hours=0, keep_models=1)
    with pytest.raises(Exception, match="No such file|not found|does not exist"):
        rows_at(config, "users", held)
    assert len(rows_at(config, "scores"))


def tables_with_spec(config: Config, run: str) -> int:
    """The version of ``users`` that a model's scores are made from."""
    manifest = read_manifest(Path(config.models_root) / "afm" / run)
    assert manifest is not None
    log = DeltaTable(table_uri(config.tables.root, "prepared"))
    for commit in log.history():
        if manifest.spec_hash in commit.get("userMetadata", ""):
            rows = rows_at(config, "prepared", commit["version"])
            return int(json.loads(rows["prepared"][0])["versions"]["users"])
    raise AssertionError("no such spec")


def test_files_that_no_version_mentions_go_when_they_are_old(config: Config) -> None:
    scores = Path(config.tables.root) / "scores"
    old, staged = scores / "part-dead.parquet", scores / "_staging" / "abc" / "plan.json"
    staged.parent.mkdir(parents=True)
    young = scores / "part-alive.parquet"
    for path in (old, staged, young):
        path.write_text("{}")
    for path in (old, staged, staged.parent):
        os.utime(path, (1, 1))
    maintained(config)
    assert (old.exists(), staged.exists(), young.exists()) == (False, False, True)


def test_checksums_go_with_their_files(config: Config) -> None:
    def checksums() -> set[str]:
        return {file for file in files_of(config) if file.endswith(".crc")}

    before = checksums()
    maintained(config, **NOW)
    names = {Path(file).name for file in files_of(config)}
    assert len(checksums()) < len(before)
    assert all(Path(file).name[1:-4] in names for file in checksums())


def test_rows_that_nothing_published_are_left_to_the_next_prepare(
    spark, config: Config, capsys
) -> None:
    root = config.tables.root
    rows = tables.read(spark, root, "features").limit(5)
    tables.write(rows, root, "features", {}, partition_by=["split"], append=True)
    before = read_prepared(root)
    maintained(config, **NOW)
    assert "features: left as it is" in capsys.readouterr().out
    assert read_prepared(root).versions["features"] == before.versions["features"]
    append(spark, on_day(config, "d3"))
    assert len(rows_at(config, "features")) == len(rows_at(config, "interactions"))


def test_what_was_compacted_and_not_published_is_published_next(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = read_prepared(config.tables.root).versions
    with monkeypatch.context() as patch:
        patch.setattr(maintain_tables, "write_deltalake", dies)
        with pytest.raises(KeyboardInterrupt):
            maintained(config, **NOW)
    assert read_prepared(config.tables.root).versions == before
    maintained(config, **NOW)
    after = read_prepared(config.tables.root).versions
    assert after["features"] == before["features"] + 1
    assert after["interactions"] == before["interactions"] + 1
