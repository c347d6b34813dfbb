"""What holds for every kernel of attention_pool, and what its tests are made of.

A module that imports the tests has fixtures ``pool``, the kernel, and ``check``, which compares it
with plain torch in float64.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from afm.attention import pairs, plain_attention_pool

Pool = Callable[..., Tensor]
Check = Callable[[list[Tensor], Tensor], None]
NAMES = ("pooled", "v", "W", "b", "h", "bias")


def random_inputs(seed: int, rows: int, fields: int, size: int, units: int) -> list[Tensor]:
    """v, W, b, h, pair_bias.

    v, W and b are multiples of 1/4, 1/16 and 1/256, so that float32 computes W(v_i∘v_j) + b
    without rounding, and relu bends at the same places as in float64: gradients jump there.
    """
    random = np.random.default_rng(seed)
    arrays = [
        random.integers(-6, 7, (rows, fields, size)) / 4,
        random.integers(-16, 17, (units, size)) / 16,
        random.integers(-128, 129, units) / 256,
        random.normal(0, 0.5, units),
        random.normal(0, 1, math.comb(fields, 2)),
    ]
    return [torch.tensor(array, dtype=torch.float32) for array in arrays]


def pool_and_gradients(pool: Pool, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """What it pools, and the gradients of all inputs."""
    leaves = [t.clone().requires_grad_() for t in inputs]
    pooled = pool(*leaves)
    pooled.backward(grad.to(pooled.dtype))
    return [pooled.detach(), *(leaf.grad for leaf in leaves)]


def lengths_without_cancellation(inputs: list[Tensor], grad: Tensor) -> list[float]:
    """For each gradient the length it would have if what rows and pairs add to it were orthogonal.

    Where the sum cancels (with one unit, on for all pairs, b's is 0: softmax ignores what all
    logits share), float32's error is relative to this and not to the sum.
    """
    v, W, b, h, bias = (t.double() for t in inputs)
    i, j = pairs(v.shape[1], v.device)
    products = v[:, i] * v[:, j]
    before_relu = (products @ W.T + b).requires_grad_()
    hidden = before_relu.relu()
    logits = hidden @ h + bias
    pooled = (logits.softmax(1).unsqueeze(2) * products).sum(1)
    dx, dlogits = torch.autograd.grad(pooled, (before_relu, logits), grad.double())
    parts = [
        torch.einsum("rpa,rpk->", dx**2, products**2),
        (dx**2).sum(),
        torch.einsum("rp,rpa->", dlogits**2, hidden**2),
        (dlogits**2).sum(),
    ]
    return [0.0, 0.0, *(part.sqrt().item() for part in parts)]


def assert_pools_like_float64(
    pool: Pool, inputs: list[Tensor], grad: Tensor, tolerance: float = 1e-4
) -> None:
    actual = pool_and_gradients(pool, inputs, grad)
    expected = pool_and_gradients(plain_attention_pool, [t.double() for t in inputs], grad)
    lengths = lengths_without_cancellation(inputs, grad)
    for name, a, e, length in zip(NAMES, actual, expected, lengths, strict=True):
        assert a.dtype == inputs[0].dtype
        error = (a - e).norm() / e.norm().clamp_min(max(length, 1e-3))
        assert error <= tolerance, (name, error)
    with torch.no_grad():  # which keeps nothing
        assert torch.equal(pool(*inputs), actual[0])


@pytest.mark.parametrize("factor", [2.0**14, -(2.0**14), 2.0**100, -(2.0**100)])
def test_huge_logits(check: Check, factor: float) -> None:
    v, W, b, h, bias = random_inputs(3, 50, 6, 8, 8)
    whole = (4 * h).round() * factor  # no logit is rounded, in float32 either
    assert whole.any()
    check([v, W, b, whole, torch.zeros_like(bias)], torch.ones(50, 8))


def test_nan_stays_in_its_row(pool: Pool) -> None:
    inputs = random_inputs(5, 40, 4, 6, 9)
    clean = pool_and_gradients(pool, inputs, torch.ones(40, 6))
    inputs[0][17, 2, 1] = math.nan
    pooled, dv, *others = pool_and_gradients(pool, inputs, torch.ones(40, 6))
    rest = torch.arange(40) != 17
    assert pooled[17].isnan().all() and dv[17].isnan().all()
    assert torch.equal(pooled[rest], clean[0][rest])
    assert torch.equal(dv[rest], clean[1][rest])
    assert all(gradient.isnan().any() for gradient in others)


@pytest.mark.parametrize("number", range(1, 5))
def test_nan_in_weights_reaches_every_row(pool: Pool, number: int) -> None:
    inputs = random_inputs(6, 20, 4, 6, 9)
    inputs[number].view(-1)[-1] = math.nan
    inputs[2] += 100  # all units are on
    assert pool(*inputs).isnan().all()


def test_neither_strides_nor_broadcast_gradients_matter(pool: Pool) -> None:
    inputs = random_inputs(2, 20, 4, 6, 5)
    strided = [t.movedim(0, -1).contiguous().movedim(-1, 0) for t in inputs]
    assert not strided[0].is_contiguous()
    grad = torch.tensor(2.0).expand(20, 6)
    for a, b in zip(
        pool_and_gradients(pool, strided, grad),
        pool_and_gradients(pool, inputs, grad.contiguous()),
        strict=True,
    ):
        assert torch.equal(a, b)
