"""Steps of ranks that share one machine, and so one copy of the tables.

Each puts the gradients of what it looked up where all can read them. Then each steps a share of the
rows, along the gradients of all: so the tables are gone through once for all ranks, not once by
each. Ranks on several machines have copies of their own (see ``afm.look_ups``).

Letters: B rows, S slots, K embedding.
"""

from typing import Self

import torch
from torch import Tensor

from afm.kernels.rows import ALL, Share
from afm.look_ups import sum_rows
from afm.machine import Machine
from afm.model import FM
from afm.optimizers import Optimizers, norm_of, scale_down
from afm.ranks import Ranks


class Together:
    """What the ranks of a machine have in common, and the steps they take with it.

    Args:
        machine: The machine.
        ranks: Its ranks.
        model: The model; its tables are moved to where all ranks see them.
        optimizers: Its optimisers; so is their memory of the tables.
        most: Most rows that a step has, over all ranks.
        slots: S.

    Raises:
        RankLost: Another rank has ended.
    """

    def __init__(
        self,
        machine: Machine,
        ranks: Ranks,
        model: FM,
        optimizers: Optimizers,
        most: int,
        slots: int,
    ) -> None:
        self._machine, self._optimizers, self._slots = machine, optimizers, slots
        self.share = Share(ranks.rank, ranks.size)
        """Which rows of the tables this rank steps."""
        for table in (model.embedding, model.linear):
            table.data = machine.share(table.data)
        optimizers.lazy.move(model.embedding, model.linear, machine.share)
        look_ups, size = most * slots, model.embedding.shape[1]
        self._rows = machine.share(torch.empty(look_ups, dtype=torch.int64))
        self._embedding = machine.share(model.embedding.new_empty(look_ups, size))
        self._linear = machine.share(model.linear.new_empty(look_ups))
        self._dense = machine.share(model.linear.new_empty(ranks.size, len(optimizers.dense)))
        self._norms = machine.share(model.linear.new_empty(ranks.size))

    @classmethod
    def of(
        cls,
        machine: Machine | None,
        ranks: Ranks,
        model: FM,
        optimizers: Optimizers,
        most: int,
        slots: int,
    ) -> Self | None:
        """As the class itself is called; None where ranks have no machine, or no CPU, in common."""
        if machine is None or model.embedding.device.type != "cpu":
            return None
        return cls(machine, ranks, model, optimizers, most, slots)

    def room(self, first: int, count: int) -> tuple[Tensor, Tensor]:
        """Where a rank puts its gradients of a step.

        Args:
            first: Rows of the step that lower ranks have.
            count: B, those that it has.

        Returns:
            Room for the gradients of the slots' embeddings (B, S, K) and of their linear weights
            (B, S).
        """
        mine = self._slice(first, count)
        embedding, linear = self._embedding[mine], self._linear[mine]
        return embedding.view(count, self._slots, -1), linear.view(count, self._slots)

    @torch.no_grad()
    def step(
        self, learning_rate: float, first: int, global_rows: int, rows: Tensor, x: Tensor | None
    ) -> None:
        """Steps along the sum of all ranks' gradients, which are in their room; those of the
        weights that are not in tables are where ``backward`` leaves them.

        Args:
            learning_rate: That of this step.
            first: Rows of the step that lower ranks have.
            global_rows: Those that all have.
            rows: Embedding rows (B, S).
            x: Their numbers (B, S); None if none is 0.

        Raises:
            RankLost: Another rank has ended.
        """
        look_ups, gradients = self.exchange(first, global_rows, rows, x)
        share = self.share
        if (most := self._optimizers.clip_norm) is not None:
            # Only sums have the norm that the tables' gradients would have.
            distinct, sums = sum_rows(*look_ups, share)
            self._norms[share.number] = norm_of([sums])
            self._machine.meet()
            norm = norm_of([self._norms, gradients])
            scale_down([sums, gradients], norm, most)
            look_ups, share = (distinct, sums[:, :-1], sums[:, -1]), ALL  # these are its own
        self._optimizers.take(learning_rate, gradients, look_ups, share)
        self.end()

    @torch.no_grad()
    def exchange(
        self, first: int, global_rows: int, rows: Tensor, x: Tensor | None
    ) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """Gives the others this rank's gradients, and gets those of all.

        Args:
            first: Rows of the step that lower ranks have.
            global_rows: Those that all have.
            rows: Embedding rows (B, S).
            x: Their numbers (B, S); None if none is 0.

        Returns:
            The look-ups of all: embedding rows (N,), below 0 those of 0, and the gradients of their
            embeddings (N, K) and linear weights (N,); and the sum of the gradients of the weights
            that are not in tables (D,).

        Raises:
            RankLost: Another rank has ended.
        """
        looked_up = rows if x is None else torch.where(x != 0, rows, -1)
        self._rows[self._slice(first, len(rows))] = looked_up.flatten()
        self._dense[self.share.number] = self._optimizers.dense.gradients
        self._machine.meet()
        every = self._slice(0, global_rows)
        look_ups = self._rows[every], self._embedding[every], self._linear[every]
        return look_ups, self._dense.sum(dim=0)

    def end(self) -> None:
        """Ends a step: waits until every rank has stepped its share.

        Raises:
            RankLost: Another rank has ended.
        """
        self._machine.meet()
        if self._optimizers.lazy.should_settle:
            self.settle()

    def settle(self) -> None:
        """Multiplies the embedding table by its shrinkage (``afm.lazy_rows``), each rank a share.

        Raises:
            RankLost: Another rank has ended.
        """
        self._optimizers.lazy.settle(self.share)
        self._machine.meet()

    def _slice(self, first: int, count: int) -> slice:
        return slice(first * self._slots, (first + count) * self._slots)
