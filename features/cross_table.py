"""The rule by which two indices become the index of their pair: by a vocabulary, or by hash.

Both sides look crosses up here: ``features/cross.py`` when it writes rows, ``afm/scoring.py`` when
it scores a user with an item that never met in a row.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from features.spec import FIRST, MISSING, UNSEEN


class CrossTable(Protocol):
    """Gives pairs of indices an index of their own."""

    def look_up(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int32]:
        """The index of each pair: missing if a parent is missing, unseen if it has none.

        Args:
            a: Indices of the first parent.
            b: Indices of the second parent, of a shape that broadcasts with a's.

        Returns:
            Indices of the cross, of the common shape.
        """


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """A vocabulary: which pairs of indices have an index of their own.

    V is the number of pairs in the vocabulary.
    """

    codes: NDArray[np.int64]
    """The code of each pair, strictly rising (V,)."""
    indices: NDArray[np.int32]
    """The index of each pair (V,)."""
    cardinality_b: int
    """Cardinality of the second parent."""

    def __post_init__(self) -> None:
        if self.codes.shape != self.indices.shape:
            raise ValueError(f"{len(self.codes)} codes, but {len(self.indices)} indices")
        falls = np.flatnonzero(np.diff(self.codes) <= 0)
        if len(falls):
            raise ValueError(
                f"codes must rise strictly; {self.codes[falls[0]]} is followed by "
                f"{self.codes[falls[0] + 1]}"
            )

    def look_up(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int32]:
        """As :meth:`CrossTable.look_up`; a pair that is not listed is unseen.

        >>> table = ListedPairs(np.array([8, 11]), np.array([2, 3], np.int32), cardinality_b=3)
        >>> table.look_up(np.array([2, 3, 3, 0]), np.array([2, 2, 1, 2]))
        array([2, 3, 1, 0], dtype=int32)
        """
        codes = codes_of(a, b, self.cardinality_b)
        place = np.searchsorted(self.codes, codes)
        # One entry more, so that a code beyond the last finds a place that is not its own.
        known = np.append(self.codes, -1)[place] == codes
        index = np.where(known, np.append(self.indices, UNSEEN)[place], UNSEEN)
        return np.where((a == MISSING) | (b == MISSING), MISSING, index).astype(np.int32)


@dataclass(frozen=True)
class HashedPairs:
    """Pairs spread over a number of indices by hash."""

    buckets: int
    cardinality_b: int
    """Cardinality of the second parent."""

    def look_up(self, a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.int32]:
        """As :meth:`CrossTable.look_up`; a pair is unseen where a parent is.

        >>> HashedPairs(1000, 3).look_up(np.array([2, 2, 1, 0]), np.array([2, 2, 2, 2]))
        array([122, 122,   1,   0], dtype=int32)
        """
        codes = codes_of(a, b, self.cardinality_b)
        index = (mixed(codes.astype(np.uint64)) % np.uint64(self.buckets)).astype(np.int64) + FIRST
        index = np.where((a == UNSEEN) | (b == UNSEEN), UNSEEN, index)
        return np.where((a == MISSING) | (b == MISSING), MISSING, index).astype(np.int32)


def codes_of(a: NDArray[Any], b: NDArray[Any], cardinality_b: int) -> NDArray[np.int64]:
    """A number for each pair of indices: a · cardinality_b + b.

    Args:
        a: Indices of the first parent.
        b: Indices of the second parent, of a shape that broadcasts with a's.
        cardinality_b: Of the second parent.

    Returns:
        Codes, of the common shape.
    """
    codes: NDArray[np.int64] = a.astype(np.int64) * cardinality_b + b
    return codes


def mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea and Flood, OOPSLA 2014): every bit depends on all."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
