"""The fused training step against autograd in float64, with what its dropout has to hold."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from afm.kernels import step as kernel
from tests.afm.random_batches import make_batch, make_model
from tests.afm.training import threads

GLOBAL_ROWS, L2 = 50, 0.3


@pytest.mark.parametrize(
    ("fields", "size", "units", "rows"),
    [(5, 16, 16, 37), (2, 3, 1, 1), (9, 20, 9, 300), (3, 16, 40, 600)],
)
@pytest.mark.parametrize("shrinkage", [1.0, 0.25])
def test_gradients_are_those_of_autograd(
    fields: int, size: int, units: int, rows: int, shrinkage: float
) -> None:
    model = make_model(fields, size, units)
    batch = make_batch(model, rows)
    loss, embedding, linear = kernel.gradients(
        model, *batch, global_rows=GLOBAL_ROWS, l2=L2, shrinkage=shrinkage
    )
    dense = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    model = model.double()
    model.zero_grad()
    model.embedding.data *= shrinkage
    places, x, labels, weights = batch
    vectors, numbers = (t.detach().requires_grad_() for t in model.look_up(places))
    logits = model.logits(vectors, numbers, x.double())
    losses = binary_cross_entropy_with_logits(logits, labels.double(), reduction="none")
    total = (losses * weights).sum()
    penalty = L2 * (vectors.square().sum(dim=2) * (x != 0)).sum()
    ((total + penalty) / GLOBAL_ROWS).backward()

    torch.testing.assert_close(loss, total.detach(), rtol=1e-5, atol=0)
    got = dense | {"look-ups": embedding, "linear weights": linear}
    wanted = {name: p.grad for name, p in model.named_parameters() if name in dense}
    wanted |= {"look-ups": vectors.grad, "linear weights": numbers.grad}
    assert len(got) == 8
    for name, grad in wanted.items():
        assert (got[name] - grad).norm() <= 1e-4 * grad.norm() + 1e-7, name


@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_dropout_drops_its_share(rate: float) -> None:
    model = make_model(6, 16, 4, embedding_dropout=rate)
    rows, _, labels, _ = make_batch(model, 500)
    torch.manual_seed(0)
    _, embedding, _ = kernel.gradients(model, rows, torch.ones(rows.shape), labels, global_rows=1)
    dropped = (embedding == 0).double()
    assert abs(dropped.mean() - rate) < 0.01
    # None of the fields, numbers and rows is dropped more often than others, by six sigmas.
    for dim in ((0, 1), (0, 2), (1, 2)):
        share, others = dropped.mean(dim), dropped.numel() / dropped.mean(dim).numel()
        assert (share - rate).abs().max() < 6 * (rate * (1 - rate) * 6 / others) ** 0.5


def test_gradients_belong_to_what_was_dropped() -> None:
    """A small step along the gradient changes the loss as the gradient says."""
    model = make_model(4, 16, 8, embedding_dropout=0.3, dropout=0.4)
    batch = make_batch(model, 64)

    def loss_and_gradients() -> tuple[Tensor, Tensor]:
        torch.manual_seed(5)  # the same numbers are dropped
        loss, embedding, _ = kernel.gradients(model, *batch, global_rows=1)
        grad = torch.zeros_like(model.embedding)
        return loss, grad.index_add(0, batch[0].flatten(), embedding.flatten(0, 1))

    before, grad = loss_and_gradients()
    step = 0.01 * before.float() / grad.square().sum()
    with torch.no_grad():
        model.embedding -= step / 2 * grad
        lower, _ = loss_and_gradients()
        model.embedding += step * grad
        upper, _ = loss_and_gradients()
    assert float(upper - lower) == pytest.approx(float(step * grad.square().sum()), rel=0.02)


def test_steps_differ_in_what_they_drop_and_repeat_with_the_seed() -> None:
    model = make_model(4, 16, 8, embedding_dropout=0.3)
    batch = make_batch(model, 64)
    torch.manual_seed(5)
    first = kernel.gradients(model, *batch, global_rows=1)
    second = kernel.gradients(model, *batch, global_rows=1)
    torch.manual_seed(5)
    again = kernel.gradients(model, *batch, global_rows=1)
    assert first[0] != second[0]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_threads_do_not_change_the_result() -> None:
    model = make_model(5, 16, 16, embedding_dropout=0.2)
    batch = make_batch(model, 1000)
    results = []
    for number in (1, 3):
        torch.manual_seed(2)
        with threads(number):
            results.append(kernel.gradients(model, *batch, global_rows=1000))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
