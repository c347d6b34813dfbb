"""Some users and items for the kernel of ``afm.kernels.scoring``: AFM only.

FM and FwFM have neither hidden units nor exponentials: what they need are matrix products, as numpy
has them.

Letters: B users, r = B rounded up to LANES, n items of a chunk, D distinct values, K embedding.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from afm.item_side import Chunk, ItemSide, one_sided_sums
from afm.kernels import scoring as kernel
from afm.kernels.scoring import LANES, PLANES, Found, Given, Pairs, Part, Product, Wanted
from afm.pair_sums import ROWS, PairSums, Sums, Tile, padded
from afm.plan import Group, Pair
from afm.sides import Side

_MANY = 16  # items per value of a field from which on a table of all values is cheapest
_AT_ONCE = 512  # users, at most: they share what a call costs
_SUMS_AT_ONCE = 2**22  # numbers that are in memory for them
_EPSILON = 2.0**-23


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
        item_side = sums.item_side
        attention = item_side.parameters.attention
        assert attention is not None  # as serves() has seen
        self._network, self._bias = kernel.Network(attention), attention.pair_bias
        of_items = np.concatenate([chunk.sums, chunk.linear[None]])  # (PLANES, n)
        # Sums (D, PLANES, n), and which of them each user has.
        self._shared = [(of_items[None], np.zeros(users.rows, np.intp))]
        for group in item_side.plan.shared:
            domain = users.domain(group.users)
            pairs = self._pairs(group, users.take(_filled(domain.first)), len(domain), False)
            self._shared.append((pairs.sums(), domain.of_row))
        # |pᵀ(u∘x)| is at most this, and so is |N/D|; a sum of s numbers is off by s·ε of it.
        largest = np.abs(attention.p).max() * max(item_side.reach, users.reach) ** 2
        added = len(self._shared) + len(item_side.plan.own.pairs) + 8
        self._room = float(item_side.parameters.scale * largest * 4 * _EPSILON * added)

    def parts(self) -> Iterator[slice]:
        """Users that are best scored at once: fewer where each brings sums of many values."""
        own = self._sums.item_side.plan.own
        sums = sum(len(self._values(p.items)[1]) for p in own.pairs if not self._sides_of(p))
        step = min(_AT_ONCE, max(1, _SUMS_AT_ONCE // (PLANES * max(sums, 1) * ROWS)) * ROWS)
        for start in range(0, self._users.rows, step):
            yield slice(start, min(start + step, self._users.rows))

    def scores(
        self,
        rows: slice,
        k: int,
        floor: NDArray[np.float32],
        excluded: tuple[NDArray[np.int64], NDArray[np.int64]],
    ) -> Found:
        """Scores of the items that may be among the best of some users.

        Args:
            rows: Positions of B users.
            k: How many are wanted.
            floor: What the k-th best of each user scores so far, -inf if there is none (B,).
            excluded: Where each user's excluded items begin (B + 1,), and their positions in the
                chunk, rising for each user.
        """
        item_side = self._sums.item_side
        parameters, plan = item_side.parameters, item_side.plan
        whole = _filled(np.arange(rows.start, rows.stop))
        users = self._users.take(whole)
        more = len(whole) - (rows.stop - rows.start)
        # In float64, so that rounded to float32 it does not depend on the users beside.
        own = one_sided_sums(parameters.double(), users, plan.user_pairs, item_side.shift)
        first, items = excluded
        wanted = Wanted(
            k,
            self._room,
            np.append(floor, np.zeros(more, np.float32)),
            np.append(first, np.repeat(first[-1:], more)),
            np.ascontiguousarray(items),
        )
        return self._pairs(plan.own, users, rows.stop - rows.start, True).scores(
            [Part(sums, of_row[whole]) for sums, of_row in self._shared],
            np.concatenate([own, users.linear()[None]]),
            parameters.scale,
            wanted,
        )

    def _pairs(self, group: Group, users: Side, count: int, bounded: bool) -> Pairs:
        """A group's pairs, for the first so many of some users."""
        item_side, chunk = self._sums.item_side, self._chunk
        products, given = [], []
        in_numpy = group.crosses or not all(map(self._sides_of, group.pairs))
        tiles = [
            Tile(item_side, chunk, users.take(padded(rows)))
            for rows in np.split(np.arange(users.rows), range(ROWS, users.rows, ROWS))
            if in_numpy
        ]
        for pair in group.pairs:
            of_item, items = self._values(pair.items)
            if sides := self._sides_of(pair):
                user, item = sides
                x, base, bins = chunk.factors[item]
                bias = float(self._bias[pair.number]) - item_side.shift
                many = bounded and len(x) * _MANY > chunk.items.rows
                u = users.vectors(user)
                products.append(Product(u, x, base, of_item, bias, bins if many else None))
            else:
                terms = [self._sums.general_terms(pair, tile, items) for tile in tiles]
                given.append(Given(_planes(terms, 0, users.rows), of_item))
        for cross in group.crosses:
            of_item, items = self._values((item_side.plan.parents[cross][1],))
            linear = [tile.cross_linear(cross, items)[None] for tile in tiles]
            given.append(Given(_planes(linear, PLANES - 1, users.rows), of_item))
        return Pairs(self._network, count, users.rows, chunk.items.rows, products, given)

    def _sides_of(self, pair: Pair) -> tuple[int, int] | None:
        """The user field and the item field of a pair of both; None of others."""
        sides = {self._sums.item_side.plan.sides[f]: f for f in (pair.i, pair.j)}
        return (sides["user"], sides["item"]) if sides.keys() == {"user", "item"} else None

    def _values(self, fields: tuple[int, ...]) -> tuple[NDArray[np.intp] | None, NDArray[np.intp]]:
        """Which value of a projection each item has, None if each has its own; items with each."""
        if fields in self._chunk.domains:
            domain = self._chunk.domains[fields]
            return domain.of_row, domain.first
        return None, np.arange(self._chunk.items.rows)


def _filled(rows: NDArray[np.intp]) -> NDArray[np.intp]:
    """Repeats the last of some rows up to a multiple of LANES."""
    return np.append(rows, np.repeat(rows[-1:], -len(rows) % LANES))


def _planes(tiles: list[Sums], first: int, users: int) -> Sums:
    """Some planes of tiles (planes, ROWS, D), from the first on, among zeros (D, PLANES, r)."""
    sums = np.concatenate(tiles, axis=1)[:, :users]  # (planes, r, D)
    planes = np.zeros((sums.shape[2], PLANES, users), np.float32)
    planes[:, first : first + len(sums)] = sums.transpose(2, 0, 1)
    return planes
