"""Which pairs of fields a score comes from.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, n pairs kept, K embedding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm.forward import (
    Columns,
    Floats,
    Parameters,
    field_vectors,
    pair_terms,
    row_blocks,
    softmax,
)
from afm.fused_block import serves
from afm.item_side import Chunk, ItemSide
from afm.kernels import scoring as kernel
from afm.kernels.scoring import Known, Looked
from afm.scoring import Ranking, pair_vectors, places_by_chunk, read_users
from afm.sides import Side


@dataclass(frozen=True, eq=False)
class Explanation:
    """The pairs that explain each row, the most important first."""

    names: tuple[str, ...]
    """Of the fields."""
    a: NDArray[np.int16]
    """Number of the first field of each pair (B, n)."""
    b: NDArray[np.int16]
    """Number of the second (B, n)."""
    attention: NDArray[np.float32]
    """a_ij (B, n); 1/P for FM and FwFM."""
    contribution: NDArray[np.float32]
    """What the pair adds to the logit, c·a_ij·pᵀ(v_i∘v_j), or for FwFM r_ij <v_i, v_j> (B, n)."""

    @property
    def field_a(self) -> NDArray[np.str_]:
        """Name of the first field of each pair (B, n)."""
        return np.array(self.names)[self.a]

    @property
    def field_b(self) -> NDArray[np.str_]:
        """Name of the second (B, n)."""
        return np.array(self.names)[self.b]


def explain(parameters: Parameters, columns: Columns, n: int) -> Explanation:
    """The pairs with the largest attention in each row, and what they add to its logit.

    FM and FwFM pay the same attention to all pairs: there, the pairs that add or take most. Equal
    ones come in the order of the fields.

    Args:
        parameters: The model.
        columns: An encoded column per field (B, …), crosses included.
        n: Pairs per row; all P if there are fewer.

    Returns:
        The explanation.

    Raises:
        ValueError: A column is missing, or an index lies outside its vocabulary.

    Source: Xiao et al., IJCAI 2017, eq. 5 and 9, and section 4.5 on reading the attention.
    """
    v, _ = field_vectors(parameters, range(len(parameters.layout.inputs)), columns)
    return _explain(parameters, v, n)


def explain_ranking(item_side: ItemSide, users: Columns, ranking: Ranking, n: int) -> Explanation:
    """Explains each row of a ranking, as :func:`explain` does.

    Args:
        item_side: What ``prepare_items`` made.
        users: The columns that were ranked for (U, …).
        ranking: What ``recommend`` or ``recommend_among`` returned for both (B rows).
        n: Pairs per row; all P if there are fewer.

    Returns:
        The explanation.

    Raises:
        ValueError: Columns do not fit the layout.
    """
    parameters, fields = item_side.parameters, len(item_side.parameters.layout.inputs)
    users_side = read_users(item_side, users)
    n = min(n, fields * (fields - 1) // 2)
    if n and serves(item_side):
        return _explain_fused(item_side, users_side, ranking, n)
    v, _ = pair_vectors(item_side, users_side, ranking.user, ranking.item)
    return _explain(parameters, v, n)


def _explain(parameters: Parameters, v: Floats, n: int) -> Explanation:
    fields = v.shape[1]
    n = min(n, fields * (fields - 1) // 2)
    pairs = np.zeros((len(v), n), np.intp)
    attention, contribution = np.zeros((2, len(v), n), np.float32)
    for block in row_blocks(parameters, len(v)) if n else ():
        logits, terms = pair_terms(parameters, v[block])  # (b, P)
        weights = softmax(logits)  # (b, P)
        added = parameters.scale * weights * terms  # (b, P)
        importance = weights if parameters.attention is not None else np.abs(added)
        best = np.argsort(-importance, axis=1, kind="stable")[:, :n]  # (b, n)
        pairs[block] = best
        attention[block] = np.take_along_axis(weights, best, axis=1)
        contribution[block] = np.take_along_axis(added, best, axis=1)
    return _named(parameters, pairs, attention, contribution)


def _explain_fused(item_side: ItemSide, users: Side, ranking: Ranking, n: int) -> Explanation:
    """The same by the kernel, which reads vectors where they lie."""
    parameters = item_side.parameters
    assert parameters.attention is not None  # as serves() has seen
    rows = len(ranking.user)
    pairs = np.empty((rows, n), np.int32)
    attention, contribution = np.empty((2, rows, n), np.float32)
    for chunk, at in places_by_chunk(item_side, ranking.item):
        if len(at):
            here = _Rows(item_side, users, chunk, ranking.user[at], ranking.item[at] - chunk.start)
            found = kernel.explain(
                parameters.attention, here.fields, here.known(), n, parameters.scale
            )
            if len(at) == rows:
                return _named(parameters, *found)
            pairs[at], attention[at], contribution[at] = found
    return _named(parameters, pairs, attention, contribution)


class _Rows:
    """Users with items of a chunk.

    Args:
        item_side: The model and its items.
        users: The users.
        chunk: The items.
        user: The user of each row (B,).
        item: Its item (B,).
    """

    def __init__(
        self,
        item_side: ItemSide,
        users: Side,
        chunk: Chunk,
        user: NDArray[np.int64],
        item: NDArray[np.int64],
    ) -> None:
        self._item_side = item_side
        self._user, self._item = _Kinds.of(user, users.rows), _Kinds.of(item, chunk.items.rows)
        self.fields = []
        """All fields of the rows."""
        plan, parameters = item_side.plan, item_side.parameters
        for f, side in enumerate(plan.sides):
            if side == "both":
                a, b = plan.parents[f]
                ours, theirs = users.values[a], chunk.items.values[b]
                at = item_side.cross_rows(
                    f, ours.encoded[ours.of_row[user]], theirs.encoded[theirs.of_row[item]]
                )
                self.fields.append(Looked(parameters.embedding, at, np.arange(len(at))))
            elif side == "user":
                self.fields.append(Looked(users.values[f].vectors, users.values[f].of_row, user))
            else:
                values = chunk.items.values[f]
                self.fields.append(Looked(values.vectors, values.of_row, item))

    def known(self) -> list[Known]:
        """Logits of pairs that depend on less than the row: its user, its item, or few values."""
        layout, sides = self._item_side.parameters.layout, self._item_side.plan.sides
        context = [f for f, i in enumerate(layout.inputs) if i.side == "context"]
        ours = [f for f, side in enumerate(sides) if side == "user"]
        theirs = [f for f, side in enumerate(sides) if side == "item"]
        known = []
        for some, kinds in ((sorted({*ours, *context}), self._user), (theirs, self._item)):
            if len(some) > 1:
                known.append(self._of_one_side(some, kinds))
        items = [f for f in theirs if f not in context]
        for f in ours:
            field = self.fields[f]
            kinds = _Kinds.of(field.value[field.place], len(field.vectors))
            if items and 2 * len(kinds.first) * len(self._item.first) < len(field.place):
                known.append(self._of_few_values(f, kinds, items))
        return known

    def _of_one_side(self, some: list[int], kinds: "_Kinds") -> Known:
        """All pairs of some fields, for each user or each item."""
        i, j = (np.array(some)[fields] for fields in np.triu_indices(len(some), 1))
        looked = [self._at(f, kinds.first) for f in some]
        return Known(self._number(i, j), self._logits(looked), kinds.of_row)

    def _of_few_values(self, f: int, kinds: "_Kinds", items: list[int]) -> Known:
        """Pairs of a field of the user that has few values, for each of these with each item."""
        value, item = (a.reshape(-1) for a in np.indices((len(kinds.first), len(self._item.first))))
        ours = self._at(f, kinds.first[value])
        logits = [self._logits([ours, self._at(g, self._item.first[item])]) for g in items]
        return Known(
            self._number(np.full(len(items), f), np.array(items)),
            np.concatenate(logits, axis=1),
            kinds.of_row * len(self._item.first) + self._item.of_row,
        )

    def _at(self, f: int, rows: NDArray[np.intp]) -> Looked:
        field = self.fields[f]
        return Looked(field.vectors, field.value, field.place[rows])

    def _logits(self, looked: list[Looked]) -> Floats:
        attention = self._item_side.parameters.attention
        assert attention is not None  # as serves() has seen
        return kernel.pair_logits(attention, looked)

    def _number(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> NDArray[np.int64]:
        """Numbers of pairs, in lexicographic order."""
        low, high, fields = np.minimum(i, j), np.maximum(i, j), len(self.fields)
        number: NDArray[np.int64] = low * (2 * fields - low - 1) // 2 + high - low - 1
        return number


class _Kinds(NamedTuple):
    """Rows that are equal in something."""

    first: NDArray[np.intp]
    """A row of each kind."""
    of_row: NDArray[np.intp]
    """The kind of each row (B,)."""

    @classmethod
    def of(cls, codes: NDArray[np.int64], count: int) -> "_Kinds":
        """Rows are equal if they have the same of so many codes."""
        row = np.full(count, -1)
        row[codes] = np.arange(len(codes))
        found = np.flatnonzero(row >= 0)
        number = np.empty(count, np.int64)
        number[found] = np.arange(len(found))
        return cls(row[found], number[codes])


def _named(
    parameters: Parameters, pairs: NDArray[np.integer[Any]], attention: Floats, contribution: Floats
) -> Explanation:
    inputs = parameters.layout.inputs
    i, j = (fields.astype(np.int16) for fields in np.triu_indices(len(inputs), 1))
    names = tuple(field.name for field in inputs)
    return Explanation(names, i[pairs], j[pairs], attention, contribution)
