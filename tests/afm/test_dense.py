"""Steps of the weights outside of tables against torch's optimisers."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.optim import Adagrad, Adam

from afm.dense import Dense

Name = Literal["adam", "adagrad"]
OPTIMIZERS = {"adam": Adam, "adagrad": Adagrad}
RATES = [0.1, 0.02, 0.05]


def weights() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {"W": (7, 5), "b": (7,), "w0": ()}
    return {n: torch.randn(s, generator=g).requires_grad_() for n, s in shapes.items()}


def give_gradients(to: dict[str, Tensor], seed: int) -> None:
    """Gives all but one, which the model does not use, a gradient."""
    g = torch.Generator().manual_seed(seed)
    for name, p in to.items():
        gradient = torch.randn(p.shape, generator=g)
        if name != "b":
            (p * gradient).sum().backward()


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_steps_are_those_of_torch(name: Name) -> None:
    mine, torchs = weights(), weights()
    dense, optimizer = Dense(name, mine), OPTIMIZERS[name](torchs.values())
    for seed, rate in enumerate(RATES):
        give_gradients(mine, seed)
        give_gradients(torchs, seed)
        dense.step(rate, dense.gradients)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        assert not dense.gradients.any()
    for weight in mine:
        torch.testing.assert_close(mine[weight], torchs[weight])


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_all_lies_where_the_weights_lie(name: Name) -> None:
    dense = Dense(name, {"W": torch.empty(7, 5, device="meta").requires_grad_()})
    assert {t.device.type for t in (dense.gradients, *dense.state.values())} == {"meta"}


@pytest.mark.parametrize("name", ["adam", "adagrad"])
def test_filled_state_goes_on(name: Name) -> None:
    whole, first = weights(), weights()
    dense, before = Dense(name, whole), Dense(name, first)
    for seed, rate in enumerate(RATES[:2]):
        for model, optimizer in ((whole, dense), (first, before)):
            give_gradients(model, seed)
            optimizer.step(rate, optimizer.gradients)
    second = {n: p.detach().clone().requires_grad_() for n, p in first.items()}
    after = Dense(name, second)
    for key, tensor in before.state.items():
        after.state[key].copy_(tensor)
    for model, optimizer in ((whole, dense), (second, after)):
        give_gradients(model, seed=2)
        optimizer.step(RATES[2], optimizer.gradients)
    assert all(torch.equal(whole[n], second[n]) for n in whole)
