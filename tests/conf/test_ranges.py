"""Ranges of the section ``tune``: what they may name and hold, and what is said to the rest."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from conf.load import ConfigError, load
from conf.ranges import keys_of, refusals, value_at, with_values
from conf.schema import Config
from conf.training import ModelConfig, TrainConfig
from tests.conf.test_schema import config

ROOT = Path(__file__).parents[2]


def searched(ranges: dict[str, Any], **sections: Any) -> Config:
    return config(tune={"ranges": ranges}, **sections)


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        ({}, "at least 1 item"),
        ({"train.lerning_rate": {"low": 1, "high": 2}}, "did you mean train.learning_rate"),
        ({"score.top_k": {"low": 1, "high": 2}}, "tune.ranges.score.top_k: no key of model or tr"),
        ({"zzz": {"low": 1, "high": 2}}, "no key of model or train; try one such as train.learn"),
        ({"train.schedule": {"low": 1, "high": 2}}, "did you mean train.schedule"),
        ({"train.run": {"choices": ["a", "b"]}}, "train.run: it does not change the model; leave"),
        ({"train.logs": {"choices": ["mlflow"]}}, "it does not change the model; leave it out"),
        ({"train.stop_on": {"choices": ["auc"]}}, "it says what trials are compared by; set it"),
        ({"train.epochs": {"low": 1, "high": 2.5}}, "it takes integers, and 2.5 is none"),
        ({"train.optimizer": {"low": 1, "high": 2}}, "it takes no numbers; give choices"),
        ({"model.pair_bias": {"low": 0, "high": 1}}, "it takes no numbers; give choices"),
        ({"train.clip_norm": {"low": 1}}, "give low and high, or choices"),
        ({"train.clip_norm": {}}, "give low and high, or choices"),
        ({"train.clip_norm": {"low": 1, "high": 2, "choices": [1]}}, "choices stand alone: leave"),
        ({"train.clip_norm": {"choices": [1, 2, 1]}}, "the choice 1 is there twice"),
        ({"train.clip_norm": {"low": 2, "high": 1}}, "low 2 is not less than high 1"),
        ({"train.clip_norm": {"low": 0.1, "high": 0.1}}, "low 0.1 is not less than high 0.1"),
        (
            {"train.clip_norm": {"low": 0, "high": 1, "log": True}},
            "low greater than 0, and it is 0",
        ),
        (
            {"train.clip_norm": {"low": 1, "high": 3, "log": True, "step": 1}},
            "log and step exclude each other",
        ),
        (
            {"train.epochs": {"low": 8, "high": 60, "step": 16}},
            "steps of 16 from low 8 miss high 60; the nearest below is 56",
        ),
        (
            {"model.dropout": {"low": 0.1, "high": 0.6, "step": 0.2}},
            "steps of 0.2 from low 0.1 miss high 0.6; the nearest below is 0.5",
        ),
        (
            {"model.dropout": {"low": 0.0, "high": 1.0}},
            "tune.ranges: model.dropout = 1.0: Input should be less than 1",
        ),
        (
            {"train.optimizer": {"choices": ["adam", "sgd"]}},
            "tune.ranges: train.optimizer = 'sgd': Input should be 'adam' or 'adagrad'",
        ),
        (
            {
                "train.patience": {"low": 1, "high": 3},
                "train.schedule.plateau.patience": {"low": 1, "high": 2},
            },
            r"train\.patience = 1.*schedule\.plateau\.patience 1 is not less than patience 1",
        ),
    ],
)
def test_range_is_refused(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        searched(ranges)


def test_range_is_refused_by_what_the_file_says_elsewhere() -> None:
    plateau = {"train.schedule.plateau.patience": {"low": 1, "high": 4}}
    with pytest.raises(ValidationError, match=r"plateau\.patience = 4: .* less than patience 3"):
        searched(plateau, train={"patience": 3})
    searched(plateau, train={"patience": 5})
    searched(plateau | {"train.patience": {"low": 5, "high": 6}}, train={"patience": 3})
    with pytest.raises(ValidationError, match="pretrained is for afm and fwfm"):
        searched({"model.name": {"choices": ["afm", "fm"]}}, model={"pretrained": "fm"})


def test_all_ranges_that_are_wrong_are_named() -> None:
    with pytest.raises(ValidationError) as caught:
        searched(
            {
                "train.epoch": {"low": 1, "high": 2},
                "model.dropout": {"low": 0.0, "high": 2.0},
                "model.init_std": {"low": 0.0, "high": 2.0},
            }
        )
    said = str(caught.value)
    for message in ("train.epoch: no key", "model.dropout = 2.0", "model.init_std = 0.0"):
        assert said.count(message) == 1


def test_ranges_can_be_given_on_the_command_line() -> None:
    path = ROOT / "conf" / "movielens.yaml"
    given = ["tune.ranges.train.epochs={low: 1, high: 9}", "trials=3"]
    given += ["tune.ranges.train.learning_rate={choices: [1.0e-3]}"]
    tune = load(path, given, Config, own="tune").tune
    assert tune is not None and tune.trials == 3
    assert (tune.ranges["train.epochs"].low, tune.ranges["train.epochs"].high) == (1, 9)
    assert tune.ranges["train.learning_rate"].choices == (0.001,)  # instead of the file's
    assert "model.embedding_size" in tune.ranges
    with pytest.raises(ConfigError, match=r"tune\.ranges\.train\.epochs\.hihg: unknown key"):
        load(path, ["tune.ranges.train.epochs={low: 1, hihg: 9}"])
    with pytest.raises(ConfigError, match="tune.ranges = 3: Input should be a valid dictionary"):
        load(path, ["tune.ranges=3"])


def test_keys_are_those_of_all_sections() -> None:
    keys = keys_of(TrainConfig)
    assert keys["learning_rate"] == {float}
    assert keys["schedule.warmup"] == {int, float}
    assert keys["l2.embedding"] == {float}
    assert {"schedule.plateau.factor", "schedule.plateau.patience"} < keys.keys()
    assert not {"schedule", "schedule.plateau", "l2"} & keys.keys()
    assert keys_of(ModelConfig)["name"] == {str}


def test_section_takes_other_values_and_keeps_what_it_was_given() -> None:
    before = TrainConfig.model_validate({"epochs": 3, "l2": {"embedding": 0.1}})
    after = with_values(before, {"l2.attention": 0.2, "schedule.plateau.factor": 0.1})
    assert (after.epochs, after.l2.embedding, after.l2.attention) == (3, 0.1, 0.2)
    assert value_at(after, "schedule.plateau.factor") == 0.1
    assert value_at(before, "schedule.plateau.factor") is None
    assert after.model_fields_set == {"epochs", "l2", "schedule"}
    assert before.l2.attention == 0


class Triple(BaseModel):
    """Any section."""

    a: int = 0
    b: int = 0
    c: int = 0


def test_no_refusals_where_all_is_well() -> None:
    assert refusals(Triple(), {"a": (1, 2), "b": (3,)}) == []
    said = refusals(Triple(), {"a": (1, "x"), "b": ("y", 3), "c": (1,)})
    assert [line.partition(":")[0] for line in said] == ["a = 'x'", "b = 'y'"]
