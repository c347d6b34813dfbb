"""Steps of lazy Adam on random batches, by any number of ranks.

horovodrun -np 2 python -m tests.afm.lazy_steps <folder>    # writes <folder>/<rank>.pt
"""

import sys

import torch
from torch import Tensor

from afm.lazy_adam import LazyAdam
from afm.look_ups import of_all_ranks
from afm.ranks import Ranks

Batch = tuple[Tensor, Tensor, Tensor]


def random_batch(seed: int, look_ups: int, rows: int, size: int) -> Batch:
    """Looked-up rows (N,), half of them among the first three, and gradients (N, K) and (N,)."""
    g = torch.Generator().manual_seed(seed)
    few = torch.rand(look_ups, generator=g) < 0.5
    drawn = torch.randint(0, rows, (look_ups,), generator=g)
    drawn = torch.where(few, drawn % 3, drawn)
    return drawn, torch.randn(look_ups, size, generator=g), torch.randn(look_ups, generator=g)


def random_tables(rows: int, size: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(rows, size, generator=g), torch.randn(rows, generator=g)


def state_of(adam: LazyAdam) -> list[Tensor]:
    return [t.clone() for t in (adam.embedding, adam.linear, adam.memory)]


def steps_of(ranks: Ranks) -> list[Tensor]:
    """Four steps, one batch after the other cut in two; one part of the third is empty."""
    adam = LazyAdam(*random_tables(30, 4), 0.1)
    for seed, cut in enumerate((10, 39, 0, 25)):
        share = slice(None) if ranks.size == 1 else (slice(cut), slice(cut, None))[ranks.rank]
        adam.step(*of_all_ranks(ranks, *(t[share] for t in random_batch(seed, 40, 30, 4))))
    return state_of(adam)


def main() -> None:
    ranks = Ranks()
    torch.save(steps_of(ranks), f"{sys.argv[1]}/{ranks.rank}.pt")


if __name__ == "__main__":
    main()
