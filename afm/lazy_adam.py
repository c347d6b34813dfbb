"""Lazy Adam: a step touches the rows that its batch looks up, and costs nothing for the others.

Like attention, it is there twice: in plain torch, for every device and type, and as a kernel for
float32 on CPUs.

Letters: N look-ups, U distinct rows among them, R rows of the tables, K embedding.
"""

import math

import torch
from torch import Tensor

from afm.dense import BETAS, EPSILON
from afm.kernels import rows as kernel
from afm.kernels.rows import ALL, Share
from afm.lazy_rows import LazyRows
from afm.look_ups import plain_sum_rows


class LazyAdam(LazyRows):
    """Adam on the rows of the embedding table and of the linear weights.

    The semantics are those of :class:`torch.optim.SparseAdam`, not of dense Adam: a row that is not
    looked up keeps its weights and its moments, which decay only when it is; bias correction
    counts all steps. L2 likewise acts on rows that are looked up (:func:`afm.objective.penalty`);
    weight decay acts on all embeddings.

    Args:
        embedding: The embedding table (R, K), changed in place.
        linear: The linear weights (R,), changed in place.
        learning_rate: Adam's step size.
        weight_decay: As in :class:`afm.lazy_rows.LazyRows`.

    Source: Kingma & Ba, "Adam", ICLR 2015, algorithm 1, with ε outside of the correction.
    """

    def __init__(
        self, embedding: Tensor, linear: Tensor, learning_rate: float, weight_decay: float = 0.0
    ) -> None:
        size, k = embedding.shape
        self.steps = torch.zeros((), dtype=torch.int64)
        # One array, so that what a step needs of a row lies together: first and second moments of
        # its embedding, and last that of its linear weight.
        # Written here: with new_zeros, steps would wait for every page that is touched first.
        moments = embedding.detach().new_empty(size, 2, k + 1).zero_()
        super().__init__(embedding, linear, learning_rate, weight_decay, moments)

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return super().state | {"steps": self.steps, "moments": self.memory}

    @property
    def tables(self) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings (R, K), linear weights (R,) and their moments (R, 2, K + 1)."""
        return self.embedding, self.linear, self.memory

    def advance(self) -> tuple[float, float]:
        """Counts a step, and decays all embeddings by one.

        Returns:
            How far to step embeddings and linear weights, with the bias of the moments corrected.
        """
        self.steps += 1
        t, (beta1, beta2) = int(self.steps), BETAS
        rate = self.learning_rate * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        return rate / self.shrink(), rate

    @torch.no_grad()
    def step(self, rows: Tensor, embedding: Tensor, linear: Tensor, share: Share = ALL) -> None:
        """Steps along the summed gradients of the rows that were looked up.

        Args:
            rows: Rows that were looked up (N,), integers; below 0 those that count for none.
            embedding: Gradients of their embeddings (N, K).
            linear: Gradients of their linear weights (N,).
            share: Which of the rows to step.
        """
        fits = kernel.serves(embedding, linear, *self.tables)
        update = kernel.lazy_adam if fits else plain_update
        update(
            *(rows, embedding, linear, self.tables),
            rates=self.advance(),
            betas=BETAS,
            epsilon=EPSILON,
            share=share,
        )


def plain_update(
    rows: Tensor,
    embedding: Tensor,
    linear: Tensor,
    tables: tuple[Tensor, Tensor, Tensor],
    *,
    rates: tuple[float, float],
    betas: tuple[float, float],
    epsilon: float,
    share: Share = ALL,
) -> None:
    """A step of lazy Adam, as one reads it.

    Args:
        rows: Rows that were looked up (N,), integers; below 0 those that count for none.
        embedding: Gradients of their embeddings (N, K).
        linear: Gradients of their linear weights (N,).
        tables: Embeddings (R, K), linear weights (R,) and moments (R, 2, K + 1), changed in place.
        rates: The step sizes of embeddings and linear weights, with the bias of the moments
            corrected.
        betas: Decay of the moments.
        epsilon: Added to the denominator.
        share: Which of the rows to step.
    """
    V, w, moments = tables
    distinct, sums = plain_sum_rows(rows, embedding, linear, share)
    decay = sums.new_tensor(betas).unsqueeze(1)  # (2, 1)
    powers = torch.stack([sums, sums.square()], dim=1)  # (U, 2, K + 1)
    moments[distinct] = now = powers.lerp(moments[distinct], decay)
    steps = now[:, 0] / (now[:, 1].sqrt() + epsilon)  # (U, K + 1)
    V[distinct] -= rates[0] * steps[:, :-1]
    w[distinct] -= rates[1] * steps[:, -1]
