"""Exact scores of every user with every item, and the K best items of each user.

A score is linear + c·N/D, with N and D sums over pairs of fields, and a pair's term depends on the
user and the item only through its projections (``afm.plan``). So each term is computed once per
distinct combination of these, added to the terms that share it, and gathered. What is left for each
user and item is the few pairs whose projections are large on both sides, as a matrix product
(``afm.pair_sums``). Nothing is approximated: where the sums leave the range in which float32 holds
them, that score is computed by the plain forward in float64.

Letters: U users, I items, K items kept, T planes of sums, r users and c items of a tile, n items of
a chunk.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afm.forward import Columns, Floats, interactions, row_blocks
from afm.fused_block import FusedBlock, serves
from afm.item_side import (
    Chunk,
    ItemSide,
    complete_columns,
    count_rows,
    one_sided_sums,
)
from afm.pair_sums import ROWS, PairSums, Sums, padded
from afm.plan import Group, most_values
from afm.sides import Side, read_side
from afm.top_k import TopK

USERS_AT_ONCE = 8192
"""Users that share sums, if few combinations of values can occur among them."""
_FEW_AT_ONCE = 1024  # users otherwise, so that these sums fit into memory
_SMALLEST, _LARGEST = 1e-18, 1e18  # D beyond which exp has lost digits or may have left float32

Pairs = tuple[NDArray[np.integer[Any]], NDArray[np.integer[Any]]]


@dataclass(frozen=True, eq=False)
class Ranking:
    """The best items of each user: rows by user, then by rank."""

    user: NDArray[np.int64]
    """Position of the user among those given (N,)."""
    item: NDArray[np.int64]
    """Position of the item among those prepared (N,)."""
    rank: NDArray[np.int32]
    """1 for a user's best item (N,)."""
    logit: NDArray[np.float32]
    """(N,)"""


def recommend(
    item_side: ItemSide, users: Columns, k: int, excluded: Pairs | None = None
) -> Ranking:
    """The K items with the largest logits for each user of a block, of all items.

    Equal logits rank by item position. Results do not depend on which users share a block.

    Args:
        item_side: What :func:`prepare_items` made.
        users: An encoded column per field of the users (U, …), crosses of two user fields
            included. More columns do no harm. A thousand users or more share most work.
        k: K.
        excluded: User positions and item positions (two arrays of one length, in any order) of
            pairs that must not be recommended.

    Returns:
        K rows for each user, or as many as there are items left.

    Raises:
        ValueError: Columns do not fit the layout, ``k`` is not positive, or a position is
            outside its side.
    """
    _check_k(k)
    side = read_users(item_side, users)
    order = _by_profile(item_side, side)
    seen = _Excluded(excluded, order, item_side.items)
    best = TopK(side.rows, min(k, item_side.items))
    # Sums that leave the range of float32 are found and computed again (_score_directly).
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        sums, offer = PairSums(item_side), _offer_found if serves(item_side) else _offer_all
        step = users_at_once(item_side)
        for start in range(0, side.rows, step):
            group = side.take(order[start : start + step])
            for chunk in item_side.chunks:
                offer(sums, chunk, group, start, seen, best)
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    logits, items = best.logits[position], best.items[position]  # (U, K)
    user, place = np.nonzero(items >= 0)
    return Ranking(
        user=user,
        item=items[user, place],
        rank=place.astype(np.int32) + 1,
        logit=logits[user, place],
    )


def users_at_once(item_side: ItemSide) -> int:
    """Users whose shared sums are in memory at once.

    Args:
        item_side: The model and its items.
    """
    layout = item_side.parameters.layout
    most = [most_values(layout, group.users) for group in item_side.plan.shared]
    return USERS_AT_ONCE if max(most, default=0) <= _FEW_AT_ONCE else _FEW_AT_ONCE


def recommend_among(item_side: ItemSide, users: Columns, k: int, candidates: Pairs) -> Ranking:
    """The K items with the largest logits for each user of a block, of that user's candidates.

    Equal logits rank by item position.

    Args:
        item_side: What :func:`prepare_items` made.
        users: An encoded column per field of the users (U, …), as :func:`recommend` takes them.
        k: K.
        candidates: User positions and item positions (two arrays of one length, in any order) of
            the pairs to score, each pair once.

    Returns:
        K rows for each user, or as many as there are candidates.

    Raises:
        ValueError: Columns do not fit the layout, ``k`` is not positive, or a position is
            outside its side.
    """
    _check_k(k)
    side, parameters = read_users(item_side, users), item_side.parameters.double()
    _check_positions("candidate", candidates, side.rows, item_side.items)
    user, item = (np.asarray(positions, np.int64) for positions in candidates)
    logits = np.empty(len(user), np.float32)
    for block in row_blocks(parameters, len(user)):
        v, linear = pair_vectors(item_side, side, user[block], item[block])
        # In float64, so that the float32 result does not depend on where a block begins.
        logits[block] = linear + interactions(parameters, v.astype(np.float64))
    return _best(user, item, logits, k)


def best_of(rankings: Sequence[Ranking], k: int) -> Ranking:
    """The K best items of each user over several rankings, as one ranking of all items has them.

    Args:
        rankings: Rankings of the same users among different items, with positions among all items.
        k: K.

    Returns:
        Equal logits rank by item position.
    """
    if len(rankings) == 1:
        return rankings[0]
    user, item, logits = (
        np.concatenate([getattr(ranking, name) for ranking in rankings])
        for name in ("user", "item", "logit")
    )
    return _best(user, item, logits, k)


def _best(
    user: NDArray[np.int64], item: NDArray[np.int64], logits: NDArray[np.float32], k: int
) -> Ranking:
    """The K best of some pairs, by user."""
    order = np.lexsort((item, -logits, user))
    user, item, logits = user[order], item[order], logits[order]
    rank = np.arange(len(user)) - np.searchsorted(user, user) + 1
    kept = rank <= k
    return Ranking(user[kept], item[kept], rank[kept].astype(np.int32), logits[kept])


def read_users(item_side: ItemSide, users: Columns) -> Side:
    """Reads the columns of users.

    Args:
        item_side: What :func:`prepare_items` made.
        users: An encoded column per field of the users (U, …).

    Returns:
        Their side.

    Raises:
        ValueError: Columns do not fit the layout.
    """
    layout, fields = item_side.parameters.layout, item_side.plan.user_fields
    rows = count_rows(users)
    columns = complete_columns(layout, fields, users, item_side.context, item_side.crosses, rows)
    return read_side(item_side.parameters, fields, columns, rows)


def pair_vectors(
    item_side: ItemSide, users: Side, user: NDArray[np.intp], item: NDArray[np.intp]
) -> tuple[Floats, Floats]:
    """Field vectors of some users with some items, and the rest of their logits.

    Args:
        item_side: What :func:`prepare_items` made.
        users: The users.
        user: Positions of users (B,).
        item: Positions of items (B,).

    Returns:
        Field vectors (B, F, K), and linear terms with bias (B,).
    """
    parameters, plan = item_side.parameters, item_side.plan
    ours = users.take(user)
    v = ours.stacked(parameters)  # (B, F, K)
    linear = ours.linear()  # (B,)
    for chunk, rows in places_by_chunk(item_side, item):
        theirs = chunk.items.take(item[rows] - chunk.start)
        v[rows] += theirs.stacked(parameters)
        linear[rows] += chunk.linear[item[rows] - chunk.start]
        for cross, (a, b) in plan.parents.items():
            at = item_side.cross_rows(cross, ours.encoded(a)[rows], theirs.encoded(b))
            v[rows, cross] = parameters.embedding[at]
            linear[rows] += parameters.linear[at]
    return v, linear


def places_by_chunk(
    item_side: ItemSide, item: NDArray[np.integer[Any]]
) -> Iterator[tuple[Chunk, NDArray[np.intp]]]:
    """Parts rows by the chunk that their item is in.

    Args:
        item_side: What :func:`prepare_items` made.
        item: Positions of items (B,).

    Yields:
        Each chunk, and the places of its rows.
    """
    starts = np.array([chunk.start for chunk in item_side.chunks])
    number = np.searchsorted(starts, item, side="right") - 1
    for n, chunk in enumerate(item_side.chunks):
        yield chunk, np.flatnonzero(number == n)


def _by_profile(item_side: ItemSide, users: Side) -> NDArray[np.intp]:
    """Orders users so that neighbours share values, those of the first shared fields above all."""
    keys = [users.values[f].of_row for group in item_side.plan.shared for f in group.users]
    return np.lexsort(keys[::-1]) if keys else np.arange(users.rows)


def _offer_found(
    sums: PairSums, chunk: Chunk, users: Side, start: int, seen: "_Excluded", best: TopK
) -> None:
    """Offers what the kernel finds among the scores of some users with a chunk of items.

    Args:
        sums: Adds up pairs.
        chunk: The items.
        users: The users.
        start: Place of the first in the order of users.
        seen: What must not be recommended.
        best: What takes the scores.
    """
    block = FusedBlock(sums, chunk, users)
    for rows in block.parts():
        places = slice(start + rows.start, start + rows.stop)
        found = block.scores(rows, best.k, best.floor(places), seen.of(places, chunk))
        if not found.complete:
            nan = np.flatnonzero(np.isnan(found.logits))
            user = rows.start + np.searchsorted(found.ends, nan, side="right")
            found.logits[nan] = _direct(sums.item_side, chunk, users, user, found.items[nan])
        best.offer_found(places, found, chunk.start)


def _offer_all(
    sums: PairSums, chunk: Chunk, users: Side, start: int, seen: "_Excluded", best: TopK
) -> None:
    """Offers all scores of some users with a chunk of items, as numpy computes them."""
    block = _Block(sums, chunk, users)
    for first in range(0, users.rows, ROWS):
        rows = np.arange(first, min(first + ROWS, users.rows))
        logits, complete = block.logits(rows)
        if not complete:
            user, item = np.nonzero(np.isnan(logits))
            logits[user, item] = _direct(sums.item_side, chunk, users, rows[user], item)
        places = slice(start + first, start + first + len(rows))
        seen.strike(places, chunk, logits)
        best.offer(places, logits, chunk.start)


def _direct(
    item_side: ItemSide,
    chunk: Chunk,
    users: Side,
    user: NDArray[np.intp],
    item: NDArray[np.integer[Any]],
) -> Sums:
    """Logits of some pairs as the plain forward computes them in float64.

    Args:
        item_side: The model and its items.
        chunk: Some of these.
        users: The users.
        user: Positions of users (B,).
        item: Positions of items in the chunk (B,).

    Returns:
        Logits (B,).
    """
    parameters, logits = item_side.parameters.double(), np.empty(len(user), np.float32)
    for block in row_blocks(parameters, len(user)):
        v, linear = pair_vectors(item_side, users, user[block], chunk.start + item[block])
        logits[block] = linear + interactions(parameters, v.astype(np.float64))
    return logits


class _Block:
    """Some users with a chunk of items, in numpy: the reference for :class:`FusedBlock`.

    Args:
        sums: Adds up pairs.
        chunk: The items.
        users: The users.
    """

    def __init__(self, sums: PairSums, chunk: Chunk, users: Side) -> None:
        self._sums, self._chunk, self._users = sums, chunk, users
        self._shared = [
            _SharedSums.of(sums, group, chunk, users) for group in sums.item_side.plan.shared
        ]

    def logits(self, rows: NDArray[np.intp]) -> tuple[Sums, bool]:
        """Logits of some of the users.

        Args:
            rows: Positions of B users, at most ROWS.

        Returns:
            Logits (B, n), and whether they are complete: NaN where D leaves the range in which
            float32 holds it.
        """
        item_side, chunk = self._sums.item_side, self._chunk
        parameters, plan = item_side.parameters, item_side.plan
        tile = self._users.take(padded(rows))
        own = one_sided_sums(parameters, tile, plan.user_pairs, item_side.shift)
        linear = tile.linear()
        logits = np.empty((ROWS, chunk.items.rows), np.float32)
        complete = True
        for n, (columns, total) in enumerate(self._sums.tiles(plan.own, chunk, tile)):
            for part in self._shared:
                total += part.tiles[n].take(part.of_row[padded(rows)], axis=1)
            pairs = total[: item_side.pair_planes]
            pairs += own[:, :, None]
            pairs += chunk.sums[:, None, columns]
            block = total[0]
            if parameters.attention is not None:
                block /= total[1]
                block *= np.float32(parameters.scale)
                in_range = (total[1] >= _SMALLEST) & (total[1] <= _LARGEST)
                if not in_range.all():
                    block[~in_range] = np.nan
                    complete = False
            if len(total) > item_side.pair_planes:
                block += total[-1]
            block += linear[:, None]
            block += chunk.linear[columns]
            logits[:, columns] = block
        return logits[: len(rows)], complete


@dataclass(frozen=True, eq=False)
class _SharedSums:
    """Sums of pairs that depend on the user through few values, for each of these."""

    of_row: NDArray[np.intp]
    """Which value each user has (U,)."""
    tiles: list[Sums]
    """For each tile of items, the sums of each value (T, D, c)."""

    @classmethod
    def of(cls, sums: PairSums, group: Group, chunk: Chunk, users: Side) -> "_SharedSums":
        domain = users.domain(group.users)
        tiles: list[list[Sums]] = [[] for _ in chunk.tiles]
        for start in range(0, len(domain), ROWS):
            rows = users.take(padded(domain.first[start : start + ROWS]))
            for tile, (_, block) in zip(tiles, sums.tiles(group, chunk, rows), strict=True):
                tile.append(block)
        return cls(domain.of_row, [np.concatenate(tile, axis=1) for tile in tiles])


class _Excluded:
    """Pairs that must not be recommended, by places in the order of users."""

    def __init__(self, excluded: Pairs | None, order: NDArray[np.intp], items: int) -> None:
        user, item = excluded or (np.empty(0, np.intp), np.empty(0, np.intp))
        _check_positions("excluded", (user, item), len(order), items)
        place = np.empty(len(order), np.intp)
        place[order] = np.arange(len(order))
        sorting = np.lexsort((item, place[user]))
        self._place, self._item = place[user][sorting], np.asarray(item)[sorting]

    def of(self, places: slice, chunk: Chunk) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Excluded items of some users in a chunk.

        Args:
            places: B users.
            chunk: The items.

        Returns:
            Where those of each user begin (B + 1,), and their positions in the chunk, rising.
        """
        place, item = self._pairs(places, chunk)
        users = np.arange(places.stop - places.start + 1)
        return np.searchsorted(place, users).astype(np.int64), item.astype(np.int64)

    def strike(self, places: slice, chunk: Chunk, logits: Sums) -> None:
        """Sets logits of excluded pairs to -inf, in place."""
        logits[self._pairs(places, chunk)] = -np.inf

    def _pairs(self, places: slice, chunk: Chunk) -> Pairs:
        first, last = np.searchsorted(self._place, (places.start, places.stop))
        place, item = self._place[first:last] - places.start, self._item[first:last] - chunk.start
        here = (item >= 0) & (item < chunk.items.rows)
        return place[here], item[here]


def _check_k(k: int) -> None:
    if k < 1:
        raise ValueError(f"k is {k}; at least one item must be asked for")


def _check_positions(kind: str, pairs: Pairs, users: int, items: int) -> None:
    for name, positions, count in zip(("user", "item"), pairs, (users, items), strict=True):
        if len(positions) and not 0 <= positions.min() <= positions.max() < count:
            raise ValueError(
                f"{kind} {name} positions reach from {positions.min()} to {positions.max()}; "
                f"there are {count} {name}s"
            )
