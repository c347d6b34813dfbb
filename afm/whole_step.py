"""Steps whose parts are all the kernel's: log loss and Adam, in float32 on CPUs, on one machine.

They are the same to the last bit as gradients (:mod:`afm.objective`) and then optimisers
(:mod:`afm.optimizers`, :mod:`afm.together`). But of small steps, what Python does in between, and
starting threads once more, are a good part: a rank on its own takes a step in one call, one of
several in two.

Letters: B rows, S slots.
"""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from afm.dense import BETAS, EPSILON
from afm.kernels import step as kernel
from afm.lazy_adam import LazyAdam
from afm.model import FM
from afm.objective import kernel_serves
from afm.optimizers import Optimizers
from afm.together import Together
from conf.training import TrainConfig


@dataclass(frozen=True)
class WholeStep:
    """Steps of a model."""

    _kernel: kernel.Step
    _optimizers: Optimizers
    _lazy: LazyAdam
    _together: Together | None
    _only_indices: bool

    @classmethod
    def of(
        cls,
        model: FM,
        optimizers: Optimizers,
        together: Together | None,
        settings: TrainConfig,
        *,
        only_indices: bool,
    ) -> Self | None:
        """Makes steps of a model.

        Args:
            model: The model, in training; its arrays stay where they are.
            optimizers: Its optimisers.
            together: How it steps with other ranks, if there are any.
            settings: The ``train`` section.
            only_indices: Whether every number x is 1.

        Returns:
            The steps; None where the kernel lacks a part of them.
        """
        lazy, l2 = optimizers.lazy, settings.l2
        if not (kernel_serves(model, settings) and isinstance(lazy, LazyAdam)):
            return None
        if l2.attention or optimizers.clip_norm is not None:
            return None
        step = kernel.Step(model, lazy.tables, optimizers.dense.arrays, BETAS, l2.embedding)
        return cls(step, optimizers, lazy, together, only_indices)

    def __call__(
        self,
        learning_rate: float,
        rows: Tensor,
        x: Tensor,
        labels: Tensor,
        weights: Tensor | None,
        *,
        first: int,
        global_rows: int,
    ) -> float:
        """Takes a step.

        Args:
            learning_rate: That of this step.
            rows: Embedding rows (B, S).
            x: Their numbers (B, S).
            labels: 0 or 1 (B,).
            weights: What each row counts (B,); 1 if None.
            first: Rows of the step that lower ranks have.
            global_rows: Those that all have.

        Returns:
            The sum of the losses of these rows.

        Raises:
            RankLost: Another rank has ended.
        """
        lazy, together = self._lazy, self._together
        self._optimizers.set_rate(learning_rate)
        batch, shrinkage = (rows, x, labels, weights), lazy.shrinkage.item()
        embedding, linear = lazy.advance()
        others, epsilon = self._optimizers.dense.advance(learning_rate)
        rates = kernel.Rates(embedding, linear, others, EPSILON, epsilon)
        if together is None:
            loss = self._kernel.gradients(
                *batch, global_rows=global_rows, shrinkage=shrinkage, along=rates
            )
            if lazy.should_settle:
                lazy.settle()
            return loss
        into = together.room(first, len(rows))
        loss = self._kernel.gradients(
            *batch, global_rows=global_rows, shrinkage=shrinkage, into=into
        )
        numbers = None if self._only_indices else x
        look_ups, gradients = together.exchange(first, global_rows, rows, numbers)
        self._kernel.adam(look_ups, gradients, rates, together.share)
        together.end()
        return loss
