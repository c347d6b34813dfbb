"""Adagrad on the rows that a batch looks up.

A row that is not looked up has the gradient 0, which leaves Adagrad's sum of squares and so its
weights as they are: unlike lazy Adam, this is dense Adagrad to the letter.

Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
"""

import torch
from torch import Tensor

from afm.kernels.rows import ALL, Share
from afm.lazy_rows import LazyRows
from afm.look_ups import sum_rows

EPSILON = 1e-10  # as in torch.optim.Adagrad


class LazyAdagrad(LazyRows):
    """Adagrad on the rows of the embedding table and of the linear weights.

    Args:
        embedding: The embedding table (R, K), changed in place.
        linear: The linear weights (R,), changed in place.
        learning_rate: Adagrad's step size.
        weight_decay: As in :class:`afm.lazy_rows.LazyRows`.

    Source: Duchi et al., "Adaptive Subgradient Methods", JMLR 2011, with ε outside of the root.
    """

    def __init__(
        self, embedding: Tensor, linear: Tensor, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        size, k = embedding.shape
        # Sums of squared gradients, that of the linear weight last.
        squares = embedding.detach().new_zeros(size, k + 1)
        super().__init__(embedding, linear, learning_rate, weight_decay, squares)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return super().state | {"squares": self.memory}

    @torch.no_grad()
    def step(self, rows: Tensor, embedding: Tensor, linear: Tensor, share: Share = ALL) -> None:
        """Steps along the summed gradients of the rows that were looked up.

        Args:
            rows: Rows that were looked up (N,), integers; below 0 those that count for none.
            embedding: Gradients of their embeddings (N, K).
            linear: Gradients of their linear weights (N,).
            share: Which of the rows to step.
        """
        distinct, sums = sum_rows(rows, embedding, linear, share)
        self.memory[distinct] = now = self.memory[distinct] + sums.square()  # (U, K + 1)
        steps = self.learning_rate * sums / (now.sqrt() + EPSILON)
        self.embedding[distinct] -= steps[:, :-1] / self.shrink()
        self.linear[distinct] -= steps[:, -1]
