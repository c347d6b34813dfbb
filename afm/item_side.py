"""All that scoring takes from the items, worked out once and sent to every task.

Items come in chunks, each complete in itself, so that memory is bounded by a chunk however many
items there are.

Letters: I items, n items of a chunk, D distinct values, K embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm.errors import DivergedError
from afm.forward import (
    Columns,
    Parameters,
    Scale,
    Weights,
    pair_terms,
    row_blocks,
)
from afm.history_vectors import encode
from afm.kernels.scoring import Bins
from afm.plan import Plan, make_plan
from afm.sides import Domain, Side, read_side
from afm.slots import Layout
from features.cross_table import CrossTable

CHUNK = 32768
"""Items of a chunk: many, for what depends on few distinct values is done once per chunk."""
TILE = 256
"""Items of a tile: few, so that the hidden units of a tile of users and items stay in cache."""

_BINS = 64  # of an item field's values: more make bounds tighter, but take time themselves
_SAMPLE = 256  # pairs of a user and an item that give the typical attention logit


@dataclass(frozen=True, eq=False)
class Chunk:
    """Some consecutive items."""

    start: int
    """Position of the first."""
    items: Side
    sums: NDArray[np.float32]
    """Planes N and, for AFM, D of the pairs that need no user (planes, n)."""
    linear: NDArray[np.float32]
    """Bias and linear terms of the item's fields (n,)."""
    domains: Mapping[tuple[int, ...], Domain]
    """For each item projection that repeats among the items: its values."""
    profile: Domain
    """Values of all these projections together."""
    right: Mapping[int, NDArray[np.float32]]
    """For each item field [vector 1] of its values, or of the items where it does not repeat
    (K + 1, D or n)."""
    factors: Mapping[int, "Factor"]
    """The same fields for the kernel; empty for FM and FwFM."""

    @property
    def tiles(self) -> list[slice]:
        """Slices that cover the chunk."""
        n = self.items.rows
        return [slice(start, min(start + TILE, n)) for start in range(0, n, TILE)]


class Factor(NamedTuple):
    """An item field as the kernel multiplies it with fields of the user."""

    x: NDArray[np.float32]
    """Vectors of its values, or of the items where these do not repeat (D, K). Of a field of
    numbers, the numbers (D,)."""
    base: NDArray[np.float32] | None
    """The vector that such numbers multiply (K,)."""
    bins: Bins
    """Of these by norm; of numbers by themselves."""

    @classmethod
    def of(cls, x: NDArray[np.float32], base: NDArray[np.float32] | None) -> "Factor":
        """Sorts values into bins."""
        size = np.linalg.norm(x, axis=1) if base is None else x
        order = np.argsort(size)
        cuts = np.linspace(0, len(x), min(_BINS, len(x)) + 1).astype(np.intp)
        of_value = np.empty(len(x), np.int64)
        of_value[order] = np.repeat(np.arange(len(cuts) - 1), np.diff(cuts))
        low, high = size[order[cuts[:-1]]], size[order[cuts[1:] - 1]]
        if base is None:  # rounding may have made norms smaller
            high = high * np.float32(1 + 1e-6 * x.shape[1])
        return cls(x, base, Bins(of_value, low.astype(np.float32), high.astype(np.float32)))


@dataclass(frozen=True, eq=False)
class ItemSide:
    """A model and the items it ranks, in one context."""

    parameters: Parameters
    plan: Plan
    crosses: Mapping[int, CrossTable]
    """By the cross's field number."""
    context: Mapping[str, NDArray[np.generic]]
    """Encoded value of each context field, shape () or (width,)."""
    chunks: tuple[Chunk, ...]
    items: int
    """I."""
    shift: float
    """Subtracted from attention logits, so that their exponentials are neither huge nor tiny."""
    reach: float
    """The largest norm of a vector of an item, the context, or a cross with fields of users."""

    @property
    def pair_planes(self) -> int:
        """Planes that a pair adds to: N, and for AFM D."""
        return 1 if self.parameters.attention is None else 2

    @property
    def planes(self) -> int:
        """Those, and for AFM one of crosses' linear terms if there are crosses of both sides."""
        has_linear = self.parameters.attention is not None and bool(self.plan.parents)
        return self.pair_planes + has_linear

    def cross_rows(self, cross: int, user: NDArray[Any], item: NDArray[Any]) -> NDArray[np.intp]:
        """Where the embeddings of a cross of both sides stand in the table.

        Args:
            cross: Number of the field.
            user: Indices of its user parent.
            item: Indices of its item parent, of a shape that broadcasts.

        Returns:
            Rows of the embedding table, of the common shape.
        """
        layout = self.parameters.layout
        user_parent = layout.inputs[self.plan.parents[cross][0]].name
        user_first = (layout.inputs[cross].parents or ("",))[0] == user_parent
        index = self.crosses[cross].look_up(*((user, item) if user_first else (item, user)))
        return layout.offsets[cross] + index.astype(np.intp)


def prepare_items(
    weights: Weights,
    layout: Layout,
    scale: Scale,
    columns: Columns,
    *,
    context: Mapping[str, Any],
    crosses: Mapping[str, CrossTable],
    shift: float | None = None,
) -> ItemSide:
    """Works out everything that does not depend on the user.

    With the fused kernel, what a user and an item score does not depend on the other items, to the
    last bit, if the shift is the same: so items may come in blocks, each an item side.

    Args:
        weights: The model's weights, as :meth:`Parameters.of` takes them.
        layout: The fields' layout.
        scale: ``model.scale`` of the configuration.
        columns: An encoded column per field of the items (I, …), crosses of two item fields
            included. More columns do no harm.
        context: The encoded value of each context field, a list of them for ``multi``.
        crosses: The vocabulary of each cross of two different sides.
        shift: Subtracted from attention logits, as another block's ``shift`` says; a number that
            suits these items if left out.

    Returns:
        The item side. It can be pickled.

    Raises:
        ValueError: Weights, columns, context or crosses do not fit the layout.
    """
    parameters = Parameters.of(weights, layout, scale)
    plan = make_plan(layout)
    lacking = [f.name for f in layout.inputs if f.side == "cross" and f.name not in crosses]
    if lacking:
        raise ValueError(f"no vocabulary for the cross {', '.join(lacking)}")
    lacking = [f.name for f in layout.inputs if f.side == "context" and f.name not in context]
    if lacking:
        raise ValueError(f"no value for the context field {', '.join(lacking)}")
    items = count_rows(columns)
    tables = {f: crosses[i.name] for f, i in enumerate(layout.inputs) if i.side == "cross"}
    values = {name: np.asarray(value) for name, value in context.items()}
    sides = []
    for start in range(0, items, CHUNK):
        part = {name: np.asarray(column)[start : start + CHUNK] for name, column in columns.items()}
        rows = min(CHUNK, items - start)
        whole = complete_columns(layout, plan.item_fields, part, values, tables, rows)
        sides.append(read_side(parameters, plan.item_fields, whole, rows))
    if shift is None:
        shift = _typical_logit(parameters, plan, sides[0]) if sides else 0.0
    return ItemSide(
        parameters=parameters,
        plan=plan,
        crosses=tables,
        context=values,
        chunks=tuple(
            _make_chunk(parameters, plan, side, shift, number * CHUNK)
            for number, side in enumerate(sides)
        ),
        items=items,
        shift=shift,
        reach=max(
            [s.reach for s in sides] + [_cross_reach(parameters, f) for f in tables], default=0
        ),
    )


def count_rows(columns: Columns) -> int:
    """How many rows encoded columns have.

    Args:
        columns: The columns.

    Returns:
        The length of the first; whoever reads the others compares.

    Raises:
        ValueError: There is no column.
    """
    if not columns:
        raise ValueError("without any column, the number of rows is unknown")
    return len(next(iter(columns.values())))


def complete_columns(
    layout: Layout,
    fields: tuple[int, ...],
    columns: Columns,
    context: Mapping[str, NDArray[np.generic]],
    crosses: Mapping[int, CrossTable],
    rows: int,
) -> Columns:
    """Adds to one side's columns what the context gives: its own fields, and crosses with them.

    Args:
        layout: The fields' layout.
        fields: Numbers of the side's fields.
        columns: An encoded column per field that does not depend on the context.
        context: Encoded value of each context field.
        crosses: The vocabularies, by the cross's number.
        rows: Rows of the side.

    Returns:
        A column per field of the side that could be found or made.
    """
    constant = {
        name: np.broadcast_to(value, (rows, *value.shape)) for name, value in context.items()
    }
    found = {**columns, **constant}
    for f in fields:
        parents = layout.inputs[f].parents
        if f in crosses and parents is not None and set(parents) <= set(found):
            a, b = (np.asarray(found[name]) for name in parents)
            found[layout.inputs[f].name] = crosses[f].look_up(a, b)
    return found


def one_sided_sums(
    parameters: Parameters, side: Side, pairs: tuple[int, ...], shift: float
) -> NDArray[np.float32]:
    """Sums of the pairs that need only one side.

    Args:
        parameters: The model.
        side: Rows of that side.
        pairs: Numbers of the pairs.
        shift: Subtracted from attention logits.

    Returns:
        Planes N and, for AFM, D (planes, n).
    """
    sums = np.zeros((1 if parameters.attention is None else 2, side.rows), np.float32)
    for block in row_blocks(parameters, side.rows):
        v = side.take(np.arange(side.rows)[block]).stacked(parameters)  # (b, F, K)
        logits, terms = pair_terms(parameters, v, np.array(pairs, np.intp))  # (b, pairs)
        if parameters.attention is None:
            sums[0, block] = terms.sum(axis=1)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                weights = np.exp(logits - shift)
                sums[0, block] = (weights * terms).sum(axis=1)
            sums[1, block] = weights.sum(axis=1)
    return sums


def _typical_logit(parameters: Parameters, plan: Plan, items: Side) -> float:
    """The largest attention logit of a typical user and item, roughly: a median over a sample.

    Users are not known here; any of a field's embeddings stands for them. It is rounded, so that
    a few items more or less leave it as it is.

    Raises:
        DivergedError: It is no finite number.
    """
    generator = np.random.default_rng(0)
    layout = parameters.layout
    v = items.take(generator.integers(items.rows, size=_SAMPLE)).stacked(parameters)
    for f, field in enumerate(layout.inputs):
        if plan.sides[f] != "item":
            rows = layout.offsets[f] + generator.integers(field.cardinality, size=_SAMPLE)
            v[:, f] = parameters.embedding[rows]
        if f in parameters.history:  # as if they had one value each
            v[:, f] = encode(parameters.history[f], v[:, [f]], np.ones((_SAMPLE, 1), np.float32))
    logits, _ = pair_terms(parameters, v)  # (sample, P)
    typical = float(np.median(logits.max(axis=1)))
    if not np.isfinite(typical):
        raise DivergedError(
            "the model's scores are no finite numbers: its weights are too large. "
            "Lower train.learning_rate, and train again"
        )
    return 4.0 * round(typical / 4.0)


def _cross_reach(parameters: Parameters, cross: int) -> float:
    """The largest norm of a cross's embeddings."""
    first = parameters.layout.offsets[cross]
    rows = parameters.embedding[first : first + parameters.layout.inputs[cross].cardinality]
    return float(np.linalg.norm(rows, axis=1).max())


def _factor(parameters: Parameters, items: Side, f: int, repeats: bool) -> Factor:
    layout, values, base = parameters.layout, items.values[f], None
    if layout.inputs[f].encode == "value":
        base = np.ascontiguousarray(parameters.embedding[layout.offsets[f]], np.float32)
        x = values.encoded.astype(np.float32)
    else:
        x = values.vectors.astype(np.float32)
    return Factor.of(np.ascontiguousarray(x if repeats else x[values.of_row]), base)


def _make_chunk(parameters: Parameters, plan: Plan, items: Side, shift: float, start: int) -> Chunk:
    domains = {fields: items.domain(fields) for fields in plan.item_projections}
    # What hardly repeats is cheaper to compute for every item than to gather.
    domains = {fields: d for fields, d in domains.items() if 2 * len(d) <= items.rows}
    right = {}
    for f, values in items.values.items():
        vectors = values.vectors if (f,) in domains else items.vectors(f)
        right[f] = np.ascontiguousarray(np.append(vectors, np.ones((len(vectors), 1)), axis=1).T)
    return Chunk(
        start=start,
        items=items,
        # In float64, so that rounded to float32 it does not depend on the items beside.
        sums=one_sided_sums(parameters.double(), items, plan.item_pairs, shift),
        linear=items.linear() + np.float32(parameters.bias),
        domains=domains,
        profile=items.domain(sorted({f for fields in domains for f in fields})),
        right={f: array.astype(np.float32) for f, array in right.items()},
        factors={f: _factor(parameters, items, f, (f,) in domains) for f in items.values}
        if parameters.attention is not None
        else {},
    )
