"""Attention-based pooling of pairwise interactions (Xiao et al., IJCAI 2017, eq. 4 to 6).

One operation with three implementations: plain torch, which serves every device and type and is
the reference, and fused kernels for CPUs and for GPUs.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, K embedding, A attention units.
"""

import torch
from torch import Tensor
from torch.nn.functional import linear, relu

from afm.kernels import cpu, gpu


def pairs(fields: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The pairs i < j of fields, in lexicographic order.

    Args:
        fields: F.
        device: Where the result is put; the CPU if left out.

    Returns:
        i (P,) and j (P,).

    >>> pairs(3)
    (tensor([0, 0, 1]), tensor([1, 2, 2]))
    """
    i, j = torch.triu_indices(fields, fields, offset=1, device=device)
    return i, j


def attention_pool(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> Tensor:
    """Σ_{i<j} a_ij (v_i∘v_j), where a is the softmax over pairs of hᵀ relu(W(v_i∘v_j) + b) + bias.

    The bias per pair is ours; zeros give the paper's attention. Float32, on GPUs 16 bits too, goes
    to a kernel where it can be compiled.

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,), in the order of :func:`pairs`.

    Returns:
        Pooled interactions (B, K).

    Source: Xiao et al., "Attentional Factorization Machines", IJCAI 2017, eq. 5 and 6.
    """
    if cpu.serves(v, W, b, h, pair_bias):
        return cpu.attention_pool(v, W, b, h, pair_bias)
    if gpu.serves(v, W, b, h, pair_bias):
        return gpu.attention_pool(v, W, b, h, pair_bias)
    return plain_attention_pool(v, W, b, h, pair_bias)


def plain_attention_pool(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> Tensor:
    """:func:`attention_pool` as one reads it in the paper; its memory grows with B·P·(K + A).

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,).

    Returns:
        Pooled interactions (B, K).
    """
    i, j = pairs(v.shape[1], v.device)
    products = v.index_select(1, i) * v.index_select(1, j)  # (B, P, K)
    logits = relu(linear(products, W, b)) @ h + pair_bias  # (B, P)
    weights = logits.softmax(dim=1)  # (B, P)
    return (weights.unsqueeze(1) @ products).squeeze(1)  # (B, K)
