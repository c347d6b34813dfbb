"""The door of the configuration: what is let in, and what it says to the rest."""

from pathlib import Path

import pytest

from conf.load import ConfigError, load
from conf.schema import Config
from conf.synthetic import Synthetic

ROOT = Path(__file__).parents[2]
SYNTHETIC = sorted((ROOT / "conf").rglob("synthetic*.yaml"))
CONFIGS = sorted({*(ROOT / "conf").rglob("*.yaml")} - {*SYNTHETIC})

MINIMAL = """
source: {interactions: {format: csv, path: log.csv}}
label: clicked
keys: {user: u, item: i}
fields:
  - {name: user, side: user, expr: u, encode: index}
  - {name: item, side: item, expr: i, encode: index}
tables: {root: out}
"""


@pytest.fixture
def minimal(tmp_path: Path) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(MINIMAL)
    return path


def test_configurations_are_found() -> None:
    assert len(CONFIGS) >= 3
    assert len(SYNTHETIC) >= 2


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_load_every_shipped_configuration(path: Path) -> None:
    config = load(path)
    assert config.tables.root.startswith("build/")


@pytest.mark.parametrize("path", SYNTHETIC, ids=lambda p: p.name)
def test_load_every_shipped_synthetic_log(path: Path) -> None:
    assert load(path, ["rows=7"], Synthetic).rows == 7
    with pytest.raises(
        ConfigError, match=r"planted\.strenght: unknown key\. Did you mean strength"
    ):
        load(path, ["planted.strenght=7"], Synthetic)


def test_load_gives_defaults_and_a_readable_expression(minimal: Path) -> None:
    config = load(minimal)
    assert config.train.epochs == 20
    assert config.fields[0].expr == "u"
    assert config.models_root == "out/models"


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.epochs=3", lambda c: c.train.epochs == 3),
        ("label=a = b", lambda c: c.label == "a = b"),  # split at the first = only
        ("fields.1.min_count=4", lambda c: c.fields[1].min_count == 4),
        ("score.exclude_seen=[train]", lambda c: c.score.exclude_seen == ("train",)),
        ("train.run=two", lambda c: c.train.run == "two"),
        ("source.users={format: csv, path: u.csv}", lambda c: c.source.users.path == "u.csv"),
        ("prepare.batch=2024-12-01", lambda c: c.prepare.batch == "2024-12-01"),
        ("prepare.batch=2024-13-45 10:00:00", lambda c: c.prepare.batch == "2024-13-45 10:00:00"),
        (
            "source.interactions.options={modifiedAfter: 2024-12-01T00:00:00}",
            lambda c: c.source.interactions.options == {"modifiedAfter": "2024-12-01T00:00:00"},
        ),
    ],
)
def test_load_applies_override(minimal: Path, override: str, read) -> None:
    assert read(load(minimal, [override]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"train\.epoch: unknown key\. Did you mean epochs\?"),
        ("train.l2.emb=3", r"train\.l2\.emb: unknown key\. Did you mean embedding\?"),
        ("fields.0.min_cont=3", r"fields\.0\.min_cont: unknown key\. Did you mean min_count\?"),
        ("sorce={}", r"sorce: unknown key\. Did you mean source\?"),
        ("train.qqqq=3", r"train\.qqqq: unknown key\. Known are run, epochs"),
        ("train.epochs=many", r"train\.epochs = 'many': Input should be a valid integer"),
        ("train.epochs=0", r"train\.epochs = 0: Input should be greater than or equal to 1"),
        ("fields.0.encode=indx", r"fields\.0\.encode = 'indx': Input should be 'index', 'hash'"),
        ("label=null", r"label: Input should be a valid string"),
        ("fields.7.encode=index", r"cannot set fields\.7\.encode: there is no such place"),
        ("label.x=1", r"cannot set label\.x: there is no such place"),
        ("--epochs=3", r"cannot read the argument '--epochs=3': overrides look like"),
        ("train.epochs", r"cannot read the argument 'train\.epochs'"),
        ("label=[", r"cannot set label: '\[' is not YAML"),
    ],
)
def test_load_refuses_override(minimal: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(minimal, [override])


def test_load_names_all_problems_at_once(minimal: Path) -> None:
    with pytest.raises(ConfigError, match="2 problems in .*pipeline.yaml") as caught:
        load(minimal, ["train.epoch=3", "score.top_k=0"])
    assert "train.epoch" in str(caught.value)
    assert "score.top_k" in str(caught.value)


def test_load_names_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(MINIMAL.replace("label: clicked", ""))
    with pytest.raises(ConfigError, match="label: missing; it has to be given"):
        load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [", "is not YAML"),
        ("", "holds no sections"),
        ("- 1", "holds no sections"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),  # never constructs anything
    ],
)
def test_load_refuses_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        load(path)


def test_load_says_where_no_file_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the configuration .*nope\.yaml: No such"):
        load(tmp_path / "nope.yaml")


def test_a_jobs_own_keys_need_no_section(tmp_path: Path) -> None:
    overrides = ["mode=append", "batch=2024-12-01", "split.seed=3"]
    config = load(ROOT / "conf" / "movielens.yaml", overrides, Config, own="prepare")
    assert (config.prepare.mode, config.prepare.batch) == ("append", "2024-12-01")
    assert config.split.seed == 3
    with pytest.raises(ConfigError, match="mode: unknown key"):
        load(ROOT / "conf" / "movielens.yaml", ["mode=append"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("label: bought", "is not YAML: line 8, column 1: the key 'label' is there twice"),
        ("model: {dropout: .nan}", "model.dropout = nan: not a finite number"),
        ("train: {learning_rate: .inf}", "train.learning_rate = inf: not a finite number"),
        ("split: {seed: 9223372036854775808}", "split.seed: an integer that does not fit into 64"),
        ('weight: "a\\0b"', "weight: text with a NUL character"),
        ("score: {context: {city: [1]}}", "score.context.city: Input should be text, a number, or"),
        ("monitor: &a [*a]", "monitor: Input should be a valid dictionary"),
        ("train: !!timestamp 2024-13-45", "is not YAML: month must be in 1..12"),
    ],
)
def test_load_refuses_what_no_key_takes(minimal: Path, line: str, message: str) -> None:
    minimal.write_text(MINIMAL.lstrip() + line)
    with pytest.raises(ConfigError) as error:
        load(minimal)
    assert message in str(error.value)


def test_what_is_wrong_with_yaml_is_said_without_the_line(minimal: Path) -> None:
    minimal.write_text(MINIMAL + "score: {candidates: {options: {password: 'hunter2}}}")
    with pytest.raises(ConfigError) as error:
        load(minimal)
    assert "is not YAML: line " in str(error.value)
    assert "hunter2" not in str(error.value)
