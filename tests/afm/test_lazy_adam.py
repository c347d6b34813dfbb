"""Lazy Adam, as a kernel and in plain torch, against torch's SparseAdam and numpy."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import embedding

from afm.kernels import rows as kernel
from afm.kernels.rows import Share
from afm.lazy_adagrad import LazyAdagrad
from afm.lazy_adam import LazyAdam
from afm.look_ups import looked_up, plain_sum_rows, sum_rows
from afm.ranks import Ranks
from tests.afm.lazy_steps import random_batch, random_tables, state_of, steps_of
from tests.afm.training import threads
from tests.jobs.commands import HOROVODRUN, command


@pytest.fixture(params=["kernel", "plain"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations, one after the other."""
    if request.param == "plain":
        monkeypatch.setattr(kernel, "serves", lambda *_: False)
    else:
        assert kernel.serves(torch.zeros(1))


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("size", [1, 3, 16, 32, 33, 64])
@pytest.mark.parametrize("decay", [0, 2, 19.99])
def test_steps_are_those_of_sparse_adam(size: int, decay: float) -> None:
    """SparseAdam in float64, on the sparse gradients that torch itself makes of the look-ups; and
    all embeddings decay before each step, which may leave next to nothing of them.
    """
    V, w = random_tables(40, size)
    lazy = LazyAdam(V.clone(), w.clone(), 0.05, decay)
    table, column = (t.double().requires_grad_() for t in (V, w.unsqueeze(1)))
    sparse = torch.optim.SparseAdam([table, column], lr=0.05)
    settled = 0
    for seed in range(12):
        rows, of_V, of_w = random_batch(seed, 25, 40, size)
        lazy.step(rows, of_V, of_w)
        sparse.zero_grad()
        found = embedding(rows, table, sparse=True), embedding(rows, column, sparse=True)
        torch.autograd.backward(found, (of_V.double(), of_w.double().unsqueeze(1)))
        with torch.no_grad():
            table *= 1 - 0.05 * decay
        sparse.step()
        if lazy.should_settle:
            settled += 1
            lazy.settle()
    assert bool(settled) == (decay > 19)
    lazy.settle()
    assert lazy.shrinkage == 1
    moments = [
        torch.cat([sparse.state[t][name] for t in (table, column)], dim=1)
        for name in ("exp_avg", "exp_avg_sq")
    ]
    expected = (table.detach(), column.detach()[:, 0], torch.stack(moments, dim=1))
    for mine, torchs in zip(state_of(lazy), expected, strict=True):
        torch.testing.assert_close(mine.double(), torchs, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("either")
def test_rows_that_are_not_looked_up_keep_every_bit() -> None:
    lazy = LazyAdam(*random_tables(50, 5), 0.1)
    lazy.step(*random_batch(0, 200, 50, 5))  # all have moments
    for seed in range(1, 5):
        before = state_of(lazy)
        rows, *gradients = random_batch(seed, 12, 50, 5)
        lazy.step(rows, *gradients)
        others = torch.ones(50, dtype=torch.bool).index_fill(0, rows, False)
        assert others.any()
        for old, new in zip(before, state_of(lazy), strict=True):
            assert torch.equal(old[others], new[others])
            assert (old[rows] != new[rows]).all()


@pytest.mark.usefixtures("either")
def test_a_step_without_look_ups_only_counts() -> None:
    lazy = LazyAdam(*random_tables(4, 2), 0.1)
    before = state_of(lazy)
    lazy.step(*random_batch(0, 0, 4, 2))
    assert all(torch.equal(a, b) for a, b in zip(before, state_of(lazy), strict=True))
    assert int(lazy.steps) == 1


@pytest.mark.usefixtures("either")
def test_nan_stays_in_its_row() -> None:
    rows, of_V, of_w = random_batch(1, 60, 30, 4)
    clean, broken = (LazyAdam(*random_tables(30, 4), 0.1) for _ in range(2))
    clean.step(rows, of_V, of_w)
    of_V[7, 2] = torch.nan
    broken.step(rows, of_V, of_w)
    assert broken.embedding[rows[7], 2].isnan() and not clean.embedding.isnan().any()
    rest = torch.arange(30) != rows[7]
    for a, b in zip(state_of(clean), state_of(broken), strict=True):
        assert torch.equal(a[rest], b[rest])


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", [LazyAdam, LazyAdagrad])
@pytest.mark.parametrize("shares", [2, 3, 50])
@pytest.mark.parametrize("decay", [0, 5])
def test_shares_step_as_one(kind: type[LazyAdam | LazyAdagrad], shares: int, decay: float) -> None:
    """Processes with one table in common, each of which steps its share, one after the other."""
    tables = random_tables(40, 5)
    whole = kind(*(t.clone() for t in tables), 0.1, decay)
    parts = [kind(*tables, 0.1, decay) for _ in range(shares)]
    memory = next(t for t in parts[0].state.values() if t.dim() > 1)
    for part in parts:
        part.move(*tables, lambda _: memory)
    for seed in range(3):
        batch = random_batch(seed, 60, 40, 5)
        whole.step(*batch)
        for number, part in enumerate(parts):
            part.step(*batch, Share(number, shares))
    whole.settle()
    for number, part in enumerate(parts):
        part.settle(Share(number, shares))
    for one, many in zip(whole.state.values(), parts[0].state.values(), strict=True):
        torch.testing.assert_close(one, many)
    torch.testing.assert_close((whole.embedding, whole.linear), tables)


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", [LazyAdam, LazyAdagrad])
def test_rows_below_zero_count_for_none(kind: type[LazyAdam | LazyAdagrad]) -> None:
    with_some, without = (kind(*random_tables(30, 4), 0.1) for _ in range(2))
    for seed in range(3):
        rows, *gradients = random_batch(seed, 40, 30, 4)
        with_some.step(torch.where(rows % 4 == 0, -1, rows), *gradients)
        without.step(rows[rows % 4 != 0], *(g[rows % 4 != 0] for g in gradients))
    torch.testing.assert_close(with_some.embedding, without.embedding)
    torch.testing.assert_close(with_some.linear, without.linear)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    look_ups=st.integers(0, 300),
    size=st.one_of(st.integers(1, 20), st.sampled_from([32, 64])),
    largest=st.sampled_from([1, 2, 100, 2**11, 2**12, 2**33]),
    sum_them=st.sampled_from([kernel.sum_rows, plain_sum_rows]),
)
def test_sums_per_row(
    seed: int,
    look_ups: int,
    size: int,
    largest: int,
    sum_them: Callable[..., tuple[Tensor, Tensor]],
) -> None:
    random = np.random.default_rng(seed)
    rows = random.choice(random.integers(0, largest, 40), look_ups)
    wide = random.normal(size=(look_ups, size + 3)).astype(np.float32)
    expected = np.zeros((len(np.unique(rows)), size + 1))
    distinct, place = np.unique(rows, return_inverse=True)
    np.add.at(expected, place, wide[:, : size + 1].astype(np.float64))

    gradients = torch.from_numpy(wide)  # whose columns are those of a larger array
    found, sums = sum_them(torch.from_numpy(rows), gradients[:, :size], gradients[:, size])
    np.testing.assert_array_equal(found.numpy(), distinct)
    np.testing.assert_allclose(sums.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_threads_change_no_bit() -> None:
    batches = [random_batch(seed, 5000, 700, 9) for seed in range(3)]
    results = []
    for number in (1, 2, 5):
        adam = LazyAdam(*random_tables(700, 9), 0.1)
        with threads(number):
            for batch in batches:
                adam.step(*batch)
            results.append([*state_of(adam), *sum_rows(*batches[0])])
    for others in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], others, strict=True))


def test_strides_do_not_matter() -> None:
    rows, of_V, _ = random_batch(6, 30, 20, 4)
    turned = of_V.T.contiguous().T
    once = torch.tensor(0.5).expand(30)
    for a, b in zip(
        kernel.sum_rows(rows, turned, once), kernel.sum_rows(rows, of_V, once.clone()), strict=True
    ):
        assert torch.equal(a, b)


def test_more_threads_than_look_ups() -> None:
    rows, of_V, of_w = random_batch(3, 3, 20, 2)
    with threads(8):
        found, sums = kernel.sum_rows(rows, of_V, of_w)
    assert torch.equal(found, rows.unique())
    torch.testing.assert_close(sums.sum(dim=0)[:2], of_V.sum(dim=0))


def test_two_ranks_step_as_one(tmp_path: Path) -> None:
    command(*HOROVODRUN, "-np", 2, "python", "-m", "tests.afm.lazy_steps", tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for a, b, alone in zip(first, second, steps_of(Ranks()), strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, alone, rtol=1e-4, atol=1e-5)


def test_slots_of_zero_look_nothing_up() -> None:
    rows = torch.tensor([[3, 8, 5], [3, 9, 5]])
    x = torch.tensor([[1.0, 0.5, 0.0], [1.0, -2.0, 1.0]])
    of_V, of_w = torch.arange(12.0).reshape(2, 3, 2), torch.arange(6.0).reshape(2, 3)
    found = looked_up(rows, x, of_V, of_w)
    assert found[0].tolist() == [3, 8, 3, 9, 5]
    assert found[1][:, 0].tolist() == [0, 2, 6, 8, 10]
    assert found[2].tolist() == [0, 1, 3, 4, 5]
    everything = looked_up(rows, torch.ones(2, 3), of_V, of_w)
    assert everything[0].tolist() == rows.flatten().tolist()


def test_float64_is_left_to_torch() -> None:
    V, w = (t.double() for t in random_tables(20, 3))
    rows, of_V, of_w = random_batch(4, 30, 20, 3)
    double, single = LazyAdam(V, w, 0.1), LazyAdam(*random_tables(20, 3), 0.1)
    assert not kernel.serves(V)
    double.step(rows, of_V.double(), of_w.double())
    single.step(rows, of_V, of_w)
    for a, b in zip(state_of(double), state_of(single), strict=True):
        torch.testing.assert_close(a.float(), b)


def test_without_a_compiler_plain_torch_is_used_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    kernel.library.cache_clear()
    try:
        batch = random_batch(5, 30, 20, 3)
        for _ in range(2):
            for a, b in zip(sum_rows(*batch), plain_sum_rows(*batch), strict=True):
                assert torch.equal(a, b)
    finally:
        kernel.library.cache_clear()
    (record,) = caplog.records
    assert "no C++ compiler; install g++, or set CXX" in record.getMessage()
