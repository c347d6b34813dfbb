"""A training step of AFM on CPUs, up to the gradients: ``step.cpp`` on tensors of torch.

Letters: B rows, S slots, F fields, P pairs of fields, K embedding, A attention units.
"""

from ctypes import Structure, byref, c_float, c_int64, c_uint64, c_void_p

import torch
from torch import Tensor

from afm.kernels import cpu
from afm.model import AFM


def serves(model: torch.nn.Module) -> bool:
    """Whether the kernel trains this model.

    Args:
        model: A model.

    Returns:
        True for an AFM of several fields, in training, in float32 on the CPU, where the kernel can
        be had. It takes means of histories only.
    """
    if not isinstance(model, AFM) or model.fields < 2 or not model.training or len(model.history):
        return False
    table = model.embedding  # the other weights are as it is
    fits = table.device.type == "cpu" and table.dtype == torch.float32
    return fits and cpu.library() is not None


def gradients(
    model: AFM,
    rows: Tensor,
    x: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    *,
    global_rows: float,
    l2: float = 0.0,
    shrinkage: float = 1.0,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log loss of a batch and its gradients, as ``backward`` would leave them.

    Those of the model's weights other than the two tables are set (``Tensor.grad``), over what was
    there. It runs on as many threads as torch does; their number does not change the result.
    Dropout draws from torch's global generator.

    Args:
        model: The model, in training.
        rows: Embedding rows (B, S).
        x: Their numbers (B, S).
        labels: 0 or 1 (B,).
        weights: Weights of the rows (B,), 1 if left out.
        global_rows: What the sum of the losses is divided by.
        l2: λ of the squares of the embeddings with x ≠ 0, whose sum is divided likewise.
        shrinkage: What the embeddings are to be multiplied with.
        into: Where to put the gradients of the slots, instead of into new memory.

    Returns:
        The sum of the losses, before it is divided and without the penalty; gradients of the
        slots' embeddings (B, S, K) and of their linear weights (B, S).
    """
    size, slots = rows.shape
    attention, embedding = model.attention, model.embedding
    W, b, h, pair_bias = attention.W, attention.b, attention.h, attention.pair_bias
    units, k = W.shape
    dense = (W, b, h, pair_bias, model.p, model.bias)
    for weight in dense:
        if weight.grad is None and weight.requires_grad:
            weight.grad = torch.empty_like(weight)
    of_slots = into or (x.new_empty(size, slots, k), x.new_empty(size, slots))
    rates = model.embedding_dropout.p, model.dropout.p
    seed = int(torch.randint(2**63 - 1, ())) if any(rates) else 0
    tables = map(_address, (embedding, model.linear, pair_bias, model.p, model.bias))
    kernel = cpu.library()
    assert kernel is not None  # as serves() has seen
    loss = kernel.afm_step(
        *(size, model.fields, k, units, torch.get_num_threads()),
        *map(_address, (W, b, h)),
        byref(_Batch(slots, *map(_address, (rows, model.field_of_slot, x, labels, weights)))),
        byref(_Tables(*tables, model.scale, shrinkage)),
        byref(_Settings(*rates, seed, 1 / global_rows, l2)),
        byref(_Gradients(*map(_address, (*of_slots, *(weight.grad for weight in dense))))),
    )
    return torch.tensor(loss, dtype=torch.float64), *of_slots


def _address(tensor: Tensor | None) -> int | None:
    if tensor is None:
        return None
    assert tensor.is_contiguous()
    return tensor.data_ptr()


class _Batch(Structure):
    _fields_ = [
        ("slots", c_int64),
        *((name, c_void_p) for name in ("rows", "field_of_slot", "x", "labels", "weights")),
    ]


class _Tables(Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("embedding", "linear", "pair_bias", "p", "bias")),
        *((name, c_float) for name in ("scale", "shrinkage")),
    ]


class _Settings(Structure):
    _fields_ = [
        *(("rate_of_fields", c_float), ("rate_of_pooled", c_float), ("seed", c_uint64)),
        *(("share", c_float), ("l2", c_float)),
    ]


class _Gradients(Structure):
    _fields_ = [
        (name, c_void_p)
        for name in ("embedding", "linear", "W", "b", "h", "pair_bias", "p", "bias")
    ]
