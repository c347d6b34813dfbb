"""What the optimisers of single rows have in common (``afm.lazy_adam``, ``afm.lazy_adagrad``):
weight decay of all rows, which costs nothing for those that a batch does not look up.

With d the direction of Adam or Adagrad along gradients g, a step with decoupled weight decay λ is

    V <- (1 - η λ) V - η d(g)

for all rows, where d is 0 for those that are not looked up. What is kept is V / c with the
*shrinkage* c, one number for the whole table. So a step changes c, and the rows that are looked up:

    c <- (1 - η λ) c    V / c <- V / c - η d(g) / c

Now and then the table is multiplied by c, and c is 1 again.

Letters: R rows of the tables, K embedding.

Source: Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019 (AdamW).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from afm.kernels.rows import ALL, Share

LEAST = 1e-20
"""The shrinkage below which the table is multiplied by it: float32 goes down to 1e-38."""


class LazyRows:
    """Steps on the rows of two tables that a batch looks up, with a memory of each row.

    Args:
        embedding: The embedding table (R, K), changed in place.
        linear: The linear weights (R,), changed in place.
        learning_rate: The step size η.
        weight_decay: λ of the embeddings; η λ is less than 1.
        memory: What is remembered of each row (R, …), changed in place.
    """

    def __init__(
        self,
        embedding: Tensor,
        linear: Tensor,
        learning_rate: float,
        weight_decay: float,
        memory: Tensor,
    ) -> None:
        self.embedding, self.linear = embedding.detach(), linear.detach()
        self.learning_rate, self.memory = learning_rate, memory
        self.weight_decay = weight_decay
        self.shrinkage = torch.ones((), dtype=torch.float64)
        """c: what the embedding table has to be multiplied with."""

    @property
    def state(self) -> dict[str, Tensor]:
        """All that it remembers, to be kept, or filled."""
        return {"shrinkage": self.shrinkage}

    def shrink(self) -> float:
        """Decays all embeddings by a step.

        Returns:
            The shrinkage after it.
        """
        if self.weight_decay:
            self.shrinkage *= 1 - self.learning_rate * self.weight_decay
        return self.shrinkage.item()

    @property
    def should_settle(self) -> bool:
        """Whether the shrinkage gets too small for numbers of the table."""
        return self.shrinkage.item() < LEAST

    @torch.no_grad()
    def settle(self, share: Share = ALL) -> None:
        """Multiplies the embedding table by the shrinkage, which is 1 then.

        Args:
            share: Which of the rows to multiply.
        """
        if self.shrinkage != 1:
            first, end = (
                len(self.embedding) * n // share.of for n in (share.number, share.number + 1)
            )
            self.embedding[first:end] *= self.shrinkage.item()
            self.shrinkage.fill_(1)

    def move(self, embedding: Tensor, linear: Tensor, to: Callable[[Tensor], Tensor]) -> None:
        """Goes on with tables, and a memory of them, that are elsewhere.

        Args:
            embedding: The embedding table (R, K), as it was.
            linear: The linear weights (R,), as they were.
            to: Moves the memory.
        """
        self.embedding, self.linear = embedding.detach(), linear.detach()
        self.memory = to(self.memory)
