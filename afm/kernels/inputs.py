"""What kernels of attention_pool need to know of its inputs, before they read them by address."""

import math

from torch import Tensor


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
