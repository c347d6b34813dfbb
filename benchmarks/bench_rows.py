"""A training step with 10 thousand and with 10 million rows of the embedding table, on one thread.

    python benchmarks/bench_rows.py    # half a minute, 3 GB; writes build/bench/rows.json

It is the step of afm/train.py on batches that are there. Blocks of steps with either table
alternate, and medians count, without the first steps of each block, which find the other's rows
cached. Rows are drawn uniformly, which is the worst case: nearly all are distinct and in no cache;
and log-uniformly, more like real values.
"""

import os

os.environ["THP_MEM_ALLOC_ENABLE"] = "1"  # as jobs/train.py sets it, before torch is imported

import time
from statistics import median

import torch
from torch import Tensor

from afm.look_ups import looked_up
from afm.model import build_model
from afm.objective import gradients
from afm.optimizers import Optimizers
from afm.ranks import Ranks
from afm.slots import Layout
from benchmarks.side_by_side import write
from conf.training import ModelConfig, TrainConfig
from features.spec import Input

BATCH, FIELDS, SIZE = 4096, 10, 16
SMALL, LARGE = 10_000, 10_000_000
BLOCKS, STEPS, WARM = 4, 12, 3
SETTINGS, RANKS = TrainConfig(), Ranks()


class Training:
    """A model that takes steps on random rows.

    Args:
        rows: R, rows of its embedding table.
    """

    def __init__(self, rows: int) -> None:
        self.values = rows // FIELDS  # of each field
        inputs = [
            Input(name=f"f{f}", side="user", encode="index", cardinality=self.values)
            for f in range(FIELDS)
        ]
        self.layout = Layout.of(inputs)
        self.model = build_model(self.layout, ModelConfig(embedding_size=SIZE), seed=0).train()
        self.optimizers = Optimizers.of(self.model, SETTINGS)

    def draw(self, g: torch.Generator, uniform: bool) -> Tensor:
        """Embedding rows of a batch (B, F)."""
        u = torch.rand(BATCH, FIELDS, generator=g, dtype=torch.float64)
        index = u * self.values if uniform else self.values**u
        return index.long().clamp_max(self.values - 1) + torch.tensor(self.layout.offsets)

    def seconds_of_step(self, rows: Tensor, x: Tensor, labels: Tensor) -> float:
        start = time.perf_counter()
        _, *found = gradients(
            self.model, rows, x, labels, None, SETTINGS, global_rows=BATCH, size=RANKS.size
        )
        self.optimizers.step(RANKS, SETTINGS.learning_rate, *looked_up(rows, x, *found))
        return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    x, labels = torch.ones(BATCH, FIELDS), (torch.rand(BATCH, generator=g) < 0.5).float()
    trainings = {rows: Training(rows) for rows in (SMALL, LARGE)}
    details = {}
    ratios = {}
    for name in ("uniform", "log-uniform"):
        seconds: dict[int, list[float]] = {SMALL: [], LARGE: []}
        for _ in range(BLOCKS):
            for rows, training in trainings.items():
                batches = [training.draw(g, name == "uniform") for _ in range(STEPS)]
                runs = [training.seconds_of_step(batch, x, labels) for batch in batches]
                seconds[rows] += runs[WARM:]
        small, large = (median(seconds[rows]) for rows in (SMALL, LARGE))
        details[name] = seconds
        ratios[f"{LARGE:,} rows / {SMALL:,} rows, {name}"] = large / small
        print(
            f"{name}: {1e3 * small:.1f} ms with {SMALL:,} rows, {1e3 * large:.1f} ms with "
            f"{LARGE:,} ({large / small:.2f} ×)"
        )
    print(write("rows", ratios, seconds=details))


if __name__ == "__main__":
    main()
