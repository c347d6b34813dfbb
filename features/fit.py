"""Learns a FeatureSpec from training rows, and from nothing else.

Three passes: one aggregate for all statistics of numbers, one shuffle for all vocabularies, and
one more for the vocabularies of crosses, which are pairs of indices.
"""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from conf.schema import Config, Cross, Default, FieldConfig, digest
from features import impute, scale
from features.cross import code
from features.encode import occurrences, rank_values
from features.errors import DataError
from features.spec import FIRST, FeatureSpec, FittedCross, FittedField, FittedSplit
from features.transform import Encoder, encode_frame


def fit(config: Config, train: DataFrame, split: FittedSplit) -> tuple[FeatureSpec, pa.Table]:
    """Learns everything that encoding needs.

    Args:
        config: The pipeline.
        train: Readable training rows.
        split: The fitted split, which the spec carries along.

    Returns:
        The spec, and the vocabulary: ``field``, ``value``, ``index`` and ``count``.

    Raises:
        DataError: A field has no value in training that it could be imputed from.
    """
    vocabulary = _vocabulary(config, train)
    spec = FeatureSpec(
        label=config.label,
        keys=config.keys,
        fields=_fields(config, train, vocabulary),
        split=split,
    )
    if config.crosses:
        crossed = _cross_vocabulary(config, train, Encoder.of(spec, vocabulary))
        vocabulary = pa.concat_tables([vocabulary, crossed])
        sizes = _sizes(vocabulary)
        spec = spec.model_copy(
            update={"crosses": tuple(_cross(config, c, sizes) for c in config.crosses)}
        )
    return spec.model_copy(update={"vocabulary_digest": _digest(vocabulary)}), vocabulary


def _vocabulary(config: Config, train: DataFrame) -> pa.Table:
    indexed = [f for f in config.fields if f.encode in ("index", "multi")]
    values = {f.name: _values(f) for f in indexed}
    if not values:
        return pa.table({"field": [], "value": [], "index": [], "count": []}, _VOCABULARY)
    ranked = rank_values(occurrences(train, values), {f.name: f.min_count for f in indexed})
    return ranked.toArrow().cast(_VOCABULARY)


_VOCABULARY = pa.schema(
    [("field", pa.string()), ("value", pa.string()), ("index", pa.int32()), ("count", pa.int64())]
)


def _values(field: FieldConfig) -> Column:
    column = F.col(field.name)
    if field.encode == "multi":
        return column
    if isinstance(field.impute, Default):
        column = F.coalesce(column, F.lit(str(field.impute.default)))
    return F.array(column)


def _fields(config: Config, train: DataFrame, vocabulary: pa.Table) -> tuple[FittedField, ...]:
    sizes, statistics = _sizes(vocabulary), _statistics(config, train)
    most_frequent = vocabulary.filter(pc.field("index") == FIRST).to_pylist()
    modes = {row["field"]: row["value"] for row in most_frequent}

    def fitted(field: FieldConfig) -> FittedField:
        match field.encode:
            case "none":
                return FittedField(config=field, cardinality=0)
            case "value":
                fill, moments = statistics[field.name]
                scaling = scale.fit_scaling(field, moments.imputed(fill))
                return FittedField(config=field, cardinality=1, fill=fill, scaling=scaling)
            case _:
                fill_text = _index_fill(field, modes)
                size = FIRST + sizes.get(field.name, 0)
                return FittedField(config=field, cardinality=size, fill=fill_text)

    return tuple(fitted(field) for field in config.fields)


def _index_fill(field: FieldConfig, modes: Mapping[str, str]) -> str | None:
    match field.impute:
        case Default(default=constant):
            return str(constant)
        case "mode":
            return str(impute.checked(field, modes.get(field.name)))
        case _:
            return None


def _statistics(config: Config, train: DataFrame) -> dict[str, tuple[float, scale.Moments]]:
    """For each number: what replaces a missing one, and the moments before that."""
    numbers = [f for f in config.fields if f.encode == "value"]
    if not numbers:
        return {}
    aggregates = [
        F.struct(impute.statistic(f).alias("fill"), scale.statistics(f).alias("moments")).alias(
            f.name
        )
        for f in numbers
    ]
    row = train.agg(*aggregates).head()
    if row is None:
        raise DataError("the training rows cannot be aggregated")
    return {
        f.name: (
            _rounded(float(impute.checked(f, row[f.name]["fill"]))),
            scale.Moments(**{k: _rounded(v) for k, v in row[f.name]["moments"].asDict().items()}),
        )
        for f in numbers
    }


def _rounded(number: Any) -> Any:
    """12 significant digits: the last bits of a sum depend on the order in which tasks finish."""
    return float(f"{number:.12g}") if isinstance(number, float) else number


def _cross_vocabulary(config: Config, train: DataFrame, encoder: Encoder) -> pa.Table:
    parents = {name for cross in config.crosses for name in cross.fields}
    inputs = [i for i in encoder.spec.inputs if i.name in parents]
    cardinalities = {i.name: i.cardinality for i in inputs}
    encoded = encode_frame(train, encoder, inputs, keep=[])
    codes = {c.name: F.array(code(c, cardinalities)) for c in config.crosses}
    ranked = rank_values(occurrences(encoded, codes), {c.name: c.min_count for c in config.crosses})
    return ranked.toArrow().cast(_VOCABULARY)


def _cross(config: Config, cross: Cross, sizes: Mapping[str, int]) -> FittedCross:
    sides = {f.side for f in config.fields if f.name in cross.fields}
    side = sides.pop() if len(sides) == 1 else "cross"
    return FittedCross(config=cross, side=side, cardinality=FIRST + sizes.get(cross.name, 0))


def _sizes(vocabulary: pa.Table) -> dict[str, int]:
    counted = vocabulary.group_by("field").aggregate([("value", "count")])
    return {row["field"]: row["value_count"] for row in counted.to_pylist()}


def _digest(vocabulary: pa.Table) -> str:
    ordered = vocabulary.sort_by([("field", "ascending"), ("index", "ascending")])
    return digest(*ordered["field"].to_pylist(), *ordered["value"].to_pylist())
