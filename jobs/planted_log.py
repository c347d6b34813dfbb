"""A synthetic log: what a row holds, as a function of the seed and of the row's number alone.

Random numbers come from counters (Philox, Salmon et al., SC 2011): a stream for each column, a
range of counters for each block of rows. So a row is the same whoever makes it, and a shorter log
is the beginning of a longer one. Labels are drawn from a planted AFM, whose logits are the best
that a model can learn.

A column is an array of indices as the model takes them (0 missing, from 2 on by falling frequency),
or of numbers, missing ones NaN.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from afm.forward import Parameters, forward
from afm.slots import Layout
from conf.features import Side
from conf.synthetic import KEYS, LABEL, LOGIT, TIME, Synthetic, SyntheticField
from features.spec import FIRST, MISSING, Input

BLOCK = 2**14
"""Rows that are made together. Another number makes other rows."""
_CALIBRATION_BLOCKS = 4
_START = np.datetime64("2024-01-01", "us").astype(np.int64)
_DAY = 86_400_000_000  # microseconds

Column = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Plan:
    """All that rows are made from; it is the same for every task."""

    config: Synthetic
    zipf: Mapping[str, NDArray[np.float64]]
    """Cumulative frequencies of the values of each category, and of the users and items."""
    values: Mapping[str, pa.Array]
    """The string of each index of a category."""
    sides: Mapping[Side, Mapping[str, Column]]
    """The fields of users and items, by key."""
    model: Parameters


def make_plan(config: Synthetic) -> Plan:
    """Plans a log: vocabularies, users, items and the planted model.

    Args:
        config: The log.

    Returns:
        The plan; its size is that of the vocabularies, not of the log.
    """
    populations = config.populations
    sizes = {f.name: (f.cardinality, f.zipf) for f in config.fields if f.cardinality is not None}
    sizes |= {side: (p.count, p.zipf) for side, p in populations.items()}
    zipf = {name: cumulative_zipf(*size) for name, size in sizes.items()}
    values = {f.name: _strings(f.cardinality, f.width) for f in config.fields if f.cardinality}
    sides = {
        side: {
            f.name: np.concatenate(
                [_draw(config.seed, f, zipf, block) for block in range(blocks_of(p.count))]
            )
            for f in config.fields
            if f.side == side
        }
        for side, p in populations.items()
    }
    plan = Plan(
        config, zipf, values, sides, _random_model(config, {n: len(z) for n, z in zipf.items()})
    )
    return replace(plan, model=_calibrate(plan))


def log_block(plan: Plan, block: int) -> pa.RecordBatch:
    """A block of the log.

    Args:
        plan: The plan.
        block: Its number; it holds the rows from ``block * BLOCK`` on.

    Returns:
        Keys, time, fields, label and ``true_logit``, of which the label was drawn.
    """
    config = plan.config
    columns = _columns(plan, block)
    logits = forward(plan.model, _model_columns(config, columns))
    label = _random(config.seed, LABEL, block).random(BLOCK) < sigmoid(logits)
    arrays = {KEYS[s]: pa.array(columns[s].astype(np.int64) - FIRST) for s in config.populations}
    if config.days is not None:
        time = _random(config.seed, TIME, block).integers(config.days * _DAY, size=BLOCK)
        arrays[TIME] = pa.array(_START + time, pa.timestamp("us", "UTC"))
    for field in config.fields:
        if field.side == "context" or config.one_table:
            arrays[field.name] = _to_arrow(plan, field, columns[field.name])
    arrays |= {LABEL: pa.array(label.astype(np.int32)), LOGIT: pa.array(logits)}
    # Whole blocks, then cut: shapes decide how matrix products round.
    return pa.RecordBatch.from_pydict(arrays).slice(0, config.rows - block * BLOCK)


def side_block(side: Side, plan: Plan, block: int) -> pa.RecordBatch:
    """A block of the table of the users or of the items.

    Args:
        side: ``user`` or ``item``.
        plan: The plan.
        block: Its number; it holds the keys from ``block * BLOCK`` on.

    Returns:
        Keys and fields.
    """
    count = plan.config.populations[side].count
    keys = np.arange(block * BLOCK, min((block + 1) * BLOCK, count))
    fields = [f for f in plan.config.fields if f.side == side]
    arrays = {f.name: _to_arrow(plan, f, plan.sides[side][f.name][keys]) for f in fields}
    return pa.RecordBatch.from_pydict({KEYS[side]: pa.array(keys)} | arrays)


def blocks_of(rows: int) -> int:
    """How many blocks hold so many rows."""
    return -(-rows // BLOCK)


def cumulative_zipf(count: int, exponent: float) -> NDArray[np.float64]:
    """Cumulative frequencies of values whose k-th is as frequent as 1 / k^exponent.

    >>> cumulative_zipf(3, 0.0)[:2] * 3
    array([1., 2.])
    """
    sums: NDArray[np.float64] = np.cumsum(np.arange(1.0, count + 1) ** -exponent)
    sums /= sums[-1]
    return sums


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """1 / (1 + e^-z) without overflow."""
    probabilities: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return probabilities


def _random(seed: int, stream: str, block: int) -> np.random.Generator:
    number = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")
    return np.random.Generator(np.random.Philox(key=seed << 64 | number, counter=block << 192))


def _draw_index(random: np.random.Generator, cumulative: NDArray[np.float64]) -> NDArray[np.int32]:
    rank = np.searchsorted(cumulative, random.random(BLOCK), side="right")
    return (rank + FIRST).astype(np.int32)


def _draw(
    seed: int, field: SyntheticField, zipf: Mapping[str, NDArray[np.float64]], block: int
) -> Column:
    """A block of a field's values, each row's or each key's."""
    random = _random(seed, field.name, block)
    column: Column
    if field.kind == "category":
        column, missing = _draw_index(random, zipf[field.name]), float(MISSING)
    else:
        column, missing = field.mean + field.std * random.standard_normal(BLOCK), np.nan
        if field.kind != "normal":
            column = np.exp(column)
        if field.kind == "count":
            column = np.floor(column)
    column[random.random(BLOCK) < field.null_share] = missing
    return column


def _columns(plan: Plan, block: int) -> dict[str, Column]:
    """A block of rows: a column for each key and each field, on whatever side."""
    config = plan.config
    columns: dict[str, Column] = {
        side: _draw_index(_random(config.seed, side, block), plan.zipf[side])
        for side in config.populations
    }
    for field in config.fields:
        if field.side == "context":
            columns[field.name] = _draw(config.seed, field, plan.zipf, block)
        else:
            columns[field.name] = plan.sides[field.side][field.name][columns[field.side] - FIRST]
    return columns


def _model_columns(config: Synthetic, columns: Mapping[str, Column]) -> dict[str, Column]:
    """What the model sees: numbers imputed and scaled as the pipeline's configuration has it."""
    seen = dict(columns)
    for f in config.fields:
        if f.kind == "normal":
            seen[f.name] = np.nan_to_num((columns[f.name] - f.mean) / f.std)
        elif f.kind != "category":
            median = np.exp(f.mean) if f.kind == "lognormal" else np.floor(np.exp(f.mean))
            present = np.where(np.isnan(columns[f.name]), median, columns[f.name])
            seen[f.name] = np.log1p(present) / np.hypot(f.mean, f.std)
    return seen


def _to_arrow(plan: Plan, field: SyntheticField, column: Column) -> pa.Array:
    if field.kind == "category":
        return plan.values[field.name].take(pa.array(column))
    missing = np.isnan(column)
    if field.kind == "count":
        return pa.array(np.where(missing, 0, column).astype(np.int64), mask=missing)
    return pa.array(column, mask=missing)


def _strings(count: int, width: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(count)).cast(pa.string()), width - 1, "0")
    strings = pc.binary_join_element_wise("c", numbers, "")
    return pa.concat_arrays([pa.nulls(FIRST, pa.string()), strings])


def _random_model(config: Synthetic, sizes: Mapping[str, int]) -> Parameters:
    """An AFM in which every field, pair and attention unit has a say."""
    side_of: dict[str, Side] = {s: s for s in config.populations}
    side_of |= {f.name: f.side for f in config.fields}
    inputs = tuple(
        Input(name=name, side=side_of[name], encode="index", cardinality=FIRST + sizes[name])
        if name in sizes
        else Input(name=name, side=side_of[name], encode="value", cardinality=1)
        for name in config.planted_fields
    )
    size, units = config.planted.embedding_size, config.planted.attention_size
    pairs = len(inputs) * (len(inputs) - 1) // 2

    def normal(what: str, std: float, *shape: int) -> NDArray[np.float32]:
        random = _random(config.seed, f"planted {what}", 0)
        return np.float32(std) * random.standard_normal(shape, np.float32)

    # The pairs' part has about the variance pairs · size, more where attention is uneven.
    linear_std = np.sqrt(pairs * size / len(inputs))
    weights = {
        "bias": np.zeros((), np.float32),
        "linear": np.concatenate(
            [normal(f"linear {i.name}", linear_std, i.cardinality) for i in inputs]
        ),
        "embedding": np.concatenate(
            [normal(f"embedding {i.name}", 1.0, i.cardinality, size) for i in inputs]
        ),
        "attention.W": normal("W", size**-0.5, units, size),
        "attention.b": np.zeros(units, np.float32),
        "attention.h": normal("h", (2 / units) ** 0.5, units),
        "attention.pair_bias": normal("pair_bias", 1.0, pairs),
        "p": np.ones(size, np.float32),
    }
    return Parameters.of(weights, Layout.of(inputs), "pairs")


def _calibrate(plan: Plan) -> Parameters:
    """Gives the model the strength and the label rate asked for, on the first rows."""
    config, model = plan.config, plan.model
    blocks = [_columns(plan, block) for block in range(_CALIBRATION_BLOCKS)]
    logits = np.concatenate([forward(model, _model_columns(config, b)) for b in blocks])
    factor = config.planted.strength / logits.std(dtype=np.float64)
    low, high = -100.0 - factor * logits.max(), 100.0 - factor * logits.min()
    for _ in range(60):
        bias = (low + high) / 2
        if sigmoid(factor * logits + bias).mean() < config.planted.label_rate:
            low = bias
        else:
            high = bias
    assert model.attention is not None
    return replace(
        model,
        bias=float(bias),
        linear=model.linear * np.float32(factor),
        attention=replace(model.attention, p=model.attention.p * np.float32(factor)),
    )
