"""What the configuration of a synthetic log has to fulfil."""

from typing import Any

import pytest
from pydantic import ValidationError

from conf.synthetic import Synthetic, SyntheticField

AGE = {"name": "age", "side": "user", "kind": "normal"}
CITY = {"name": "city", "side": "context", "kind": "category", "cardinality": 5}


def synthetic(**changes: Any) -> Synthetic:
    base = {"rows": 10, "path": "out", "users": {"count": 9}, "fields": [AGE, CITY]}
    return Synthetic.model_validate(base | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fields": [CITY, {**CITY, "name": "CITY"}]}, "the name 'city' is used twice"),
        ({"fields": [CITY, {**CITY, "name": "user_id"}]}, "the name 'user_id' is ours"),
        ({"fields": [CITY, {**CITY, "name": "label"}]}, "the name 'label' is ours"),
        ({"users": None}, "fields of side user need `users`"),
        ({"users": None, "fields": [CITY]}, "a planted model needs two fields"),
        ({"planted": {"fields": ["age", "age"]}}, "a planted model needs two fields"),
        ({"planted": {"fields": ["age", "item"]}}, "names the unknown field 'item'"),
        ({"planted": {"label_rate": 1}}, "less than 1"),
    ],
)
def test_log_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        synthetic(**changes)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({**CITY, "cardinality": None}, "kind: category needs a cardinality"),
        ({**CITY, "mean": 1}, "mean does not apply to kind: category"),
        ({**AGE, "cardinality": 4, "zipf": 1}, "cardinality, zipf does not apply to kind: normal"),
        ({**AGE, "std": 0}, "greater than 0"),
    ],
)
def test_field_is_refused(field: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SyntheticField.model_validate(field)


def test_the_label_depends_on_keys_and_fields_unless_said_otherwise() -> None:
    assert synthetic().planted_fields == ("user", "age", "city")
    assert synthetic(planted={"fields": ["city", "age"]}).planted_fields == ("city", "age")
