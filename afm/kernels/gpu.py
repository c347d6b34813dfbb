"""attention_pool for NVIDIA's GPUs: ``attention_triton.py`` as an operation of torch.

Float32 is computed as such. Inputs of 16 bits are multiplied on tensor cores as TF32, which has
their precision, where K ≤ 128, and summed in float32.

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, K embedding, A attention units.
"""

import logging
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from afm.kernels.operation import agree, operate

TYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_K = 256  # with more, not even 16 rows fit into registers
WIDEST_TF32 = 128  # K in tensor cores' operands, of which each warp holds a copy
OLDEST = 80  # compute capability 8.0: what Triton supports


@cache
def available() -> bool:
    """Whether Triton works on this GPU; where it does not, this is logged once.

    Returns:
        True if so.
    """
    try:
        # It compiles a few lines of C, and asks the driver which GPU there is.
        from triton.runtime import driver

        target = driver.active.get_current_target()
    except Exception as error:  # no Triton, no C compiler, no driver: each raises its own
        problem = " ".join(str(error).split())
    else:
        if target.backend == "cuda" and target.arch >= OLDEST:
            return True
        problem = f"it needs an NVIDIA GPU of compute capability {OLDEST / 10} or later"
    logging.getLogger(__name__).warning(
        "training goes without the fused attention kernel, slower and with memory for all pairs of "
        "fields; Triton does not work on this GPU: %s",
        problem,
    )
    return False


def serves(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> bool:
    """Whether the kernel computes this.

    Args:
        v: Field vectors (B, F, K).
        W: Attention weights (A, K).
        b: Attention offsets (A,).
        h: Attention projection (A,).
        pair_bias: A number per pair (P,).

    Returns:
        True where all are of one of :data:`TYPES` on a GPU and of these shapes, B > 0, F > 1,
        K ≤ :data:`LARGEST_K`, and Triton works there.
    """
    return (
        v.device.type == "cuda"
        and v.dtype in TYPES
        and agree(v, W, b, h, pair_bias)
        and len(v) > 0
        and v.shape[2] <= LARGEST_K
        and available()
    )


def attention_pool(v: Tensor, W: Tensor, b: Tensor, h: Tensor, pair_bias: Tensor) -> Tensor:
    """As :func:`afm.attention.attention_pool`, for inputs that the kernel :func:`serves`.

    For backward it keeps a number per row and pair, and pooled interactions in float32.

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
    from afm.kernels import attention_triton as kernels  # Triton, which CPUs do without

    v, W, *_, pair_bias = inputs
    rows, fields, _ = v.shape
    kept_rows = rows if keep else 0
    pooled = _numbers(v, rows, v.shape[2])
    logits = _numbers(v, len(pair_bias), kept_rows)
    largest, total = _numbers(v, kept_rows), _numbers(v, kept_rows)
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        kernels.forward[_grid(rows)](
            *(*inputs, pooled, logits, largest, total, rows, fields), KEEP=keep, **_constants(v, W)
        )
    return pooled.to(v.dtype), [pooled, logits, largest, total]


def _backward(inputs: Sequence[Tensor], kept: Sequence[Tensor], grad: Tensor) -> Sequence[Tensor]:
    from afm.kernels import attention_triton as kernels

    v, W, b, h, pair_bias = inputs
    rows, fields, _ = v.shape
    programs = -(-rows // kernels.LEAST_ROWS)
    dv = _numbers(v, *v.shape)
    # What the programs add to the gradients of the weights.
    parts = [_numbers(v, programs, *t.shape) for t in (W, b, h, pair_bias)]
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        kernels.backward[_grid(rows)](
            *(v, W, b, h, *kept, grad, dv, *parts, rows, fields), **_constants(v, W)
        )
    (used,) = _grid(rows)(kernels.backward.best_config.kwargs)
    return [t.to(v.dtype) for t in (dv, *(part[:used].sum(dim=0) for part in parts))]


def _numbers(like: Tensor, *shape: int) -> Tensor:
    return like.new_empty(shape, dtype=torch.float32)


def _grid(rows: int) -> Callable[[dict[str, int]], tuple[int]]:
    return lambda sizes: (-(-rows // sizes["ROWS"]),)


def _constants(v: Tensor, W: Tensor) -> dict[str, Any]:
    """What kernels are compiled for. A tile of W has at most 64·64 numbers, a side 16 at least."""
    units, size = W.shape
    of_size, of_units = (max(16, 1 << (n - 1).bit_length()) for n in (size, units))
    return {
        "K": size,
        "A": units,
        "K_TILE": of_size,
        "A_TILE": min(of_units, 64, 64 * 64 // of_size),
        "PRECISION": "ieee" if v.dtype == torch.float32 or of_size > WIDEST_TF32 else "tf32",
    }
