"""attention_pool for CPUs: ``attention.cpp``, which has the algebra, as an operation of torch.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, K embedding, A attention units.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from afm.kernels.operation import agree, operate
from afm.kernels.training import library

LANES = 16  # rows that are kept for backward come in multiples of it


def serves(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> bool:
    """Whether the kernel computes this.

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,).

    Returns:
        True where all are float32 on the CPU and of these shapes, F > 1, and the kernel can be had.
    """
    return (
        v.device.type == "cpu"
        and v.dtype == torch.float32
        and agree(v, W, b, h, pair_bias)
        and library() is not None
    )


def attention_pool(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> Tensor:
    """As :func:`afm.attention.attention_pool`, for inputs that the kernel :func:`serves`.

    It runs on as many threads as torch does; their number does not change the result.

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,).

    Returns:
        Pooled interactions (B, K).
    """
    return operate(_forward, _backward, v, W, b, h, pair_bias)


def _forward(inputs: Sequence[Tensor], keep: bool) -> tuple[Tensor, list[Tensor]]:
    v, W, *_, pair_bias = inputs
    rows = -(-len(v) // LANES) * LANES if keep else 0
    pooled = v.new_empty(v.shape[0], v.shape[2])
    weights = v.new_empty(rows * len(pair_bias))
    masks = torch.empty(len(weights) * -(-len(W) // 8), dtype=torch.uint8)
    inverse = v.new_empty(rows)
    _call("attention_pool_forward", *inputs, pooled, weights, masks, inverse)
    return pooled, [weights, masks, inverse]


def _backward(inputs: Sequence[Tensor], kept: Sequence[Tensor], grad: Tensor) -> Sequence[Tensor]:
    v, W, b, h, _ = inputs
    gradients = [torch.empty_like(t) for t in inputs]
    _call("attention_pool_backward", v, W, b, h, *kept, grad, *gradients)
    return gradients


def _call(function: str, v: Tensor, W: Tensor, *others: Tensor) -> None:
    kernel = library()
    assert kernel is not None  # as serves() has seen
    sizes = (*v.shape, len(W), torch.get_num_threads())  # B, F, K, A, threads
    getattr(kernel, function)(*sizes, *(t.data_ptr() for t in (v, W, *others)))
