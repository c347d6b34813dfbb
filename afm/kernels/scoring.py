"""Scores of users with items, and the best of them, by ``scoring.cpp``, which says how.

It runs on one thread, and never imports torch: processes that score start faster without.

Letters: r = ROWS users, n items, D values of an item field or kinds of user, K embedding, A
attention units, B users, k items kept.
"""

from collections.abc import Sequence
from ctypes import CDLL, POINTER, Structure, byref, c_float, c_int64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from afm.forward import Attention
from afm.kernels.compiled import load
from afm.pair_sums import ROWS

PLANES = 3
"""Planes of sums, always: N, D and linear terms."""

_Floats = NDArray[np.float32]
_Places = NDArray[np.int64]


@cache
def library() -> CDLL | None:
    """Loads the kernel, and compiles it where that has not been done: a few seconds, once.

    Returns:
        The kernel; None where it cannot be compiled, which is logged once.
    """
    loss = "scoring goes without the fused kernel, several times slower"
    return load("vectors.h", "scoring.cpp", otherwise=loss)


class Network:
    """The attention network.

    Args:
        attention: Its weights.
    """

    def __init__(self, attention: Attention) -> None:
        self._arrays = [getattr(attention, name).astype(np.float32, order="C") for name in "Wbhp"]
        units, size = attention.W.shape
        self.by_address = _Network(size, units, *map(_address, self._arrays))


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


class Pairs:
    """Some pairs of fields, for a tile of users and all items of a chunk.

    Args:
        network: The attention network.
        users: How many of the r users are to be scored, the first ones.
        items: n.
        products: Pairs of a user field and an item field.
        given: Other pairs.
    """

    def __init__(
        self,
        network: Network,
        users: int,
        items: int,
        products: Sequence[Product],
        given: Sequence[Given],
    ) -> None:
        self._users, self._items = users, items
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
            )
            for p in products
        ]
        some = [_Given(_address(g.sums), _address_or_null(g.of_item)) for g in given]
        self._pairs = _Pairs(
            users,
            items,
            len(product),
            len(some),
            (_Product * len(product))(*product),
            (_Given * len(some))(*some),
        )

    def sums(self) -> _Floats:
        """Their sums (users, PLANES, n)."""
        out = np.empty((ROWS, PLANES, self._items), np.float32)
        self._call("pair_sums", c_void_p(_address(out)))
        return out[: self._users]

    def scores(self, parts: Sequence[Part], own: _Floats, scale: float) -> tuple[_Floats, bool]:
        """Scores, once all other sums are added.

        Args:
            parts: Sums that several users have in common.
            own: Sums that a user has with every item (PLANES, r).
            scale: Of N/D.

        Returns:
            Logits (users, n), and whether they are complete: NaN where D leaves the range in which
            float32 holds it, or anything else was NaN.
        """
        out = np.empty((ROWS, self._items), np.float32)
        addresses = np.stack(
            [_address(p.sums) + p.of_user * p.sums.strides[0] for p in parts], axis=1
        )  # (r, parts)
        rest = _Rest(len(parts), _address(addresses), _address(own), scale)
        lacking = self._call("scores", byref(rest), c_void_p(_address(out)))
        return out[: self._users], not lacking

    def _call(self, function: str, *arguments: object) -> int:
        result: int = _kernel()[function](byref(self._network), byref(self._pairs), *arguments)
        return result


@dataclass(frozen=True, eq=False)
class Looked:
    """A field of some rows, as its values and who has which."""

    vectors: _Floats
    """Vectors of its values (D, K)."""
    of_row: _Places
    """Which of these each row has (B,)."""


def explain(
    attention: Attention, fields: Sequence[Looked], kept: int, scale: float
) -> tuple[NDArray[np.int32], _Floats, _Floats]:
    """The pairs of fields with the largest attention in each row, falling, equal ones by number.

    Args:
        attention: The attention network.
        fields: Each field of the rows.
        kept: Pairs per row, at most all.
        scale: Of what a pair adds to the logit.

    Returns:
        Numbers of the pairs, their attention, and what they add to the logit, each (B, kept).
    """
    rows = len(fields[0].of_row)
    pair = np.empty((rows, kept), np.int32)
    weight, added = np.empty((2, rows, kept), np.float32)
    bias = attention.pair_bias.astype(np.float32)
    some = _Rows(
        rows,
        len(fields),
        kept,
        (c_void_p * len(fields))(*(_address(f.vectors) for f in fields)),
        (c_void_p * len(fields))(*(_address(f.of_row) for f in fields)),
        _address(bias),
        scale,
    )
    network = Network(attention)
    out = (c_void_p(array.ctypes.data) for array in (pair, weight, added))
    _kernel().explain(byref(network.by_address), byref(some), *out)
    return pair, weight, added


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
    ]


class _Given(Structure):
    _fields_ = [("sums", c_void_p), ("of_item", c_void_p)]


class _Pairs(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("users", "items", "products", "given")),
        ("product", POINTER(_Product)),
        ("some", POINTER(_Given)),
    ]


class _Rows(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("rows", "fields", "kept")),
        *((name, POINTER(c_void_p)) for name in ("vectors", "of_row")),
        ("bias", c_void_p),
        ("scale", c_float),
    ]


class _Rest(Structure):
    _fields_ = [("parts", c_int64), ("part", c_void_p), ("own", c_void_p), ("scale", c_float)]
