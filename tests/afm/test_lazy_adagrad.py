"""Adagrad on looked-up rows against torch's dense Adagrad."""

import pytest
import torch
from torch.nn.functional import embedding

from afm.kernels import rows as kernel
from afm.lazy_adagrad import LazyAdagrad
from tests.afm.lazy_steps import random_batch, random_tables


@pytest.mark.parametrize("implementation", ["kernel", "plain"])
def test_steps_are_those_of_dense_adagrad(
    implementation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if implementation == "plain":
        monkeypatch.setattr(kernel, "serves", lambda *_: False)
    V, w = random_tables(40, 5)
    lazy = LazyAdagrad(V.clone(), w.clone(), 0.05)
    table, column = (t.double().requires_grad_() for t in (V, w.unsqueeze(1)))
    dense = torch.optim.Adagrad([table, column], lr=0.05)
    for seed in range(12):
        rows, of_V, of_w = random_batch(seed, 25, 40, 5)
        lazy.step(rows, of_V, of_w)
        dense.zero_grad()
        found = embedding(rows, table), embedding(rows, column)
        torch.autograd.backward(found, (of_V.double(), of_w.double().unsqueeze(1)))
        dense.step()
    squares = torch.cat([dense.state[t]["sum"] for t in (table, column)], dim=1)
    for mine, torchs in (
        (lazy.embedding, table),
        (lazy.linear, column[:, 0]),
        (lazy.memory, squares),
    ):
        torch.testing.assert_close(mine.double(), torchs.detach(), rtol=1e-4, atol=1e-5)


def test_rows_that_are_not_looked_up_keep_every_bit() -> None:
    lazy = LazyAdagrad(*random_tables(50, 3), 0.1)
    lazy.step(*random_batch(0, 200, 50, 3))
    before = [t.clone() for t in (lazy.embedding, lazy.linear, lazy.memory)]
    rows, *gradients = random_batch(1, 12, 50, 3)
    lazy.step(rows, *gradients)
    others = torch.ones(50, dtype=torch.bool).index_fill(0, rows, False)
    for old, new in zip(before, (lazy.embedding, lazy.linear, lazy.memory), strict=True):
        assert torch.equal(old[others], new[others])
        assert (old[rows] != new[rows]).all()
