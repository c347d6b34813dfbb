"""How a model learns from gradients: its two tables row by row, its few other weights as a whole.

Letters: B rows, S slots, K embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from afm.dense import Dense
from afm.kernels.rows import ALL, Share
from afm.lazy_adagrad import LazyAdagrad
from afm.lazy_adam import LazyAdam
from afm.look_ups import of_all_ranks, sum_rows
from afm.model import FM
from afm.ranks import Ranks
from conf.training import TrainConfig

_TABLES = ("embedding", "linear")


@dataclass(frozen=True)
class Optimizers:
    """The optimisers of a model."""

    dense: Dense
    """Of all weights but the two tables."""
    lazy: LazyAdam | LazyAdagrad
    """Of the embedding table and the linear weights."""
    table_rate: float
    """What the learning rate is multiplied by for these."""
    clip_norm: float | None
    """Largest norm of the gradient of them all."""

    @classmethod
    def of(cls, model: FM, settings: TrainConfig) -> Self:
        """Makes the optimisers of a model, at their first step.

        Args:
            model: The model.
            settings: The ``train`` section.
        """
        adam, rate = settings.optimizer == "adam", settings.learning_rate
        tables = model.embedding, model.linear
        lazy = (LazyAdam if adam else LazyAdagrad)(*tables, rate, settings.weight_decay)
        others = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in _TABLES}
        dense = Dense(settings.optimizer, others)
        return cls(dense, lazy, settings.table_rate, settings.clip_norm)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that they remember, to be kept, or filled."""
        parts = {"dense": self.dense.state, "lazy": self.lazy.state}
        return {f"{part}/{key}": t for part, state in parts.items() for key, t in state.items()}

    def step(
        self,
        ranks: Ranks,
        learning_rate: float,
        rows: Tensor,
        embedding: Tensor,
        linear: Tensor,
    ) -> None:
        """Steps along the sum of all ranks' gradients.

        Args:
            ranks: The ranks.
            learning_rate: That of this step.
            rows: Embedding rows that this one looked up (N,).
            embedding: Gradients of their embeddings (N, K).
            linear: Gradients of their linear weights (N,). Those of the weights that are not in
                tables are where ``backward`` leaves them.

        Raises:
            RankLost: Another rank has failed.
        """
        gradients = self.dense.gradients
        if ranks.size > 1:
            gradients = ranks.sum(gradients)
        look_ups = of_all_ranks(ranks, rows, embedding, linear)
        if self.clip_norm is not None:
            # Only sums have the norm that the tables' gradients would have. They are summed once
            # more in the step, which costs little: by now each row comes once.
            distinct, sums = sum_rows(*look_ups)
            clip([sums, gradients], self.clip_norm)
            look_ups = distinct, sums[:, :-1], sums[:, -1]
        self.take(learning_rate, gradients, look_ups)
        if self.lazy.should_settle:
            self.lazy.settle()

    def set_rate(self, learning_rate: float) -> None:
        """Sets the rate of the tables for a step.

        Args:
            learning_rate: That of this step.
        """
        self.lazy.learning_rate = learning_rate * self.table_rate

    def take(
        self,
        learning_rate: float,
        gradients: Tensor,
        look_ups: tuple[Tensor, Tensor, Tensor],
        share: Share = ALL,
    ) -> None:
        """Steps along gradients that are those of all ranks by now.

        Args:
            learning_rate: That of this step.
            gradients: Of all weights but the two tables (D,).
            look_ups: Embedding rows (N,), with gradients of their embeddings (N, K) and of their
                linear weights (N,).
            share: Which rows of the tables to step.
        """
        self.set_rate(learning_rate)
        self.lazy.step(*look_ups, share)
        self.dense.step(learning_rate, gradients)


@torch.no_grad()
def clip(gradients: Sequence[Tensor], most: float) -> None:
    """Scales gradients down, all alike and in place, if their norm is too large.

    Args:
        gradients: Gradients of any shapes, whose norm is that of all their numbers together.
        most: The largest norm. As in :func:`torch.nn.utils.clip_grad_norm_`, what is longer ends a
            millionth short of it.
    """
    scale_down(gradients, norm_of(gradients), most)


def norm_of(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of all numbers of some gradients together, a scalar."""
    norms = torch.stack([torch.linalg.vector_norm(g) for g in gradients])
    return torch.linalg.vector_norm(norms)  # type: ignore[no-any-return]


def scale_down(gradients: Sequence[Tensor], norm: Tensor, most: float) -> None:
    """Scales gradients down in place, if they are part of one whose norm is too large.

    Args:
        gradients: Gradients of any shapes.
        norm: The norm of what they are part of.
        most: The largest norm.
    """
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor)
