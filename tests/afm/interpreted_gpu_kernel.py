"""The kernel for GPUs against plain torch in float64, on tensors of the CPU.

Triton's interpreter must be asked for before Triton is imported, so ``test_gpu_kernel.py`` runs
these in a process of their own.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from afm.attention import plain_attention_pool
from afm.kernels.gpu import attention_pool
from tests.afm.test_kernels import pool_and_gradients, random_inputs

NAMES = ("pooled", "v", "W", "b", "h", "bias")


def random_grad(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows))


def assert_like_float64(inputs: list[Tensor], grad: Tensor, tolerance: float = 1e-4) -> None:
    actual = pool_and_gradients(attention_pool, inputs, grad)
    expected = pool_and_gradients(plain_attention_pool, [t.double() for t in inputs], grad)
    for name, a, e in zip(NAMES, actual, expected, strict=True):
        assert a.dtype == inputs[0].dtype
        error = (a - e).norm() / e.norm().clamp_min(1e-3)
        assert error <= tolerance, (name, error)
    with torch.no_grad():  # which keeps nothing
        assert torch.equal(attention_pool(*inputs), actual[0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(2, 6),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_all_sizes(seed: int, rows: int, fields: int, size: int, units: int) -> None:
    assert_like_float64(random_inputs(seed, rows, fields, size, units), random_grad(rows, size))


@pytest.mark.parametrize(
    "rows, fields, size, units",
    [(1, 2, 1, 1), (5, 39, 16, 16), (33, 3, 16, 130), (5, 4, 100, 70), (3, 3, 256, 20)],
)
def test_tiles_of_units(rows: int, fields: int, size: int, units: int) -> None:
    inputs = random_inputs(1, rows, fields, size, units)
    inputs[3] /= 4
    assert_like_float64(inputs, random_grad(rows, size))


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 5e-3), (torch.float16, 1e-3)])
def test_sixteen_bits_round_the_results_only(dtype: torch.dtype, tolerance: float) -> None:
    inputs = [t.to(dtype) for t in random_inputs(2, 20, 5, 12, 9)]
    assert_like_float64(inputs, random_grad(20, 12).to(dtype), tolerance)


@pytest.mark.parametrize("factor", [2.0**14, -(2.0**14), 2.0**100, -(2.0**100)])
def test_huge_logits(factor: float) -> None:
    v, W, b, h, bias = random_inputs(3, 50, 6, 8, 8)
    whole = (4 * h).round() * factor  # no logit is rounded, in float32 either
    assert whole.any()
    assert_like_float64([v, W, b, whole, torch.zeros_like(bias)], torch.ones(50, 8))


def test_infinite_logits_are_those_of_torch() -> None:
    v, W, b, h, bias = random_inputs(4, 5, 4, 3, 3)
    for pair in (0, 2, 5):
        one = bias.clone()
        one[pair] = -math.inf
        assert_like_float64([v, W, b, h, one], torch.ones(5, 3))
        one[pair] = math.inf
        assert attention_pool(v, W, b, h, one).isnan().all()
    assert attention_pool(v, W, b, h, torch.full_like(bias, -math.inf)).isnan().all()


def test_nan_stays_in_its_row() -> None:
    inputs = random_inputs(5, 40, 4, 6, 9)
    clean = pool_and_gradients(attention_pool, inputs, torch.ones(40, 6))
    inputs[0][17, 2, 1] = math.nan
    pooled, dv, *others = pool_and_gradients(attention_pool, inputs, torch.ones(40, 6))
    rest = torch.arange(40) != 17
    assert pooled[17].isnan().all() and dv[17].isnan().all()
    assert torch.equal(pooled[rest], clean[0][rest])
    assert torch.equal(dv[rest], clean[1][rest])
    assert all(gradient.isnan().any() for gradient in others)


@pytest.mark.parametrize("number", range(1, 5))
def test_nan_in_weights_reaches_every_row(number: int) -> None:
    inputs = random_inputs(6, 20, 4, 6, 9)
    inputs[number].view(-1)[-1] = math.nan
    inputs[2] += 100  # all units are on
    assert attention_pool(*inputs).isnan().all()


def test_neither_strides_nor_broadcast_gradients_matter() -> None:
    inputs = random_inputs(2, 20, 4, 6, 5)
    strided = [t.movedim(0, -1).contiguous().movedim(-1, 0) for t in inputs]
    assert not strided[0].is_contiguous()
    grad = torch.tensor(2.0).expand(20, 6)
    for a, b in zip(
        pool_and_gradients(attention_pool, strided, grad),
        pool_and_gradients(attention_pool, inputs, grad.contiguous()),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_products_of_pairs_are_not_kept() -> None:
    rows, fields, size, units = 16, 20, 16, 16
    inputs = random_inputs(12, rows, fields, size, units)
    pooled = attention_pool(*(t.requires_grad_() for t in inputs))
    kept = sum(t.nbytes for t in pooled.grad_fn.saved_tensors)
    numbers = rows * math.comb(fields, 2) + rows * (size + 2)
    assert kept == sum(t.nbytes for t in inputs) + 4 * numbers
