"""Scores of users with items, the best of them, and why: by C++ beside this file, which says how.

It runs on one thread, and never imports torch: processes that score start faster without.

Letters: B users, r = B rounded up to LANES, n items, D values of an item field or kinds of user, K
embedding, A attention units, k items kept.
"""

from collections.abc import Sequence
from ctypes import CDLL, POINTER, Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from afm.forward import Attention
from afm.kernels.compiled import load

PLANES = 3
"""Planes of sums, always: N, D and linear terms."""
LANES = 16
"""Users come in multiples of it: as many as the longest vector registers hold."""

SOURCE = ("vectors.h", "network.h", "products.cpp", "top_k.cpp", "scoring.cpp", "explain.cpp")
"""What the kernel is made of."""

_Floats = NDArray[np.float32]
_Places = NDArray[np.int64]


@cache
def library() -> CDLL | None:
    """Loads the kernel, and compiles it where that has not been done: a few seconds, once.

    Returns:
        The kernel; None where it cannot be compiled, which is logged once.
    """
    loss = "scoring goes without the fused kernel, several times slower"
    return load(*SOURCE, otherwise=loss)


class Network:
    """The attention network.

    Args:
        attention: Its weights.
    """

    def __init__(self, attention: Attention) -> None:
        self._arrays = [getattr(attention, name).astype(np.float32, order="C") for name in "Wbhp"]
        units, size = attention.W.shape
        self.by_address = _Network(size, units, *map(_address, self._arrays))


class Bins(NamedTuple):
    """Values of an item field by their size, so that what they attract can be bounded."""

    of_value: _Places
    """Which bin each value is in (D,)."""
    low: _Floats
    """The least norm of a bin's vectors; of a field of numbers, the least number."""
    high: _Floats
    """The largest."""


@dataclass(frozen=True, eq=False)
class Product:
    """A pair of a user field and an item field."""

    u: _Floats
    """Vectors of the user field (r, K)."""
    x: _Floats
    """Vectors of the item field (D, K); of a field of numbers, these (D,)."""
    base: _Floats | None
    """What such a field multiplies by its number (K,)."""
    of_item: _Places | None
    """Which of these each item has (n,); None where item i has vector i."""
    bias: float
    """Added to its attention logits."""
    bins: Bins | None
    """If given, attention is bounded first, and computed where it may matter."""


@dataclass(frozen=True, eq=False)
class Given:
    """Sums of another pair."""

    sums: _Floats
    """(D, PLANES, r)."""
    of_item: _Places | None
    """Which of these each item has (n,); None where item i has value i."""


@dataclass(frozen=True, eq=False)
class Part:
    """Sums that several users have in common."""

    sums: _Floats
    """(D, PLANES, n)."""
    of_user: NDArray[np.intp]
    """Which of these each user has (r,). It is cheapest where neighbours have the same."""


@dataclass(frozen=True, eq=False)
class Wanted:
    """Which items are asked for: those that may be among the best of a user."""

    k: int
    room: float
    """More than rounding can move a score, but for linear terms."""
    floor: _Floats
    """What the k-th best of each user scores so far, or -inf (r,)."""
    first: _Places
    """Where a user's excluded items begin (r + 1,)."""
    excluded: _Places
    """Their positions, rising for each user."""


class Found(NamedTuple):
    """Items that may be among the best, of one user after the other, by position."""

    ends: _Places
    """Where the items of each user end (B,)."""
    items: NDArray[np.int32]
    logits: _Floats
    complete: bool
    """False if there is NaN: D leaves the range in which float32 holds it, or anything was NaN."""


class Pairs:
    """Some pairs of fields, for some users and all items of a chunk.

    Args:
        network: The attention network.
        users: How many of the r users are to be scored, the first ones.
        stride: r.
        items: n.
        products: Pairs of a user field and an item field.
        given: Other pairs.
    """

    def __init__(
        self,
        network: Network,
        users: int,
        stride: int,
        items: int,
        products: Sequence[Product],
        given: Sequence[Given],
    ) -> None:
        self._users, self._stride, self._items = users, stride, items
        self._kept = (network, products, given)  # the kernel reads them by their addresses
        self._network = network.by_address
        product = [
            _Product(
                _address(p.u),
                _address(p.x),
                _address_or_null(p.base),
                _address_or_null(p.of_item),
                len(p.x),
                p.bias,
                *((None, 0, None, None) if p.bins is None else _of_bins(p.bins)),
            )
            for p in products
        ]
        some = [_Given(_address(g.sums), _address_or_null(g.of_item)) for g in given]
        self._pairs = _Pairs(
            users,
            stride,
            items,
            len(product),
            len(some),
            (_Product * len(product))(*product),
            (_Given * len(some))(*some),
        )

    def sums(self) -> _Floats:
        """Their sums (users, PLANES, n)."""
        out = np.empty((self._stride, PLANES, self._items), np.float32)
        self._call("pair_sums", c_void_p(_address(out)))
        return out[: self._users]

    def scores(self, parts: Sequence[Part], own: _Floats, scale: float, wanted: Wanted) -> Found:
        """Scores, once all other sums are added, of items that may be among the best.

        Args:
            parts: Sums that several users have in common.
            own: Sums that a user has with every item (PLANES, r).
            scale: Of N/D.
            wanted: What is asked for.
        """
        ends = np.empty(self._users, np.int64)
        items = np.empty(self._users * self._items, np.int32)  # never touched but where it is used
        logits = np.empty(self._users * self._items, np.float32)
        addresses = np.stack(
            [_address(p.sums) + p.of_user * p.sums.strides[0] for p in parts], axis=1
        )  # (r, parts)
        rest = _Rest(len(parts), _address(addresses), _address(own), scale)
        asked = _Wanted(
            wanted.k,
            wanted.room,
            *(_address(array) for array in (wanted.floor, wanted.first, wanted.excluded)),
        )
        out = (c_void_p(array.ctypes.data) for array in (ends, items, logits))
        lacking = self._call("scores", byref(rest), byref(asked), *out)
        count = ends[-1]
        return Found(ends, items[:count], logits[:count], not lacking)

    def _call(self, function: str, *arguments: object) -> int:
        result: int = _kernel()[function](byref(self._network), byref(self._pairs), *arguments)
        return result


@dataclass(frozen=True, eq=False)
class Looked:
    """A field of some rows, as its values and who has which."""

    vectors: _Floats
    """Vectors of its values (D, K)."""
    value: _Places
    """Which of these some users or items have."""
    place: _Places
    """Which of these each row has (B,)."""


@dataclass(frozen=True, eq=False)
class Known:
    """Attention logits of some pairs, without their bias, of which several rows have the same."""

    pairs: _Places
    """Numbers of the pairs (m,)."""
    logits: _Floats
    """(kinds, m)"""
    of_row: _Places
    """Which of these each row has (B,)."""


def pair_logits(attention: Attention, fields: Sequence[Looked]) -> _Floats:
    """Attention logits of all pairs of some fields, without their bias.

    Args:
        attention: The attention network.
        fields: Each field of the rows.

    Returns:
        Logits (B, pairs), pairs in lexicographic order.
    """
    rows, count = len(fields[0].place), len(fields) * (len(fields) - 1) // 2
    out = np.empty((rows, count), np.float32)
    network, some = Network(attention), _rows(fields)
    _kernel().pair_logits(byref(network.by_address), byref(some), c_void_p(_address(out)))
    return out


def explain(
    attention: Attention, fields: Sequence[Looked], known: Sequence[Known], kept: int, scale: float
) -> tuple[NDArray[np.int32], _Floats, _Floats]:
    """The pairs of fields with the largest attention in each row, falling, equal ones by number.

    Args:
        attention: The attention network.
        fields: Each field of the rows.
        known: Logits that need not be computed for each row.
        kept: Pairs per row, at most all.
        scale: Of what a pair adds to the logit.

    Returns:
        Numbers of the pairs, their attention, and what they add to the logit, each (B, kept).
    """
    rows = len(fields[0].place)
    pair = np.empty((rows, kept), np.int32)
    weight, added = np.empty((2, rows, kept), np.float32)
    bias = attention.pair_bias.astype(np.float32)
    logits = [
        _Known(len(k.pairs), *(_address(array) for array in (k.pairs, k.logits, k.of_row)))
        for k in known
    ]
    wish = _Wish(kept, _address(bias), scale, len(known), (_Known * len(known))(*logits))
    network, some = Network(attention), _rows(fields)
    out = (c_void_p(array.ctypes.data) for array in (pair, weight, added))
    _kernel().explain(byref(network.by_address), byref(some), byref(wish), *out)
    return pair, weight, added


def _rows(fields: Sequence[Looked]) -> "_Rows":
    arrays = zip(*((f.vectors, f.value, f.place) for f in fields), strict=True)
    addresses = ((c_void_p * len(fields))(*map(_address, some)) for some in arrays)
    return _Rows(len(fields[0].place), len(fields), *addresses)


def keep_best(logits: _Floats, first: int, best: _Floats, items: NDArray[np.int64]) -> None:
    """Merges logits of some users into the best of each, as ``afm.top_k.TopK.offer`` says.

    Args:
        logits: Logits of items ``first``, ``first + 1``, … (B, n).
        first: Position of the first item.
        best: The best logits so far (B, k), changed in place.
        items: Their positions (B, k), changed in place.
    """
    sizes = (*logits.shape, best.shape[1])  # B, n, k
    arrays = (c_void_p(_address(array)) for array in (best, items))
    _kernel().keep_best(*map(c_int64, sizes), c_void_p(_address(logits)), c_int64(first), *arrays)


def keep_found(found: Found, first: int, best: _Floats, items: NDArray[np.int64]) -> None:
    """Merges what :meth:`Pairs.scores` found into the best of each user, as :func:`keep_best` does.

    Args:
        found: Items of B users.
        first: Position of the chunk's first item.
        best: The best logits so far (B, k), changed in place.
        items: Their positions (B, k), changed in place.
    """
    found_at = (c_void_p(array.ctypes.data) for array in found[:3])
    arrays = (c_void_p(_address(array)) for array in (best, items))
    sizes = (c_int64(size) for size in best.shape)
    _kernel().keep_found(*sizes, *found_at, c_int64(first), *arrays)


def _of_bins(bins: Bins) -> tuple[int, int, int, int]:
    return _address(bins.of_value), len(bins.low), _address(bins.low), _address(bins.high)


def _kernel() -> CDLL:
    kernel = library()
    assert kernel is not None  # as the caller has seen
    return kernel


def _address(array: NDArray[Any]) -> int:
    assert array.flags.c_contiguous and array.dtype in (np.float32, np.int64)
    return array.ctypes.data


def _address_or_null(array: NDArray[Any] | None) -> int | None:
    return None if array is None else _address(array)


class _Network(Structure):
    _fields_ = [("K", c_int64), ("A", c_int64), *((name, c_void_p) for name in "Wbhp")]


class _Product(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("u", "x", "base", "of_item")),
        ("values", c_int64),
        ("bias", c_float),
        ("bin", c_void_p),
        ("bins", c_int64),
        ("low", c_void_p),
        ("high", c_void_p),
    ]


class _Given(Structure):
    _fields_ = [("sums", c_void_p), ("of_item", c_void_p)]


class _Pairs(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("users", "stride", "items", "products", "given")),
        ("product", POINTER(_Product)),
        ("some", POINTER(_Given)),
    ]


class _Rows(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "fields")),
        *((name, POINTER(c_void_p)) for name in ("vectors", "value", "place")),
    ]


class _Known(Structure):
    _fields_ = [("pairs", c_int64), *((name, c_void_p) for name in ("pair", "logits", "of_row"))]


class _Wish(Structure):
    _fields_ = [
        ("kept", c_int64),
        ("bias", c_void_p),
        ("scale", c_float),
        ("knowns", c_int64),
        ("known", POINTER(_Known)),
    ]


class _Rest(Structure):
    _fields_ = [("parts", c_int64), ("part", c_void_p), ("own", c_void_p), ("scale", c_float)]


class _Wanted(Structure):
    _fields_ = [
        ("k", c_int64),
        ("room", c_float),
        *((name, c_void_p) for name in ("floor", "first", "excluded")),
    ]
