"""What training minimises: the mean loss of a step's rows, and penalties; and its gradients.

Letters: B rows, S slots, K embedding.
"""

from typing import TypeGuard

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from afm.kernels import step as kernel
from afm.model import AFM, FM
from conf.training import L2, Loss, TrainConfig


def gradients(
    model: FM,
    rows: Tensor,
    x: Tensor,
    labels: Tensor,
    weights: Tensor | None,
    settings: TrainConfig,
    *,
    global_rows: int,
    size: int,
    shrinkage: float = 1.0,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """One rank's share of a step's gradients; the shares of all ranks add up to those of the loss,
    the mean over the rows of all ranks, with its penalties.

    Gradients of the two tables end at what was looked up, for as a whole they would be as large as
    the tables are. Those of the other weights are left in ``Tensor.grad``.

    Args:
        model: The model, in training.
        rows: Embedding rows (B, S).
        x: Their numbers (B, S).
        labels: 0 or 1 (B,).
        weights: What each row counts (B,); 1 if None.
        settings: The ``train`` section.
        global_rows: Rows of the step over all ranks.
        size: How many ranks there are.
        shrinkage: What the embeddings are to be multiplied with (:mod:`afm.lazy_rows`).
        into: Where to put the gradients of the slots (B, S, K) and (B, S), instead of into new
            memory.

    Returns:
        The sum of the rows' losses, and the gradients of the slots' embeddings (B, S, K) and of
        their linear weights (B, S).
    """
    l2 = settings.l2
    if kernel_serves(model, settings):
        found = kernel.gradients(
            *(model, rows, x, labels, weights),
            global_rows=global_rows,
            l2=l2.embedding,
            shrinkage=shrinkage,
            into=into,
        )
        W = model.attention.W
        if l2.attention and W.grad is not None:
            W.grad += 2 * l2.attention / size * W.detach()
        return found
    vectors, linear = (t.detach() for t in model.look_up(rows))
    if shrinkage != 1:
        vectors *= shrinkage  # a copy of what the table has
    vectors.requires_grad_()
    linear.requires_grad_()
    with torch.autocast(rows.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        scores = model.logits(vectors, linear, x)
    sum_of_losses = losses(scores, labels, settings.loss, weights).sum()
    share = penalty(model, vectors, x, l2, global_rows=global_rows, size=size)
    (sum_of_losses / global_rows + share).backward()  # type: ignore[no-untyped-call]
    assert vectors.grad is not None and linear.grad is not None  # after backward
    if into is None:
        return sum_of_losses.detach(), vectors.grad, linear.grad
    return sum_of_losses.detach(), into[0].copy_(vectors.grad), into[1].copy_(linear.grad)


def kernel_serves(model: FM, settings: TrainConfig) -> TypeGuard[AFM]:
    """Whether :func:`gradients` are one operation of the kernel.

    Args:
        model: The model, in training.
        settings: The ``train`` section.
    """
    is_its = settings.loss == "log" and settings.precision == "float32"
    return is_its and kernel.serves(model)


def losses(scores: Tensor, labels: Tensor, loss: Loss, weights: Tensor | None = None) -> Tensor:
    """The loss of each row, times its weight if it has one.

    Args:
        scores: Scores (B,); see :mod:`afm.link` for what they stand for.
        labels: 0 or 1 (B,).
        loss: ``log``, or ``squared``: (ŷ - y)² with y = -1 for the label 0.
        weights: What each row counts (B,); 1 if left out.

    Returns:
        Losses (B,).

    Source: for ``squared`` Xiao et al., IJCAI 2017, eq. 10.
    """
    if loss == "squared":
        each = (scores - (2.0 * labels - 1.0)).square()
    else:
        each = binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return each if weights is None else each * weights


def penalty(
    model: FM, vectors: Tensor, x: Tensor, l2: L2, *, global_rows: int, size: int
) -> Tensor:
    """One rank's share of the L2 penalties; the shares of all ranks add up to

    λ_embedding · (mean over the step's rows of Σ_s ‖V[row_s]‖²) + λ_attention · ‖W‖².

    Args:
        model: The model.
        vectors: The slots' embeddings (B, S, K).
        x: The slots' numbers (B, S); slots of 0 do not count.
        l2: The two λ.
        global_rows: Rows of the step over all ranks.
        size: How many ranks there are.

    Returns:
        A scalar.
    """
    total = model.bias.new_zeros(())
    if l2.embedding:
        # Only what the batch looks up: Adam steps by its rate however small a gradient is, so
        # weight decay over the whole table would wipe out the embeddings of rare values.
        squares = vectors.square().sum(dim=2)  # (B, S)
        total = total + l2.embedding * (squares * (x != 0)).sum() / global_rows
    if l2.attention and isinstance(model, AFM):
        total = total + l2.attention * model.attention.W.square().sum() / size
    return total
