"""Lazy Adam: a step touches the rows that its batch looks up, and costs nothing for the others.

An embedding table may have millions of rows, of which a batch looks up some thousands. So their
gradients are kept per look-up (see :func:`afm.objective.gradients`), summed per row and, of several
ranks, gathered; nothing as large as the table is made, sent or gone through.

Like attention, it is there twice: in plain torch, for every device and type, and as a kernel for
float32 on CPUs.

Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
"""

import math

import torch
from torch import Tensor

from afm.kernels import rows as kernel
from afm.ranks import Ranks

BETAS, EPSILON = (0.9, 0.999), 1e-8  # as everywhere


class LazyAdam:
    """Adam on the rows of the embedding table and of the linear weights.

    The semantics are those of :class:`torch.optim.SparseAdam`, not of dense Adam: a row that is not
    looked up keeps its weights and its moments, which decay only when it is; bias correction
    counts all steps. L2 likewise acts on rows that are looked up (:func:`afm.objective.penalty`).

    Args:
        embedding: The embedding table (R, K), changed in place.
        linear: The linear weights (R,), changed in place.
        learning_rate: Adam's step size.

    Source: Kingma & Ba, "Adam", ICLR 2015, algorithm 1, with ε outside of the correction.
    """

    def __init__(self, embedding: Tensor, linear: Tensor, learning_rate: float) -> None:
        size, k = embedding.shape
        self.embedding, self.linear = embedding.detach(), linear.detach()
        self.learning_rate = learning_rate
        self.steps = torch.zeros((), dtype=torch.int64)
        # One array, so that what a step needs of a row lies together: first and second moments of
        # its embedding, and last that of its linear weight.
        # Written here: with new_zeros, steps would wait for every page that is touched first.
        self.moments = embedding.new_empty(size, 2, k + 1).zero_()

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return {"steps": self.steps, "moments": self.moments}

    @torch.no_grad()
    def step(self, rows: Tensor, embedding: Tensor, linear: Tensor) -> None:
        """Steps along the summed gradients of the rows that were looked up.

        Args:
            rows: Rows that were looked up (N,), integers.
            embedding: Gradients of their embeddings (N, K).
            linear: Gradients of their linear weights (N,).
        """
        self.steps += 1
        t, (beta1, beta2) = int(self.steps), BETAS
        rate = self.learning_rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        tables = (self.embedding, self.linear, self.moments)
        fits = kernel.serves(embedding, linear, *tables)
        update = kernel.lazy_adam if fits else plain_update
        update(rows, embedding, linear, tables, rate=rate, betas=BETAS, epsilon=EPSILON)


def looked_up(
    rows: Tensor, x: Tensor, embedding: Tensor, linear: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The look-ups of a batch: its slots but for those of 0, most of which only fill up lists.

    Args:
        rows: Embedding rows (B, S).
        x: Their numbers (B, S).
        embedding: Gradients of the slots' embeddings (B, S, K).
        linear: Gradients of the slots' linear weights (B, S).

    Returns:
        Rows (N,), gradients of their embeddings (N, K) and of their linear weights (N,).
    """
    if x.all():
        return rows.flatten(), embedding.flatten(0, 1), linear.flatten()
    there = x != 0
    return rows[there], embedding[there], linear[there]


def of_all_ranks(
    ranks: Ranks, rows: Tensor, embedding: Tensor, linear: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Looked-up rows and their gradients, of all ranks; every rank has to call it.

    Args:
        ranks: The ranks.
        rows: Rows that this one looked up (N,), perhaps none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).

    Returns:
        The same of all ranks, on each in the same order. A single rank's are returned as they are;
        of several, each has summed its own before it sends them.
    """
    if ranks.size == 1:
        return rows, embedding, linear
    distinct, sums = sum_rows(rows, embedding, linear)
    everyones_rows, everyones = ranks.gather(distinct, sums)
    return everyones_rows, everyones[:, :-1], everyones[:, -1]


def sum_rows(rows: Tensor, embedding: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Sums gradients per row.

    Args:
        rows: Rows that were looked up (N,), integers.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).

    Returns:
        The distinct rows, rising (U,), and their summed gradients, the linear weight's last
        (U, K + 1).
    """
    fits = kernel.serves(embedding, linear)
    return (kernel.sum_rows if fits else plain_sum_rows)(rows, embedding, linear)


def plain_sum_rows(rows: Tensor, embedding: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`sum_rows` in plain torch; repeatable on GPUs too, as sums of atomics are not.

    Args:
        rows: Rows that were looked up (N,), integers.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).

    Returns:
        Distinct rows (U,) and their summed gradients (U, K + 1).
    """
    grads = torch.cat([embedding, linear.unsqueeze(1)], dim=1)  # (N, K + 1)
    size = (int(rows.max()) + 1 if len(rows) else 1, grads.shape[1])
    each = torch.sparse_coo_tensor(rows.unsqueeze(0), grads, size, check_invariants=False)
    summed = each.coalesce()
    return summed.indices()[0], summed.values()


def plain_update(
    rows: Tensor,
    embedding: Tensor,
    linear: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    *,
    rate: float,
    betas: tuple[float, float],
    epsilon: float,
) -> None:
    """A step of lazy Adam, as one reads it.

    Args:
        rows: Rows that were looked up (N,), integers.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        tables: Embeddings (R, K), linear weights (R,) and moments (R, 2, K + 1), changed in place.
        rate: The step size, with the bias of the moments corrected.
        betas: Decay of the moments.
        epsilon: Added to the denominator.
    """
    V, w, moments = tables
    distinct, sums = plain_sum_rows(rows, embedding, linear)
    decay = sums.new_tensor(betas).unsqueeze(1)  # (2, 1)
    powers = torch.stack([sums, sums.square()], dim=1)  # (U, 2, K + 1)
    moments[distinct] = now = powers.lerp(moments[distinct], decay)
    steps = rate * now[:, 0] / (now[:, 1].sqrt() + epsilon)  # (U, K + 1)
    V[distinct] -= steps[:, :-1]
    w[distinct] -= steps[:, -1]
