"""The fused kernel for training against plain torch in float64, and how kernels are compiled."""

import copy
import ctypes
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from afm.attention import attention_pool, plain_attention_pool
from afm.kernels import cpu, scoring, training
from afm.kernels.compiled import CompileError, compiled
from afm.model import build_model
from afm.scoring import recommend
from tests.afm.pooling import (  # noqa: F401 (the tests run here)
    Check,
    Pool,
    assert_pools_like_float64,
    pool_and_gradients,
    random_inputs,
    test_huge_logits,
    test_nan_in_weights_reaches_every_row,
    test_nan_stays_in_its_row,
    test_neither_strides_nor_broadcast_gradients_matter,
)
from tests.afm.random_models import id_case
from tests.afm.test_model import LAYOUT, MODELS, randomised, slots
from tests.afm.training import threads

ONE = b'extern "C" int one() { return 1; }'


def assert_like_float64(inputs: list[Tensor], grad: Tensor) -> None:
    assert cpu.serves(*inputs)
    assert_pools_like_float64(attention_pool, inputs, grad)


@pytest.fixture
def pool() -> Pool:
    return attention_pool


@pytest.fixture
def check() -> Check:
    return assert_like_float64


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 70),
    st.integers(2, 12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
)
def test_all_sizes(
    seed: int, rows: int, fields: int, size: int, units: int, pair_bias: bool
) -> None:
    inputs = random_inputs(seed, rows, fields, size, units)
    if not pair_bias:
        inputs[4].zero_()
    grad = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    assert_like_float64(inputs, grad)


@pytest.mark.parametrize("fields, size, units", [(39, 16, 16), (5, 64, 64), (3, 32, 130)])
def test_several_chunks(fields: int, size: int, units: int) -> None:
    inputs = random_inputs(1, 600, fields, size, units)
    inputs[3] /= 4
    assert_like_float64(inputs, torch.ones(600, size))


def test_products_of_pairs_are_not_kept() -> None:
    rows, fields, size, units = 64, 20, 16, 16
    inputs = random_inputs(12, rows, fields, size, units)
    pooled = attention_pool(*(t.requires_grad_() for t in inputs))
    kept = sum(t.nbytes for t in pooled.grad_fn.saved_tensors)
    pairs = math.comb(fields, 2)
    assert kept == sum(t.nbytes for t in inputs) + rows * pairs * (4 + units // 8) + 4 * rows


def test_infinite_logits_are_those_of_torch() -> None:
    v, W, b, h, bias = random_inputs(4, 5, 4, 3, 3)
    bias[2] = -math.inf
    torch.testing.assert_close(
        attention_pool(v, W, b, h, bias), plain_attention_pool(v, W, b, h, bias)
    )
    bias[2] = math.inf
    assert attention_pool(v, W, b, h, bias).isnan().all()
    assert attention_pool(v, W, b, h, torch.full_like(bias, -math.inf)).isnan().all()


def test_threads_change_no_bit() -> None:
    inputs = random_inputs(7, 1000, 7, 12, 10)
    grad = torch.randn(1000, 12, generator=torch.Generator().manual_seed(7))
    with threads(1):
        one = pool_and_gradients(attention_pool, inputs, grad)
    with threads(2):
        two = pool_and_gradients(attention_pool, inputs, grad)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_no_rows() -> None:
    inputs = random_inputs(8, 0, 3, 4, 5)
    pooled, dv, *others = pool_and_gradients(attention_pool, inputs, torch.ones(0, 4))
    assert pooled.shape == (0, 4) and dv.shape == (0, 3, 4)
    assert not any(gradient.any() for gradient in others)


def test_what_does_not_fit_is_left_to_torch() -> None:
    v, W, b, h, bias = random_inputs(9, 3, 4, 5, 6)
    assert cpu.serves(v, W, b, h, bias)
    assert not cpu.serves(*(t.double() for t in (v, W, b, h, bias)))
    assert not cpu.serves(v[:, :1], W, b, h, bias[:0])
    for wrong in ([v, W[:, :-1], b, h, bias], [v, W, b[1:], h, bias], [v, W, b, h, bias[1:]]):
        with pytest.raises(RuntimeError):
            attention_pool(*wrong)


def test_steps_of_a_model() -> None:
    """Three steps with fields of one value, of a number and of several values."""
    fused = randomised(build_model(LAYOUT, MODELS["afm scaled"], 0).double()).float()
    plain = copy.deepcopy(fused).double()
    rows, x = slots()
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
    for model in (fused, plain):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            logits = model.eval()(rows, x.to(model.bias.dtype))
            torch.nn.functional.binary_cross_entropy_with_logits(
                logits, labels.to(logits.dtype)
            ).backward()
            optimizer.step()
    expected = plain.state_dict()
    for name, weight in fused.state_dict().items():
        torch.testing.assert_close(weight.double(), expected[name], rtol=1e-4, atol=1e-5, msg=name)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing is compiled yet, on disk or in this process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for kernel in (training, scoring):
        kernel.library.cache_clear()
    yield tmp_path / "afm-on-spark"
    for kernel in (training, scoring):
        kernel.library.cache_clear()


def test_a_source_is_compiled_once(empty_cache: Path) -> None:
    first = compiled(ONE)
    written = first.stat().st_mtime_ns
    assert compiled(ONE) == first and first.stat().st_mtime_ns == written
    other = compiled(ONE.replace(b"1", b"2"))
    assert ctypes.CDLL(str(first)).one() == 1 and ctypes.CDLL(str(other)).one() == 2
    assert {*empty_cache.iterdir()} == {first, other}


def test_two_may_compile_at_once(empty_cache: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(compiled, [ONE, ONE]))
    assert paths[0] == paths[1] and [*empty_cache.iterdir()] == paths[:1]
    assert ctypes.CDLL(str(paths[0])).one() == 1


def test_what_the_compiler_refuses_is_named(empty_cache: Path) -> None:
    with pytest.raises(CompileError, match="failed: .*error: "):
        compiled(b"int one() { return nothing; }")
    assert not [*empty_cache.iterdir()]


def test_without_a_compiler_plain_torch_is_used_and_said_once(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    inputs = random_inputs(10, 9, 4, 5, 6)
    for _ in range(2):
        assert torch.equal(attention_pool(*inputs), plain_attention_pool(*inputs))
    (record,) = caplog.records
    assert "no C++ compiler; install g++, or set CXX" in record.getMessage()


def test_without_a_compiler_scoring_is_numpy_and_said_once(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    case = id_case(40, 60)
    with_kernel = recommend(case.item_side(), case.users, 60)
    scoring.library.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(empty_cache / "other"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    for _ in range(2):
        ranking = recommend(case.item_side(), case.users, 60)
        np.testing.assert_allclose(ranking.logit, with_kernel.logit, rtol=1e-5, atol=1e-5)
    (record,) = caplog.records
    assert "scoring goes without the fused kernel" in record.getMessage()


def test_without_a_cache_folder_plain_torch_is_used(
    empty_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty_cache.write_text("a file in its place")
    inputs = random_inputs(11, 9, 4, 5, 6)
    assert torch.equal(attention_pool(*inputs), plain_attention_pool(*inputs))
    assert "the cache folder cannot be used" in caplog.text
