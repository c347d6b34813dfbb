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

from afm.kernels.gpu import attention_pool
from tests.afm.pooling import (  # noqa: F401 (the tests run here)
    Check,
    Pool,
    assert_pools_like_float64,
    random_inputs,
    test_huge_logits,
    test_nan_in_weights_reaches_every_row,
    test_nan_stays_in_its_row,
    test_neither_strides_nor_broadcast_gradients_matter,
)


def random_grad(rows: int, size: int) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(rows))


def assert_like_float64(inputs: list[Tensor], grad: Tensor, tolerance: float = 1e-4) -> None:
    assert_pools_like_float64(attention_pool, inputs, grad, tolerance)


@pytest.fixture
def pool() -> Pool:
    return attention_pool


@pytest.fixture
def check() -> Check:
    return assert_like_float64


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


def test_infinite_logits_are_those_of_torch() -> None:
    v, W, b, h, bias = random_inputs(4, 5, 4, 3, 3)
    for pair in (0, 2, 5):
        one = bias.clone()
        one[pair] = -math.inf
        assert_like_float64([v, W, b, h, one], torch.ones(5, 3))
        one[pair] = math.inf
        assert attention_pool(v, W, b, h, one).isnan().all()
    assert attention_pool(v, W, b, h, torch.full_like(bias, -math.inf)).isnan().all()


def test_products_of_pairs_are_not_kept() -> None:
    rows, fields, size, units = 16, 20, 16, 16
    inputs = random_inputs(12, rows, fields, size, units)
    pooled = attention_pool(*(t.requires_grad_() for t in inputs))
    kept = sum(t.nbytes for t in pooled.grad_fn.saved_tensors)
    numbers = rows * math.comb(fields, 2) + rows * (size + 2)
    assert kept == sum(t.nbytes for t in inputs) + 4 * numbers
