"""What the optimisers of single rows have in common (``afm.lazy_adam``, ``afm.lazy_adagrad``)."""

from collections.abc import Callable

from torch import Tensor


class LazyRows:
    """Steps on the rows of two tables that a batch looks up, with a memory of each row.

    Args:
        embedding: The embedding table (R, K), changed in place.
        linear: The linear weights (R,), changed in place.
        learning_rate: The step size.
        memory: What is remembered of each row (R, …), changed in place.
    """

    def __init__(
        self, embedding: Tensor, linear: Tensor, learning_rate: float, memory: Tensor
    ) -> None:
        self.embedding, self.linear = embedding.detach(), linear.detach()
        self.learning_rate, self.memory = learning_rate, memory

    def move(self, embedding: Tensor, linear: Tensor, to: Callable[[Tensor], Tensor]) -> None:
        """Goes on with tables, and a memory of them, that are elsewhere.

        Args:
            embedding: The embedding table (R, K), as it was.
            linear: The linear weights (R,), as they were.
            to: Moves the memory.
        """
        self.embedding, self.linear = embedding.detach(), linear.detach()
        self.memory = to(self.memory)
