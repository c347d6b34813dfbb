"""Gradients of the rows that a batch looks up.

An embedding table may have millions of rows, of which a batch looks up some thousands. So their
gradients are kept per look-up (see :func:`afm.objective.gradients`), summed per row and, of several
ranks, gathered; nothing as large as the table is made, sent or gone through.

Letters: B rows, S slots, N look-ups, U distinct rows among them, K embedding.
"""

import torch
from torch import Tensor

from afm.kernels import rows as kernel
from afm.kernels.rows import ALL, Share
from afm.ranks import Ranks


def looked_up(
    rows: Tensor, x: Tensor | None, embedding: Tensor, linear: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The look-ups of a batch: its slots but for those of 0, most of which only fill up lists.

    Args:
        rows: Embedding rows (B, S).
        x: Their numbers (B, S); None if none is 0.
        embedding: Gradients of the slots' embeddings (B, S, K).
        linear: Gradients of the slots' linear weights (B, S).

    Returns:
        Rows (N,), gradients of their embeddings (N, K) and of their linear weights (N,).
    """
    if x is None or x.all():
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


def sum_rows(
    rows: Tensor, embedding: Tensor, linear: Tensor, share: Share = ALL
) -> tuple[Tensor, Tensor]:
    """Sums gradients per row.

    Args:
        rows: Rows that were looked up (N,), integers; below 0 those that count for none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        share: Which of the rows are wanted.

    Returns:
        The distinct rows, rising (U,), and their summed gradients, the linear weight's last
        (U, K + 1).
    """
    fits = kernel.serves(embedding, linear)
    return (kernel.sum_rows if fits else plain_sum_rows)(rows, embedding, linear, share)


def plain_sum_rows(
    rows: Tensor, embedding: Tensor, linear: Tensor, share: Share = ALL
) -> tuple[Tensor, Tensor]:
    """:func:`sum_rows` in plain torch; repeatable on GPUs too, as sums of atomics are not.

    Args:
        rows: Rows that were looked up (N,), integers; below 0 those that count for none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        share: Which of the rows are wanted.

    Returns:
        Distinct rows (U,) and their summed gradients (U, K + 1).
    """
    grads = torch.cat([embedding, linear.unsqueeze(1)], dim=1)  # (N, K + 1)
    wanted = (rows >= 0) & (rows % share.of == share.number)
    rows, grads = rows[wanted], grads[wanted]
    size = (int(rows.max()) + 1 if len(rows) else 1, grads.shape[1])
    each = torch.sparse_coo_tensor(rows.unsqueeze(0), grads, size, check_invariants=False)
    summed = each.coalesce()
    return summed.indices()[0], summed.values()
