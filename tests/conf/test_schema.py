"""What a configuration has to fulfil beyond the types of its keys."""

from typing import Any

import pytest
from pydantic import ValidationError

from conf.features import FieldConfig, Table
from conf.names import digest
from conf.schema import Config

USER = {"name": "user", "side": "user", "encode": "index"}
ITEM = {"name": "item", "side": "item", "encode": "index"}
AGE = {"name": "age", "side": "user", "encode": "value"}
TIMED = {"user": "u", "item": "i", "time": "t"}


def config(**changes: Any) -> Config:
    base = {
        "source": {"interactions": {"format": "csv", "path": "log.csv"}},
        "label": "clicked",
        "keys": {"user": "u", "item": "i"},
        "fields": [USER, ITEM],
        "tables": {"root": "out"},
    }
    return Config.model_validate(base | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": [USER]}, "a model needs two fields"),
        ({"fields": [USER, {**ITEM, "encode": "none"}]}, "a model needs two fields"),
        ({"fields": [USER, ITEM, {**ITEM, "name": "USER"}]}, "the name 'user' is used twice"),
        ({"fields": [USER, {**ITEM, "name": "label"}]}, "the name 'label' is ours"),
        ({"crosses": [{"name": "x", "fields": ["user", "no"]}]}, "the unknown field 'no'"),
        ({"crosses": [{"name": "x", "fields": ["user", "user"]}]}, "crosses 'user' with itself"),
        (
            {"fields": [USER, ITEM, AGE], "crosses": [{"name": "x", "fields": ["age", "item"]}]},
            "needs encode: index, hash or bucket, but 'age' is value",
        ),
        ({"split": {"by": "time"}}, "split.by: time needs keys.time"),
        ({"split": {"validation": 0.5, "test": 0.5}}, "leave nothing to train on"),
        ({"split": {"by": "last"}}, "split.by: last needs keys.time"),
        (
            {"keys": {}, "split": {"by": "last"}},
            "split.by: last needs keys.user; split.by: last needs keys.time",
        ),
        (
            {"split": {"by": "last", "test": 0.2}},
            "test does not apply to by: last; leave it out; set `last` to the rows per user",
        ),
        ({"split": {"last": 2}}, "last does not apply to by: hash; leave it out"),
        ({"history": [{"name": "h", "of": "item"}]}, "history needs keys.time"),
        (
            {"history": [{"name": "h", "of": "no"}], "keys": TIMED},
            "history 'h' names the unknown field 'no'",
        ),
        (
            {"history": [{"name": "h", "of": "user"}], "keys": TIMED},
            "history 'h' needs a field of side item with encode: index, but 'user' is user and",
        ),
        (
            {"history": [{"name": "Item", "of": "item"}], "keys": TIMED},
            "the name 'item' is used twice",
        ),
        ({"history": [{"name": "h", "of": "item", "length": 257}]}, "less than or equal to 256"),
        (
            {"model": {"history": "gru"}},
            "model.history: gru has nothing to encode; name a `history`, or leave it out",
        ),
        ({"model": {"history": "lstm"}}, "should be 'mean', 'self_attention' or 'gru'"),
        ({"keys": {"user": "u"}, "negatives": {"per_positive": 1}}, "negatives needs keys.item"),
        ({"negatives": {"per_positive": 0}}, "greater than or equal to 1"),
        (
            {"train": {"schedule": {"plateau": {"patience": 2}}}},
            "patience 2 is not less than patience 2, so that training stops before",
        ),
        (
            {"train": {"schedule": {"warmup": 1.5}}},
            "warmup 1.5 is neither a whole number nor below",
        ),
        ({"keys": {"item": "i"}}, "fields of side user need keys.user"),
        (
            {
                "source": {**config().source.model_dump(), "users": {"format": "csv", "path": "u"}},
                "keys": {},
                "fields": [{**USER, "side": "context"}, {**ITEM, "side": "context"}],
            },
            "source.users needs keys.user",
        ),
        (
            {"quality": {"rules": [{"name": "label", "expr": "true"}]}},
            "the rule name 'label' is taken",
        ),
        (
            {"quality": {"rules": [{"name": "user.range", "expr": "true"}]}},
            "the rule name 'user.range' is taken",
        ),
        (
            {"quality": {"rules": [{"name": "orphan_item", "expr": "true"}]}},
            "the rule name 'orphan_item' is taken",
        ),
        (
            {"quality": {"rules": [{"name": "r", "expr": "true"}, {"name": "r", "expr": "x"}]}},
            "the rule name 'r' is taken",
        ),
        ({"fields": [USER, {**ITEM, "name": "duplicate"}]}, "the name 'duplicate' is ours"),
        (
            {
                "quality": {"duplicates": "quarantine"},
                "keys": {"user": "u"},
                "fields": [USER, {**ITEM, "side": "context"}],
            },
            "quality.duplicates: quarantine needs keys.user and keys.item",
        ),
        (
            {"quality": {"orphans": "quarantine"}},
            "quality.orphans: quarantine needs source.users or source.items",
        ),
        ({"tables": {"root": "s3://lake/x"}}, "root is a URL: give `models` a folder"),
        ({"score": {"context": {"user": 1}}}, "'user', which is no context field"),
        (
            {"score": {"contexts": [{"name": "a"}, {"name": "b", "values": {"user": 1}}]}},
            "score.contexts.1 names 'user', which is no context field",
        ),
        ({"score": {"contexts": [{"name": "a"}, {"name": "a"}]}}, "the name 'a' is used twice"),
    ],
)
def test_config_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**changes)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({**USER, "scale": "minmax"}, "scale does not apply to encode: index"),
        ({**USER, "impute": "mean"}, "impute: mean needs encode: value"),
        ({**AGE, "impute": {"default": "old"}}, "impute default 'old' is not a number"),
        ({**AGE, "min_count": 2}, "min_count does not apply to encode: value"),
        ({**USER, "encode": "none", "impute": "mode"}, "impute does not apply to encode: none"),
        ({**AGE, "check": {"minimum": 2, "maximum": 1}}, "minimum 2 is greater than maximum 1"),
        ({**AGE, "check": {"minimum": float("nan")}}, "finite number"),
        ({**AGE, "check": {"allowed": [1, "old"]}}, "check.allowed 'old' is not a number"),
        ({**AGE, "check": {"allowed": []}}, "at least 1 item"),
        ({**USER, "check": {"minimum": 0}}, "check.minimum does not apply to encode: index"),
        ({**USER, "check": {"max_share": 0.5}}, "check.max_share has no rule to hold for"),
        (
            {**USER, "encode": "none", "check": {"allowed": [1], "max_missing": 0.1}},
            "check.allowed does not apply to encode: none",
        ),
        ({**USER, "name": "a b"}, "String should match pattern"),
    ],
)
def test_field_is_refused(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FieldConfig.model_validate(field)


def test_field_takes_its_column_if_no_expression_is_given() -> None:
    assert FieldConfig.model_validate(USER).expr == "`user`"


def test_table_version_is_for_delta() -> None:
    with pytest.raises(ValidationError, match="`version` is for Delta tables; this one is csv"):
        Table(format="csv", path="x", version=1)
    with pytest.raises(ValidationError, match="options.mode would lose rows uncounted"):
        Table(format="csv", path="x", options={"mode": "DROPMALFORMED"})
    with pytest.raises(ValidationError, match="name a Delta version by `version`"):
        Table(format="delta", path="x", options={"timestampAsOf": "2024-01-01"})
    with pytest.raises(ValidationError, match="give one path"):
        Table(format="delta", path=("x", "y"))


def test_values_keep_their_types() -> None:
    fields = [{**USER, "impute": {"default": 0}}, ITEM, {**ITEM, "name": "hour", "side": "context"}]
    made = config(fields=fields, score={"context": {"hour": 20}})
    assert repr(made.score.context["hour"]) == "20"
    assert repr(made.fields[0].impute.default) == "0"


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        config().label = "other"


def test_digest_tells_parts_apart() -> None:
    assert digest("ab", "c") != digest("a", "bc")
