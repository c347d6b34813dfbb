"""A block of users and items for the kernel of ``afm.kernels.scoring``: AFM only.

FM and FwFM have neither hidden units nor exponentials: what they need are matrix products, as numpy
has them.

Letters: r = ROWS users of a tile, n items of a chunk, D distinct values, K embedding.
"""

import numpy as np
from numpy.typing import NDArray

from afm.item_side import Chunk, ItemSide, one_sided_sums
from afm.kernels import scoring as kernel
from afm.kernels.scoring import PLANES, Given, Pairs, Part, Product
from afm.pair_sums import ROWS, PairSums, Sums, Tile, padded
from afm.plan import Group
from afm.sides import Side


def serves(item_side: ItemSide) -> bool:
    """Whether the kernel scores these items: the model is an AFM, and the kernel can be had.

    Args:
        item_side: The model and its items.

    Returns:
        True if so.
    """
    return item_side.parameters.attention is not None and kernel.library() is not None


class FusedBlock:
    """Some users with a chunk of items.

    Args:
        sums: Adds up, in numpy, pairs that are no product of a user field and an item field.
        chunk: The items.
        users: The users.
    """

    def __init__(self, sums: PairSums, chunk: Chunk, users: Side) -> None:
        self._sums, self._chunk, self._users = sums, chunk, users
        self._values_of: dict[int, tuple[Sums, Sums | None]] = {}
        attention = sums.item_side.parameters.attention
        assert attention is not None  # as serves() has seen
        self._network, self._bias = kernel.Network(attention), attention.pair_bias
        of_items = np.concatenate([chunk.sums, chunk.linear[None]])  # (PLANES, n)
        # Sums (D, PLANES, n), and which of them each user has.
        self._shared = [(of_items[None], np.zeros(users.rows, np.intp))]
        for group in sums.item_side.plan.shared:
            domain = users.domain(group.users)
            tiles = np.split(domain.first, range(ROWS, len(domain), ROWS))
            parts = [self._pairs(group, users.take(padded(t)), len(t)).sums() for t in tiles]
            self._shared.append((np.concatenate(parts), domain.of_row))

    def logits(self, rows: NDArray[np.intp]) -> tuple[Sums, bool]:
        """Logits of some of the users.

        Args:
            rows: Positions of B users, at most ROWS.

        Returns:
            Logits (B, n), and whether they are complete: NaN where D leaves the range in which
            float32 holds it.
        """
        item_side, whole = self._sums.item_side, padded(rows)
        tile = self._users.take(whole)
        parameters, plan = item_side.parameters, item_side.plan
        own = one_sided_sums(parameters, tile, plan.user_pairs, item_side.shift)
        return self._pairs(plan.own, tile, len(rows)).scores(
            [Part(sums, of_row[whole]) for sums, of_row in self._shared],
            np.concatenate([own, tile.linear()[None]]),
            parameters.scale,
        )

    def _pairs(self, group: Group, users: Side, count: int) -> Pairs:
        """A group's pairs, for the first so many of ROWS users."""
        item_side, chunk = self._sums.item_side, self._chunk
        tile = Tile(item_side, chunk, users)
        products, given = [], []
        for pair in group.pairs:
            sides = {item_side.plan.sides[f]: f for f in (pair.i, pair.j)}
            of_item, items = self._values(pair.items)
            if sides.keys() == {"user", "item"}:
                bias = float(self._bias[pair.number]) - item_side.shift
                u, (x, base) = users.vectors(sides["user"]), self._item_values(sides["item"])
                products.append(Product(u, x, base, of_item, bias))
            else:
                terms = self._sums.general_terms(pair, tile, items)  # (pair planes, r, D)
                given.append(Given(_planes(terms, 0), of_item))
        for cross in group.crosses:
            of_item, items = self._values((item_side.plan.parents[cross][1],))
            linear = tile.cross_linear(cross, items)  # (r, D)
            given.append(Given(_planes(linear[None], PLANES - 1), of_item))
        return Pairs(self._network, count, chunk.items.rows, products, given)

    def _values(self, fields: tuple[int, ...]) -> tuple[NDArray[np.intp] | None, NDArray[np.intp]]:
        """Which value of a projection each item has, None if each has its own; items with each."""
        if fields in self._chunk.domains:
            domain = self._chunk.domains[fields]
            return domain.of_row, domain.first
        return None, np.arange(self._chunk.items.rows)

    def _item_values(self, field: int) -> tuple[Sums, Sums | None]:
        """Vectors of an item field's values, or of the items where these do not repeat (D, K).

        Of a field of numbers: the numbers (D,), and the vector that they multiply (K,).
        """
        if field not in self._values_of:
            parameters, values = self._sums.item_side.parameters, self._chunk.items.values[field]
            layout, base = parameters.layout, None
            if layout.inputs[field].encode == "value":
                base = parameters.embedding[layout.offsets[field]]
                x = values.encoded.astype(np.float32)
            else:
                x = values.vectors
            if (field,) not in self._chunk.domains:
                x = x[values.of_row]
            self._values_of[field] = np.ascontiguousarray(x), base
        return self._values_of[field]


def _planes(sums: Sums, first: int) -> Sums:
    """Some planes (planes, r, D), from the first on, among zeros for the others (D, PLANES, r)."""
    planes = np.zeros((sums.shape[2], PLANES, ROWS), np.float32)
    planes[:, first : first + len(sums)] = sums.transpose(2, 0, 1)
    return planes
