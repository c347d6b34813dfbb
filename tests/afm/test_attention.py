"""attention_pool against the paper's equations, a pair at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from afm.attention import attention_pool, pairs

B, K, A = 3, 4, 5


def random_inputs(fields: int) -> tuple[Tensor, ...]:
    """v, W, b, h and pair_bias in float64."""
    g = torch.Generator().manual_seed(fields)
    shapes = ((B, fields, K), (A, K), (A,), (A,), (fields * (fields - 1) // 2,))
    return tuple(torch.randn(s, generator=g, dtype=torch.float64) for s in shapes)


def pool_by_loops(v, W, b, h, pair_bias) -> np.ndarray:  # type: ignore[no-untyped-def]
    """Eq. 5 and 6 as they stand, for one row after the other."""
    result = np.zeros((v.shape[0], v.shape[2]))
    for row in range(v.shape[0]):
        products, logits = [], []
        for n, (i, j) in enumerate(itertools.combinations(range(v.shape[1]), 2)):
            e = [v[row][i][k] * v[row][j][k] for k in range(v.shape[2])]
            logit = pair_bias[n]
            for a in range(W.shape[0]):
                logit += h[a] * max(0.0, sum(W[a][k] * e[k] for k in range(len(e))) + b[a])
            products.append(e)
            logits.append(math.exp(logit))
        for e, weight in zip(products, logits, strict=True):
            result[row] += weight / sum(logits) * np.array(e)
    return result


def test_pairs_are_in_lexicographic_order() -> None:
    i, j = pairs(4)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
        (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3),
    ]  # fmt: skip


@pytest.mark.parametrize("fields", [2, 3, 5])
def test_against_loops(fields: int) -> None:
    inputs = random_inputs(fields)
    expected = pool_by_loops(*(t.numpy() for t in inputs))
    np.testing.assert_allclose(attention_pool(*inputs).numpy(), expected, rtol=1e-12)


def test_gradients_against_finite_differences() -> None:
    inputs = tuple(t.requires_grad_() for t in random_inputs(4))
    assert torch.autograd.gradcheck(attention_pool, inputs)


def test_attention_is_uniform_when_h_and_bias_are_zero() -> None:
    v, W, b, h, bias = random_inputs(4)
    pooled = attention_pool(v, W, b, torch.zeros_like(h), torch.zeros_like(bias))
    i, j = pairs(4)
    torch.testing.assert_close(pooled, (v[:, i] * v[:, j]).mean(dim=1))


def test_pooled_vector_stays_finite_when_logits_are_huge() -> None:
    v, W, b, h, bias = random_inputs(4)
    assert torch.isfinite(attention_pool(v, 1e4 * W, b, 1e4 * h, bias)).all()


def test_no_rows_give_no_rows() -> None:
    _, *weights = random_inputs(4)
    v = torch.empty(0, 4, K, dtype=torch.float64, requires_grad=True)
    weights = [w.requires_grad_() for w in weights]
    pooled = attention_pool(v, *weights)
    assert pooled.shape == (0, K)
    pooled.sum().backward()
    assert all(w.grad is not None and not w.grad.any() for w in weights)
