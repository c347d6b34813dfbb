"""Sums of pairs' terms for some users and all items of a chunk, in tiles that stay in cache.

The softmax over pairs is N/D with N = Σ exp(l)·pᵀe and D = Σ exp(l) over pairs, so pairs can be
added in any grouping. Sums are arrays of *planes*: N; for AFM also D; and for AFM with crosses of
users and items their linear terms (FM and FwFM have these in N).

Letters: T planes, r = ROWS users, n items of a chunk, c items of a tile, D distinct values, K
embedding, A attention units.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from afm.forward import Floats
from afm.item_side import TILE, Chunk, ItemSide
from afm.plan import Group, Pair
from afm.sides import Side

ROWS = 32
"""Users of a tile. It never varies, for the last bit of a matrix product depends on its shape."""

Sums = NDArray[np.float32]


class PairSums:
    """Adds up pairs; holds the scratch memory for it.

    Args:
        item_side: The model and its items.
    """

    def __init__(self, item_side: ItemSide) -> None:
        attention = item_side.parameters.attention
        units = 0 if attention is None else len(attention.h)
        self.item_side = item_side
        self._hidden = np.empty(units * ROWS * TILE, np.float32)
        # numpy's maximum of two arrays is vectorised, that of an array and a number is not.
        self._zeros = np.zeros_like(self._hidden)

    def tiles(self, group: Group, chunk: Chunk, users: Side) -> Iterator[tuple[slice, Sums]]:
        """Sums of a group's pairs, tile by tile.

        Args:
            group: The pairs.
            chunk: The items.
            users: ROWS users.

        Yields:
            Columns of the chunk, and the sums of all planes for them (T, r, c).
        """
        tile = Tile(self.item_side, chunk, users)
        profiles = np.zeros((self.item_side.planes, ROWS, len(chunk.profile)), np.float32)
        for pair in group.pairs:
            if pair.items in chunk.domains:
                domain = chunk.domains[pair.items]
                terms = np.concatenate(  # (pair planes, r, D)
                    [
                        self._terms(pair, tile, part, domain.first[part])
                        for part in _parts(len(domain), TILE)
                    ],
                    axis=2,
                )
                if len(domain) > 1:
                    terms = terms.take(domain.of_row[chunk.profile.first], axis=2)
                profiles[: len(terms)] += terms
        for cross in group.crosses:
            if (self.item_side.plan.parents[cross][1],) in chunk.domains:
                profiles[-1] += tile.cross_linear(cross, chunk.profile.first)
        for columns in chunk.tiles:
            items = np.arange(columns.start, columns.stop)
            sums = profiles.take(chunk.profile.of_row[columns], axis=2)  # (T, r, c)
            for pair in group.pairs:
                if pair.items not in chunk.domains:
                    terms = self._terms(pair, tile, columns, items)
                    sums[: len(terms)] += terms
            for cross in group.crosses:
                if (self.item_side.plan.parents[cross][1],) not in chunk.domains:
                    sums[-1] += tile.cross_linear(cross, items)
            yield columns, sums

    def _terms(self, pair: Pair, tile: "Tile", part: slice, items: NDArray[np.intp]) -> Sums:
        """A pair's terms for some items, this part of its domain or of the chunk (planes, r, c)."""
        sides = {self.item_side.plan.sides[f]: f for f in (pair.i, pair.j)}
        if sides.keys() == {"user", "item"}:
            return self._product_terms(pair, tile, sides["user"], sides["item"], part)
        return self.general_terms(pair, tile, items)

    def _product_terms(self, pair: Pair, tile: "Tile", user: int, item: int, part: slice) -> Sums:
        """A user field with an item field: W (u∘v) + b = [W·diag(u) b] [v 1], a matrix product."""
        attention = self.item_side.parameters.attention
        left, weighted = tile.left(user)  # (A·r, K + 1), (r, K)
        right = tile.chunk.right[item][:, part]  # (K + 1, c)
        terms = np.empty((self.item_side.pair_planes, ROWS, right.shape[1]), np.float32)
        np.matmul(weighted, right[:-1], out=terms[0])
        if attention is not None:
            shape = (len(left), right.shape[1])
            hidden = self._hidden[: shape[0] * shape[1]].reshape(shape)
            np.matmul(left, right, out=hidden)
            np.maximum(hidden, self._zeros[: hidden.size].reshape(shape), out=hidden)
            np.matmul(attention.h, hidden.reshape(len(attention.h), -1), out=terms[1].reshape(-1))
        self._weigh(pair, terms)
        return terms

    def general_terms(self, pair: Pair, tile: "Tile", items: NDArray[np.intp]) -> Sums:
        """Terms of any pair, by the vectors of its fields for each user and item.

        Args:
            pair: The pair.
            tile: The users.
            items: Positions of items in the chunk (c,).

        Returns:
            Its terms (pair planes, r, c).
        """
        # Few items at a time, for a vector exists for each user and item, and always as many.
        pieces = [padded(items[piece]) for piece in _parts(len(items), ROWS)]
        terms = [self._terms_of_vectors(pair, tile, piece) for piece in pieces]
        return np.concatenate(terms, axis=2)[:, :, : len(items)]

    def _terms_of_vectors(self, pair: Pair, tile: "Tile", items: NDArray[np.intp]) -> Sums:
        attention = self.item_side.parameters.attention
        products = tile.vectors(pair.i, items) * tile.vectors(pair.j, items)  # (r, c, K)
        terms = np.empty((self.item_side.pair_planes, *products.shape[:2]), np.float32)
        if attention is None:
            np.sum(products, axis=2, out=terms[0])
        else:
            products = products.reshape(-1, products.shape[2])  # (r·c, K)
            hidden = products @ attention.W.T + attention.b  # (r·c, A)
            np.maximum(hidden, 0, out=hidden)
            np.matmul(products, attention.p, out=terms[0].reshape(-1))
            np.matmul(hidden, attention.h, out=terms[1].reshape(-1))
        self._weigh(pair, terms)
        return terms

    def _weigh(self, pair: Pair, terms: Sums) -> None:
        """Turns pᵀe and attention logits without bias into exp(l)·pᵀe and exp(l), in place.

        For FwFM, <v_i, v_j> into r_ij <v_i, v_j>.
        """
        parameters = self.item_side.parameters
        attention, pair_weights = parameters.attention, parameters.pair_weights
        if pair_weights is not None:
            terms[0] *= pair_weights[pair.number]
        if attention is not None:
            terms[1] += attention.pair_bias[pair.number] - np.float32(self.item_side.shift)
            np.exp(terms[1], out=terms[1])
            terms[0] *= terms[1]


class Tile:
    """ROWS users and a chunk of items: what several pairs of them need.

    Args:
        item_side: The model and its items.
        chunk: The items.
        users: The users.
    """

    def __init__(self, item_side: ItemSide, chunk: Chunk, users: Side) -> None:
        self.item_side = item_side
        self.chunk = chunk
        self.users = users
        self._left: dict[int, tuple[Floats, Floats]] = {}
        self._cross_rows: dict[int, NDArray[np.intp]] = {}

    def left(self, field: int) -> tuple[Floats, Floats]:
        """[W·diag(u) b] (A·r, K + 1) and p∘u (r, K) of a user field; for FM and FwFM u twice."""
        if field not in self._left:
            u = self.users.vectors(field)  # (r, K)
            attention = self.item_side.parameters.attention
            if attention is None:
                self._left[field] = (u, u)
            else:
                hidden = attention.W[:, None, :] * u  # (A, r, K)
                offset = np.broadcast_to(attention.b[:, None, None], (*hidden.shape[:2], 1))
                stacked = np.concatenate([hidden, offset], axis=2)  # (A, r, K + 1)
                self._left[field] = (stacked.reshape(-1, stacked.shape[2]), attention.p * u)
        return self._left[field]

    def vectors(self, field: int, items: NDArray[np.intp]) -> Floats:
        """A field's vectors for some items, of a shape that broadcasts to (r, c, K)."""
        side = self.item_side.plan.sides[field]
        if side == "user":
            return self.users.vectors(field)[:, None]
        if side == "item":
            values = self.chunk.items.values[field]
            return values.vectors.take(values.of_row[items], axis=0)[None]
        return self.item_side.parameters.embedding[self._embedding_rows(field, items)]

    def cross_linear(self, cross: int, items: NDArray[np.intp]) -> Floats:
        """Linear terms of a cross for some items (r, c)."""
        return self.item_side.parameters.linear[self._embedding_rows(cross, items)]

    def _embedding_rows(self, cross: int, items: NDArray[np.intp]) -> NDArray[np.intp]:
        """Where a cross's embeddings stand in the table (r, c)."""
        user, item = self.item_side.plan.parents[cross]
        parent = self.chunk.items.values[item]
        if cross not in self._cross_rows:
            self._cross_rows[cross] = self.item_side.cross_rows(
                cross, self.users.encoded(user)[:, None], parent.encoded
            )  # (r, D)
        return self._cross_rows[cross].take(parent.of_row[items], axis=1)


def padded(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Repeats the last of at most ROWS rows up to ROWS, for no tile has fewer.

    Args:
        rows: Positions of at least one row.

    Returns:
        Those of ROWS rows.
    """
    if len(rows) == ROWS:
        return rows
    return np.append(rows, np.repeat(rows[-1:], ROWS - len(rows)))


def _parts(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
