"""How a model learns from gradients: its two tables row by row, its few other weights as a whole.

Letters: B rows, S slots, K embedding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.optim import Adagrad, Adam, Optimizer

from afm.lazy_adagrad import LazyAdagrad
from afm.lazy_adam import LazyAdam, looked_up, of_all_ranks
from afm.model import FM
from afm.ranks import Ranks
from conf.schema import TrainConfig

_TABLES = ("embedding", "linear")


@dataclass(frozen=True)
class Optimizers:
    """The optimisers of a model."""

    dense: Optimizer
    """Of all weights but the two tables."""
    weights: Mapping[str, Tensor]
    """These weights."""
    lazy: LazyAdam | LazyAdagrad
    """Of the embedding table and the linear weights."""

    @classmethod
    def of(cls, model: FM, settings: TrainConfig, ranks: Ranks) -> Self:
        """Makes the optimisers of a model, at their first step.

        Args:
            model: The model.
            settings: The ``train`` section.
            ranks: The ranks, whose gradients are added up.
        """
        adam, rate = settings.optimizer == "adam", settings.learning_rate
        lazy = (LazyAdam if adam else LazyAdagrad)(model.embedding, model.linear, rate)
        others = {n: p for n, p in model.named_parameters() if p.requires_grad and n not in _TABLES}
        dense = ranks.optimizer((Adam if adam else Adagrad)(others.values(), lr=rate), model)
        remembered = ("exp_avg", "exp_avg_sq") if adam else ("sum",)
        for p in others.values():  # as Adam does at its first step; here, so that it can be filled
            zeros = {name: torch.zeros_like(p) for name in remembered}
            dense.state[p] = {"step": torch.zeros(()), **zeros}
        return cls(dense, others, lazy)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that they remember, to be kept, or filled."""
        dense = {
            f"{name}/{key}": tensor
            for name, p in self.weights.items()
            for key, tensor in self.dense.state[p].items()
        }
        return dense | {f"lazy/{key}": tensor for key, tensor in self.lazy.state.items()}

    def step(self, ranks: Ranks, rows: Tensor, x: Tensor, vectors: Tensor, weights: Tensor) -> None:
        """Steps along the sum of all ranks' gradients, which ``backward`` has left.

        Args:
            ranks: The ranks.
            rows: Embedding rows that this one looked up (B, S).
            x: Their numbers (B, S).
            vectors: Their embeddings (B, S, K).
            weights: Their linear weights (B, S).

        Raises:
            RankLost: Another rank has failed.
        """
        ranks.step(self.dense)
        self.dense.zero_grad()
        self.lazy.step(*of_all_ranks(ranks, *looked_up(rows, x, vectors.grad, weights.grad)))
