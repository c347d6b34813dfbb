"""At every stage of a pipeline there is a page; what is missing says which command makes it."""

import shutil
from pathlib import Path

import pytest

import jobs.evaluate
from conf.schema import Config
from features.prepare import prepare
from jobs.report import path_of
from tests.reporting.pipelines import Page, add_model, make_config, named, page, score

SECTIONS = (
    *("data", "training", "quality", "ranking", "attention-of-fields", "recommendations"),
    "lineage",
)


def missing(config: Config) -> dict[str, str]:
    """The sections that cannot be made, with what they say."""
    text = page(config)
    shown = Page(text)
    assert set(SECTIONS) < set(shown.text)
    found = {}
    for part in text.split('<section id="')[1:]:
        name, _, content = part.partition('"')
        if 'class="missing"' in content:
            found[name] = shown.text[name]
    return found


def test_nothing_has_run(tmp_path: Path) -> None:
    found = missing(make_config(tmp_path))
    assert list(found) == list(SECTIONS[:-1])
    for name in ("data", "training", "quality", "attention-of-fields", "recommendations"):
        assert "jobs/prepare.py conf/small.yaml" in found[name]
    assert "jobs/evaluate.py conf/small.yaml evaluate.ranking=true" in found["ranking"]


@pytest.mark.spark
def test_steps_one_after_the_other(spark, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    prepared = prepare(spark, config)
    found = missing(config)
    assert "data" not in found
    for name in ("training", "quality", "attention-of-fields"):
        assert "python jobs/train.py conf/small.yaml" in found[name]

    add_model(named(config, "fm"), prepared, seed=1)
    assert "FM has no attention" in page(config)
    assert "FM has no rival yet" in page(config)

    add_model(config, prepared, seed=2)
    found = missing(config)
    assert list(found) == ["quality", "ranking", "recommendations"]
    assert "jobs/score.py conf/small.yaml" in found["recommendations"]
    assert "jobs/evaluate.py conf/small.yaml" in found["quality"]
    assert "ROC" in found["quality"]

    jobs.evaluate.main(config)
    score(config)
    assert list(missing(config)) == ["ranking"]

    shutil.rmtree(f"{config.tables.root}/features")
    found = missing(config)
    assert "cannot read" in found["quality"] or "no table" in found["quality"]


@pytest.mark.spark
def test_tables_of_another_spec_than_the_models(spark, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    add_model(config, prepare(spark, config), seed=1)
    other = make_config(tmp_path, split={"test": 0.4, "seed": 5})
    prepare(spark, other)
    text = Page(page(other)).text
    assert "trained on other features" in text["quality"] or "prepared with another" in text["head"]
    # The old tables are still there: the page of the old configuration takes those.
    assert (
        "quality" not in missing(config)
        or "AUC within values" in Page(page(config)).text["quality"]
    )


@pytest.mark.spark
def test_tables_at_a_url(spark, tmp_path: Path) -> None:
    config = make_config(tmp_path)
    add_model(config, prepare(spark, config), seed=1)
    tables = {"root": Path(config.tables.root).as_uri(), "models": config.models_root}
    elsewhere = make_config(tmp_path, tables=tables)
    assert list(missing(elsewhere)) == ["quality", "ranking", "recommendations"]  # no more has run


def test_a_url_that_delta_rs_does_not_know(tmp_path: Path) -> None:
    tables = {"root": "nosuch://lake/x", "models": str(tmp_path)}
    found = missing(make_config(tmp_path, tables=tables))
    assert list(found) == list(SECTIONS[:-1])
    for said in found.values():
        assert "cannot read nosuch://lake/x/" in said
        assert "URLs that delta-rs knows" in said


def test_a_damaged_model_is_left_out(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    folder = Path(config.models_root) / "afm" / "latest"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    assert "afm is left out: " in page(config)


def test_a_url_needs_a_path_for_the_page(tmp_path: Path) -> None:
    from conf.load import ConfigError

    config = make_config(tmp_path, tables={"root": "s3://lake/x", "models": str(tmp_path)})
    with pytest.raises(ConfigError, match="s3://lake/x/report.html: give report.path a file"):
        path_of(config)
    given = config.model_copy(
        update={"report": config.report.model_copy(update={"path": "a.html"})}
    )
    assert path_of(given) == Path("a.html")
