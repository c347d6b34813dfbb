"""Steps of the few weights that are not in tables, by Adam or Adagrad.

They are stepped as one vector. Float32 on CPUs is stepped by a kernel for Adam, as calling torch
takes longer than the step; all else by the functions inside of torch's classes, as those loop over
weights. They are stepped on one thread: others would wait for the next step, spinning, and keep the
cores from all else.

Letters: N numbers of all weights together.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam

from afm.kernels import rows as kernel

BETAS, EPSILON = (0.9, 0.999), 1e-8  # as everywhere

MEMORY = {"adam": ("exp_avg", "exp_avg_sq"), "adagrad": ("sum",)}
"""What an optimiser remembers of each number, beside how many steps it has taken."""


@contextmanager
def _on_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Dense:
    """An optimiser of some weights.

    Args:
        optimizer: Which one, with torch's defaults.
        weights: The weights by name, at least one. They, and their gradients, are moved to one
            after the other in memory, and changed there.
    """

    def __init__(
        self, optimizer: Literal["adam", "adagrad"], weights: Mapping[str, Tensor]
    ) -> None:
        self._optimizer = optimizer
        self._weights = torch.cat([p.detach().flatten() for p in weights.values()])
        self.gradients = torch.zeros_like(self._weights)
        """Where ``backward`` leaves them (N,); 0 for weights that it does not reach."""
        sizes = [p.numel() for p in weights.values()]
        parts = self._weights.split_with_sizes(sizes), self.gradients.split_with_sizes(sizes)
        for p, weight, gradient in zip(weights.values(), *parts, strict=True):
            p.data, p.grad = weight.view_as(p), gradient.view_as(p)
        self._steps = torch.zeros((), device=self._weights.device)  # fused steps want it there
        self._memory = {key: torch.zeros_like(self._weights) for key in MEMORY[optimizer]}

    def __len__(self) -> int:
        return len(self._weights)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return {"steps": self._steps, **self._memory}

    @torch.no_grad()
    def step(self, learning_rate: float, gradients: Tensor) -> None:
        """Steps along gradients, and sets those that ``backward`` has left to 0.

        Args:
            learning_rate: The step size.
            gradients: Those, or their sums over all ranks (N,).
        """
        fits = self._optimizer == "adam" and kernel.serves(gradients, self._weights)
        (self._step_by_kernel if fits else self._step_by_torch)(learning_rate, gradients)
        self.gradients.zero_()

    @property
    def arrays(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of Adam: gradients, weights, and their first and second moments, each (N,)."""
        first, second = (self._memory[key] for key in MEMORY["adam"])
        return self.gradients, self._weights, first, second

    def advance(self, learning_rate: float) -> tuple[float, float]:
        """Counts a step of Adam.

        Args:
            learning_rate: The step size.

        Returns:
            The step size with the bias of the moments corrected, and ε, which is inside of that
            correction, as torch has it.
        """
        self._steps += 1
        first, second = (1 - beta ** self._steps.item() for beta in BETAS)
        return learning_rate * math.sqrt(second) / first, EPSILON * math.sqrt(second)

    def _step_by_kernel(self, learning_rate: float, gradients: Tensor) -> None:
        _, weights, *moments = self.arrays
        rate, epsilon = self.advance(learning_rate)
        kernel.adam(gradients, weights, moments, rate=rate, betas=BETAS, epsilon=epsilon)

    @_on_one_thread()
    def _step_by_torch(self, learning_rate: float, gradients: Tensor) -> None:
        weights, steps = [self._weights], [self._steps]
        if self._optimizer == "adam":
            adam(
                weights,
                [gradients],
                [self._memory["exp_avg"]],
                [self._memory["exp_avg_sq"]],
                [],
                steps,
                fused=True,
                amsgrad=False,
                beta1=BETAS[0],
                beta2=BETAS[1],
                lr=learning_rate,
                weight_decay=0.0,
                eps=EPSILON,
                maximize=False,
            )
        else:
            adagrad(
                weights,
                [gradients],
                [self._memory["sum"]],
                steps,
                fused=True,
                lr=learning_rate,
                weight_decay=0.0,
                lr_decay=0.0,
                eps=1e-10,
                maximize=False,
            )
