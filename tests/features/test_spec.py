"""The contract: JSON in and out, one hash per meaning, differences by name."""

from conf.features import Cross, FieldConfig, Keys, SplitConfig
from conf.schema import Config
from features.spec import FeatureSpec, FittedCross, FittedField, FittedSplit, Input, Scaling


def field(name: str, side: str, encode: str, cardinality: int, **more: object) -> FittedField:
    config = FieldConfig.model_validate({"name": name, "side": side, "encode": encode})
    return FittedField.model_validate({"config": config, "cardinality": cardinality, **more})


SPEC = FeatureSpec(
    label="clicked",
    keys=Keys(user="u", item="i", time="t"),
    fields=(
        field("user", "user", "index", 12),
        field("age", "user", "value", 1, fill=31.5, scaling=Scaling(offset=30.0, factor=0.1)),
        field("tags", "item", "multi", 7),
        field("title", "item", "none", 0),
        field("item", "item", "index", 9),
    ),
    crosses=(
        FittedCross(config=Cross(name="x", fields=("user", "item")), side="cross", cardinality=40),
    ),
    split=FittedSplit(config=SplitConfig(by="time"), cuts=(1.5, 2.5)),
    vocabulary_digest="abc",
)


def test_spec_survives_json() -> None:
    again = FeatureSpec.model_validate_json(SPEC.model_dump_json())
    assert again == SPEC
    assert again.hash == SPEC.hash


def test_inputs_leave_out_what_the_model_does_not_see() -> None:
    assert SPEC.inputs == (
        Input(name="user", side="user", encode="index", cardinality=12),
        Input(name="age", side="user", encode="value", cardinality=1),
        Input(name="tags", side="item", encode="multi", cardinality=7, width=8),
        Input(name="item", side="item", encode="index", cardinality=9),
        Input(name="x", side="cross", encode="index", cardinality=40, parents=("user", "item")),
    )


def test_difference_names_fields_and_what_changed() -> None:
    assert SPEC.difference(SPEC) == []
    larger = (field("user", "user", "index", 13), *SPEC.fields[1:])
    changed = SPEC.model_copy(update={"fields": larger})
    assert SPEC.difference(changed) == ["field user: cardinality 12, not 13"]
    assert SPEC.hash != changed.hash
    fewer = SPEC.model_copy(update={"fields": SPEC.fields[1:]})
    assert SPEC.difference(fewer) == ["field user: only in the first"]
    assert fewer.difference(SPEC) == ["field user: only in the second"]


def test_changed_in_names_what_a_later_configuration_asks_for() -> None:
    config = Config.model_validate(
        {
            "source": {"interactions": {"format": "csv", "path": "x"}},
            "tables": {"root": "out"},
            "label": SPEC.label,
            "keys": SPEC.keys,
            "fields": [f.config for f in SPEC.fields],
            "crosses": [c.config for c in SPEC.crosses],
            "split": SPEC.split.config,
        }
    )
    assert SPEC.changed_in(config) == []
    changed = config.model_copy(update={"label": "liked", "crosses": ()})
    assert SPEC.changed_in(changed) == ["label", "crosses"]


def test_difference_tells_vocabularies_and_statistics() -> None:
    other_values = SPEC.model_copy(update={"vocabulary_digest": "abd"})
    assert SPEC.difference(other_values) == ["the vocabularies differ"]
    other_label = SPEC.model_copy(update={"label": "liked"})
    (line,) = SPEC.difference(other_label)
    assert "statistics differ" in line
