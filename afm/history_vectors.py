"""The encoders of histories in numpy: ``afm.history``, which says what they are.

They compute in float64, and a product per row: so what a user's history becomes does not depend on
which other users are encoded with it, to the last bit.

Letters: B rows, N slots of a history, K embedding.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from afm.slots import Layout

Doubles = NDArray[np.float64]

_BLOCK = 2**18  # numbers that a block of rows takes: some caches


@dataclass(frozen=True, eq=False)
class SelfAttention:
    """Self-attention of a history; the letters are those of :class:`afm.history.SelfAttention`."""

    P: Doubles
    W_Q: Doubles
    W_K: Doubles
    W_V: Doubles
    W_1: Doubles
    b_1: Doubles
    W_2: Doubles
    b_2: Doubles

    @staticmethod
    def shapes(length: int, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights, for histories of N slots and embeddings of length K."""
        square, vector = (size, size), (size,)
        first = {"P": (length, size), "W_Q": square, "W_K": square, "W_V": square}
        return {**first, "W_1": square, "b_1": vector, "W_2": square, "b_2": vector}

    def __call__(self, e: Doubles, there: NDArray[np.bool_], mean: Doubles) -> Doubles:
        """Encodes histories.

        Args:
            e: Embeddings of their slots, the oldest first (B, N, K).
            there: Which slots hold a value (B, N), at least one in each row.
            mean: Mean of these embeddings (B, K).

        Returns:
            Their vectors (B, K).
        """
        after = there.sum(axis=1, keepdims=True) - there.cumsum(axis=1)  # (B, N)
        y = e + self.P[after]  # (B, N, K)
        latest = y[there & (after == 0)]  # (B, K)
        query = _times(_times(latest, self.W_Q.T), self.W_K)  # (B, K)
        scores = (y * query[:, None]).sum(axis=2) / np.sqrt(y.shape[2])  # (B, N)
        scores = np.where(there, scores, -np.inf)
        a = np.exp(scores - scores.max(axis=1, keepdims=True))  # (B, N)
        a /= a.sum(axis=1, keepdims=True)
        u: Doubles = mean + _times((a[:, :, None] * y).sum(axis=1), self.W_V.T)  # (B, K)
        hidden = np.maximum(_times(u, self.W_1.T) + self.b_1, 0)  # (B, K)
        return u + _times(hidden, self.W_2.T) + self.b_2


@dataclass(frozen=True, eq=False)
class GRU:
    """A gated recurrent unit; the letters are those of :class:`afm.history.GRU`."""

    W: Doubles
    U: Doubles
    b: Doubles
    W_O: Doubles

    @staticmethod
    def shapes(length: int, size: int) -> dict[str, tuple[int, ...]]:
        """Shapes of the weights, for histories of N slots and embeddings of length K."""
        return {"W": (3 * size, size), "U": (3 * size, size), "b": (3 * size,), "W_O": (size, size)}

    def __call__(self, e: Doubles, there: NDArray[np.bool_], mean: Doubles) -> Doubles:
        """Encodes histories.

        Args:
            e: Embeddings of their slots, the oldest first (B, N, K).
            there: Which slots hold a value (B, N), at least one in each row.
            mean: Mean of these embeddings (B, K).

        Returns:
            Their vectors (B, K).
        """
        size = e.shape[2]
        inputs = e @ self.W.T + self.b  # (B, N, 3K), a product per row
        h = np.zeros_like(mean)  # (B, K)
        for s in range(e.shape[1]):
            now = inputs[:, s]  # (B, 3K)
            gates = _sigmoid(now[:, : 2 * size] + _times(h, self.U[: 2 * size].T))  # (B, 2K)
            z, r = gates[:, :size], gates[:, size:]
            c = np.tanh(now[:, 2 * size :] + _times(r * h, self.U[2 * size :].T))  # (B, K)
            h = h + there[:, s, None] * z * (c - h)
        vectors: Doubles = mean + _times(h, self.W_O.T)
        return vectors


Encoder = SelfAttention | GRU


def weight_shapes(names: Collection[str], layout: Layout, size: int) -> dict[str, tuple[int, ...]]:
    """The weights that encode a model's histories.

    Args:
        names: Names of all its weights, which tell what encodes them.
        layout: The fields' layout.
        size: K.

    Returns:
        The shape of each by its name; nothing if their vectors are means.
    """
    kind = _kind(names)
    if kind is None:
        return {}
    return {
        f"history.{n}.{name}": shape
        for n, slots in enumerate(layout.histories.values())
        for name, shape in kind.shapes(slots.stop - slots.start, size).items()
    }


def encoders(weights: Mapping[str, NDArray[np.float32]], layout: Layout) -> dict[int, Encoder]:
    """What encodes a model's histories.

    Args:
        weights: Its weights, those of :func:`weight_shapes` among them.
        layout: The fields' layout.

    Returns:
        An encoder for each history, by the number of its field; none if their vectors are means.
    """
    kind = _kind(weights)
    if kind is None:
        return {}
    return {
        field: kind(
            **{
                part.name: weights[f"history.{n}.{part.name}"].astype(np.float64)
                for part in fields(kind)
            }
        )
        for n, field in enumerate(layout.histories)
    }


def encode(encoder: Encoder, e: NDArray[np.float32], x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Encodes histories.

    Args:
        encoder: What encodes them.
        e: Embeddings of their slots, the oldest first (B, N, K).
        x: The slots' numbers (B, N): 0 where there is no value, otherwise 1 by how many there are.

    Returns:
        Their vectors (B, K).
    """
    vectors = np.empty((len(e), e.shape[2]), np.float32)
    step = max(1, _BLOCK // (e.shape[1] * e.shape[2]))
    for start in range(0, len(e), step):
        block = slice(start, start + step)
        wide = e[block].astype(np.float64)
        mean = (wide * x[block, :, None]).sum(axis=1)  # (b, K)
        vectors[block] = encoder(wide, x[block] != 0, mean)
    return vectors


def _kind(names: Collection[str]) -> type[Encoder] | None:
    if "history.0.W_Q" in names:
        return SelfAttention
    return GRU if "history.0.W_O" in names else None


def _times(rows: Doubles, matrix: Doubles) -> Doubles:
    """Each row (B, K) times a matrix; of all rows at once the last bit would depend on B."""
    product: Doubles = (rows[:, None] @ matrix)[:, 0]
    return product


def _sigmoid(x: Doubles) -> Doubles:
    """1 / (1 + exp(-x)), without overflow."""
    gate: Doubles = 0.5 + 0.5 * np.tanh(0.5 * x)
    return gate
