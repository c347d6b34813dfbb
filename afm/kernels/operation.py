"""What the kernels of attention_pool have in common: its inputs, and its place in autograd."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Forward = Callable[[Sequence[Tensor], bool], tuple[Tensor, list[Tensor]]]
"""Takes the inputs, contiguous, and whether backward will follow. Returns pooled interactions, and
what backward needs beside the inputs."""
Backward = Callable[[Sequence[Tensor], Sequence[Tensor], Tensor], Sequence[Tensor]]
"""Takes the inputs, what forward has kept, and the gradient of the pooled interactions, contiguous.
Returns the gradients of the inputs."""


def operate(forward: Forward, backward: Backward, *inputs: Tensor) -> Tensor:
    """Pools interactions by a kernel, so that autograd can go back through it.

    Args:
        forward: Its forward.
        backward: Its backward.
        inputs: Those of attention_pool.

    Returns:
        Pooled interactions (B, K).
    """
    if torch.is_grad_enabled() and any(t.requires_grad for t in inputs):
        pooled: Tensor = _Operation.apply(forward, backward, *inputs)  # type: ignore[no-untyped-call]
        return pooled
    return forward([t.contiguous() for t in inputs], False)[0]


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, forward: Forward, backward: Backward, *inputs: Tensor) -> Tensor:
        contiguous = [t.contiguous() for t in inputs]
        pooled, kept = forward(contiguous, True)
        ctx.save_for_backward(*contiguous, *kept)
        ctx.inputs, ctx.kernel = len(inputs), backward
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        inputs, kept = saved[: ctx.inputs], saved[ctx.inputs :]
        return (None, None, *ctx.kernel(inputs, kept, grad.contiguous()))


def agree(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> bool:
    """Whether the inputs of attention_pool agree with each other; plain torch says what is wrong.

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,).

    Returns:
        True where they are of these shapes, F > 1, and all of one type on one device.
    """
    inputs = (v, W, b, h, pair_bias)
    if not all(t.device == v.device and t.dtype == v.dtype for t in inputs):
        return False
    fields, units = v.shape[1], len(W)
    shapes = (v.shape[::2], W.shape, b.shape, h.shape, pair_bias.shape)
    fit = ((len(v), W.shape[1]), (units, v.shape[2]), (units,), (units,), (math.comb(fields, 2),))
    return shapes == fit and fields > 1
