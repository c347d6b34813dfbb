"""Steps of the few weights that are not in tables, by torch's own Adam and Adagrad.

Their functions are called as they are: the classes around them take several times as long as such
small weights need, a tenth of the whole step where there are few fields.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam

MEMORY = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",)}
"""What an optimiser remembers of a weight, beside the number of its steps."""


class Dense:
    """An optimiser of some weights.

    Args:
        optimizer: Which one, with torch's defaults.
        weights: The weights by name, changed in place.
    """

    def __init__(
        self, optimizer: Literal["adam", "adagrad"], weights: Mapping[str, Tensor]
    ) -> None:
        self.weights = dict(weights)
        self._optimizer = optimizer
        self._memory = {
            name: {
                "step": torch.zeros((), device=p.device),
                **{key: torch.zeros_like(p) for key in MEMORY[optimizer]},
            }
            for name, p in weights.items()
        }

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return {
            f"{name}/{key}": tensor
            for name, memory in self._memory.items()
            for key, tensor in memory.items()
        }

    @property
    def gradients(self) -> list[Tensor]:
        """Where ``backward`` has left them."""
        return [p.grad for p in self.weights.values() if p.grad is not None]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Steps along the gradients, and removes them.

        Args:
            learning_rate: The step size.
        """
        there = [name for name, p in self.weights.items() if p.grad is not None]
        weights, gradients = [self.weights[name] for name in there], self.gradients

        def remembered(key: str) -> list[Tensor]:
            return [self._memory[name][key] for name in there]

        steps = remembered("step")
        if self._optimizer == "adam":
            adam(
                weights,
                gradients,
                remembered("exp_avg"),
                remembered("exp_avg_sq"),
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=0.9,
                beta2=0.999,
                lr=learning_rate,
                weight_decay=0.0,
                eps=1e-8,
                maximize=False,
            )
        else:
            adagrad(
                weights,
                gradients,
                remembered("sum"),
                steps,
                fused=True,
                lr=learning_rate,
                weight_decay=0.0,
                lr_decay=0.0,
                eps=1e-10,
                maximize=False,
            )
        for p in weights:
            p.grad = None
