"""Which pairs of fields a score comes from.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, n pairs kept, K embedding.
"""

from dataclasses import dataclass

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
from afm.item_side import ItemSide
from afm.scoring import Ranking, pair_vectors, read_users


@dataclass(frozen=True, eq=False)
class Explanation:
    """The pairs that explain each row, the most important first."""

    field_a: NDArray[np.str_]
    """Name of the first field of each pair (B, n)."""
    field_b: NDArray[np.str_]
    """Name of the second (B, n)."""
    attention: NDArray[np.float32]
    """a_ij (B, n); 1/P for FM and FwFM."""
    contribution: NDArray[np.float32]
    """What the pair adds to the logit, c·a_ij·pᵀ(v_i∘v_j), or for FwFM r_ij <v_i, v_j> (B, n)."""


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
    if n == 0:
        nothing = np.zeros((len(ranking.user), 0), np.float32)
        return Explanation(nothing.astype(str), nothing.astype(str), nothing, nothing)
    v, _ = pair_vectors(item_side, read_users(item_side, users), ranking.user, ranking.item)
    return _explain(item_side.parameters, v, n)


def _explain(parameters: Parameters, v: Floats, n: int) -> Explanation:
    i, j = np.triu_indices(v.shape[1], 1)
    n = min(n, len(i))
    pairs = np.zeros((len(v), n), np.intp)
    attention, contribution = np.zeros((2, len(v), n), np.float32)
    for block in row_blocks(parameters, len(v)):
        logits, terms = pair_terms(parameters, v[block])  # (b, P)
        weights = softmax(logits)  # (b, P)
        added = parameters.scale * weights * terms  # (b, P)
        importance = weights if parameters.attention is not None else np.abs(added)
        best = np.argsort(-importance, axis=1, kind="stable")[:, :n]  # (b, n)
        pairs[block] = best
        attention[block] = np.take_along_axis(weights, best, axis=1)
        contribution[block] = np.take_along_axis(added, best, axis=1)
    names = np.array([field.name for field in parameters.layout.inputs])
    return Explanation(names[i[pairs]], names[j[pairs]], attention, contribution)
