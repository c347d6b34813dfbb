"""attention_pool of ``afm.attention`` in Triton; ``attention.cpp`` has the algebra and its letters.

A program has ROWS rows, and goes through the pairs of fields one after the other. It makes a pair's
products e (ROWS, K) and hidden units z = We + b (ROWS, A) where they are used, so that what is kept
in memory per row and pair is one number, the logit. Forward keeps a running softmax: the largest
logit so far, and sums relative to it (Milakov and Gimelshein, "Online normalizer calculation for
softmax", 2018).

Backward takes a pair's logit as forward has left it: were it computed anew, another order of
additions would shift a large logit by its last bit, and with it the weight by more than a bit. Of z
it needs relu's mask and ∂h, so a tile of units is independent of the others. A program alone adds
up ∂v of its rows in memory, and leaves its part of the other gradients, to be summed in one order:
there are no atomics, and the result does not depend on timing.

Registers hold a tile of W, its gradient and, per row, K products and their gradients. Hence A_TILE,
all units or as many as make 64·64 numbers of W, and the bound on ROWS in :func:`fitting`: any F and
any A are served. Compiled for sm_80, K = 16 to 128 then fits into registers. With K = 256 backward
spills some hundred bytes per thread, and above it is left to plain torch. (Products of float32 do
not go to tensor cores: TF32 would round their factors to 10 bits.)

Letters: B rows, F fields, P = F(F-1)/2 pairs of fields, K embedding, A attention units.
"""

from typing import Any

import triton
import triton.language as tl


def fitting(configs: list[Any], _: object, *, K_TILE: int, A_TILE: int, **__: object) -> list[Any]:
    """Leaves those configurations in which a thread's tiles fit into its registers."""
    side = max(K_TILE, A_TILE)
    fit = [c for c in configs if c.kwargs["ROWS"] * side <= 256 * c.num_warps]
    return fit or configs[-1:]  # K = 256


LEAST_ROWS = 16
CONFIGS = [
    triton.Config({"ROWS": rows}, num_warps=warps, num_stages=2)
    for warps in (4, 8)
    for rows in (64, 32, LEAST_ROWS)
]
# They are timed once per architecture and shape. The best is kept in Triton's cache, so that later
# runs repeat each other to the last bit. The interpreter has nothing to time.
tuned = triton.autotune(
    CONFIGS[-1:] if triton.knobs.runtime.interpret else CONFIGS,
    key=["F", "K", "A"],
    prune_configs_by={"early_config_prune": fitting},
    cache_results=True,
)


@triton.jit
def hidden(e, W, b, PRECISION: tl.constexpr):
    """Units before relu (ROWS, A_TILE)."""
    return tl.dot(e, tl.trans(W), input_precision=PRECISION) + b[None, :]


@triton.jit
def tile_of_units(W, b, h, first, K: tl.constexpr, A: tl.constexpr, k, A_TILE: tl.constexpr):
    """W (A_TILE, K_TILE), b and h (A_TILE) from a unit on; zeros where there are none."""
    a = first + tl.arange(0, A_TILE)
    is_a = a < A
    W_a = tl.load(W + a[:, None] * K + k[None, :], is_a[:, None] & (k[None, :] < K), 0.0)
    b_a = tl.load(b + a, is_a, 0.0)
    h_a = tl.load(h + a, is_a, 0.0)
    return W_a.to(tl.float32), b_a.to(tl.float32), h_a.to(tl.float32)


@triton.jit
def relu(z):
    """It keeps NaN, as a maximum would not."""
    return tl.where(z <= 0.0, 0.0, z)


@tuned
@triton.jit
def forward(
    v,  # (B, F, K)
    W,  # (A, K)
    b,  # (A,)
    h,  # (A,)
    bias,  # (P,)
    pooled,  # (B, K)
    logits,  # (P, B), and the two below: only where they are to be kept
    largest,  # (B,) max l
    total,  # (B,) Σ exp(l - max l)
    B,
    F,
    K: tl.constexpr,
    A: tl.constexpr,
    K_TILE: tl.constexpr,
    A_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    KEEP: tl.constexpr,
    ROWS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, K_TILE)
    is_row = row < B
    is_in = is_row[:, None] & (k[None, :] < K)
    of_v = v + row[:, None] * (F * K) + k[None, :]
    if A <= A_TILE:
        W_a, b_a, h_a = tile_of_units(W, b, h, 0, K, A, k, A_TILE)

    highest = tl.full([ROWS], float("-inf"), tl.float32)
    s = tl.zeros([ROWS], tl.float32)
    y = tl.zeros([ROWS, K_TILE], tl.float32)
    p = tl.full([], 0, tl.int64)
    for i in range(F - 1):
        v_i = tl.load(of_v + i * K, is_in, 0.0).to(tl.float32)
        for j in range(i + 1, F):
            e = v_i * tl.load(of_v + j * K, is_in, 0.0).to(tl.float32)
            if A <= A_TILE:
                logit = tl.sum(relu(hidden(e, W_a, b_a, PRECISION)) * h_a[None, :], 1)
            else:
                logit = tl.zeros([ROWS], tl.float32)
                for first in range(0, A, A_TILE):
                    W_a, b_a, h_a = tile_of_units(W, b, h, first, K, A, k, A_TILE)
                    logit += tl.sum(relu(hidden(e, W_a, b_a, PRECISION)) * h_a[None, :], 1)
            logit += tl.load(bias + p).to(tl.float32)
            if KEEP:
                tl.store(logits + p * B + row, logit, is_row)
            new = tl.maximum(highest, logit)
            shift = tl.where(new == float("-inf"), 0.0, new)  # -inf - -inf would be NaN
            shrink = tl.exp(highest - shift)
            weight = tl.exp(logit - shift)
            s = s * shrink + weight
            y = y * shrink[:, None] + weight[:, None] * e
            highest = new
            p += 1
    tl.store(pooled + row[:, None] * K + k[None, :], y / s[:, None], is_in)
    if KEEP:
        tl.store(largest + row, highest, is_row)
        tl.store(total + row, s, is_row)


@tuned
@triton.jit
def backward(
    v,  # (B, F, K)
    W,  # (A, K)
    b,  # (A,)
    h,  # (A,)
    pooled,  # (B, K), and the three below: as forward has left them, in float32
    logits,  # (P, B)
    largest,  # (B,)
    total,  # (B,)
    grad,  # (B, K)
    dv,  # (B, F, K)
    dW,  # (programs, A, K), and the three below: a program's part
    db,  # (programs, A)
    dh,  # (programs, A)
    dbias,  # (programs, P)
    B,
    F,
    K: tl.constexpr,
    A: tl.constexpr,
    K_TILE: tl.constexpr,
    A_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
    ROWS: tl.constexpr,
):
    program = tl.program_id(0).to(tl.int64)
    row = program * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, K_TILE)
    is_row = row < B
    is_in = is_row[:, None] & (k[None, :] < K)
    of_v = row[:, None] * (F * K) + k[None, :]
    of_y = row[:, None] * K + k[None, :]
    g = tl.load(grad + of_y, is_in, 0.0).to(tl.float32)
    gy = tl.sum(g * tl.load(pooled + of_y, is_in, 0.0), 1)
    highest = tl.load(largest + row, is_row, float("inf"))  # weight 0 where there is no row
    s = tl.load(total + row, is_row, 1.0)

    for first in range(0, A, A_TILE):
        W_a, b_a, h_a = tile_of_units(W, b, h, first, K, A, k, A_TILE)
        sum_W = tl.zeros([A_TILE, K_TILE], tl.float32)
        sum_b = tl.zeros([A_TILE], tl.float32)
        sum_h = tl.zeros([A_TILE], tl.float32)
        p = tl.full([], 0, tl.int64)
        for i in range(F - 1):
            # What other threads have added to ∂v is read from here on. Within one i, each number of
            # it is read and written once.
            tl.debug_barrier()
            begun = (first > 0) | (i > 0)
            v_i = tl.load(v + of_v + i * K, is_in, 0.0).to(tl.float32)
            dv_i = tl.load(dv + of_v + i * K, is_in & begun, 0.0)
            for j in range(i + 1, F):
                v_j = tl.load(v + of_v + j * K, is_in, 0.0).to(tl.float32)
                dv_j = tl.load(dv + of_v + j * K, is_in & begun, 0.0)
                e = v_i * v_j
                weight = tl.exp(tl.load(logits + p * B + row, is_row, 0.0) - highest) / s
                delta = weight * (tl.sum(g * e, 1) - gy)  # ∂l
                z = hidden(e, W_a, b_a, PRECISION)
                dz = tl.where(z <= 0.0, 0.0, delta[:, None] * h_a[None, :])
                sum_W = tl.dot(tl.trans(dz), e, sum_W, input_precision=PRECISION)
                sum_b += tl.sum(dz, 0)
                sum_h += tl.sum(delta[:, None] * relu(z), 0)
                de = tl.dot(dz, W_a, input_precision=PRECISION)
                if first == 0:
                    de += weight[:, None] * g
                    tl.store(dbias + program * (F * (F - 1) // 2) + p, tl.sum(delta, 0))
                dv_i += de * v_j
                tl.store(dv + of_v + j * K, dv_j + de * v_i, is_in)
                p += 1
            tl.store(dv + of_v + i * K, dv_i, is_in)
        a = first + tl.arange(0, A_TILE)
        is_a = a < A
        of_W = a[:, None] * K + k[None, :]
        tl.store(dW + program * (A * K) + of_W, sum_W, is_a[:, None] & (k[None, :] < K))
        tl.store(db + program * A + a, sum_b, is_a)
        tl.store(dh + program * A + a, sum_h, is_a)
