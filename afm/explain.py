"""Which pairs of fields a score comes from.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, n pairs kept, K embedding.
"""

from dataclasses import dataclass
from typing import Any

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
from afm.kernels.scoring import Looked
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
        fields = _looked(item_side, users, ranking.user[at], chunk, ranking.item[at] - chunk.start)
        found = kernel.explain(parameters.attention, fields, n, parameters.scale)
        pairs[at], attention[at], contribution[at] = found
    return _named(parameters, pairs, attention, contribution)


def _looked(
    item_side: ItemSide,
    users: Side,
    user: NDArray[np.int64],
    chunk: Chunk,
    item: NDArray[np.int64],
) -> list[Looked]:
    """All fields of some users with some items of a chunk."""
    plan, parameters = item_side.plan, item_side.parameters
    fields = []
    for f, side in enumerate(plan.sides):
        if side == "both":
            a, b = plan.parents[f]
            ours, theirs = users.values[a], chunk.items.values[b]
            at = item_side.cross_rows(
                f, ours.encoded[ours.of_row[user]], theirs.encoded[theirs.of_row[item]]
            )
            fields.append(Looked(parameters.embedding, at))
        else:
            values, rows = (
                (users.values[f], user) if side == "user" else (chunk.items.values[f], item)
            )
            fields.append(Looked(values.vectors, values.of_row[rows]))
    return fields


def _named(
    parameters: Parameters, pairs: NDArray[np.integer[Any]], attention: Floats, contribution: Floats
) -> Explanation:
    inputs = parameters.layout.inputs
    i, j = (fields.astype(np.int16) for fields in np.triu_indices(len(inputs), 1))
    names = tuple(field.name for field in inputs)
    return Explanation(names, i[pairs], j[pairs], attention, contribution)
