"""Training steps of AFM by a peer, in an environment that may lack this project.

    python training_step.py CONTENDER FIELDS VALUES STEPS    # prints rows/s as JSON

Batches are in memory, which is the best that can happen to a peer. Whole steps are timed: look-up,
forward, backward and Adam. Contenders: ``deepctr`` and ``fuxictr``, as their packages have it, and
``torch`` and ``compile``, the paper's equations in plain torch, as they are and compiled.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, binary_cross_entropy_with_logits

BATCH, SIZE, UNITS, WARM = 4096, 16, 16, 2

Step = Callable[[Tensor, Tensor], None]
"""Trains on a batch: values (B, F) and labels (B,)."""


def deepctr(fields: int, values: int) -> Step:
    from deepctr_torch.inputs import SparseFeat
    from deepctr_torch.models import AFM

    columns = [SparseFeat(f"f{f}", values, embedding_dim=SIZE) for f in range(fields)]
    nothing = dict.fromkeys(["l2_reg_linear", "l2_reg_embedding", "l2_reg_att"], 0)
    model = AFM(columns, columns, attention_factor=UNITS, **nothing)
    model.compile("adam", "binary_crossentropy")
    model.train()

    def step(rows: Tensor, labels: Tensor) -> None:  # as its fit() does
        predicted = model(rows.float()).squeeze(-1)
        model.optim.zero_grad()
        loss = model.loss_func(predicted, labels, reduction="sum")
        (loss + model.get_regularization_loss() + model.aux_loss).backward()
        model.optim.step()

    return step


def fuxictr(fields: int, values: int) -> Step:
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import (
        FeatureEmbedding,
        InnerProductInteraction,
        LogisticRegression,
    )

    known = FeatureMap("bench", "")
    names = [f"f{f}" for f in range(fields)]
    for name in names:
        known.features[name] = {"type": "categorical", "source": "", "vocab_size": values}
    known.num_fields = fields

    class Afm(nn.Module):
        """The package has no AFM; its repository makes one of these layers."""

        def __init__(self) -> None:
            super().__init__()
            self.vectors = FeatureEmbedding(known, SIZE)
            self.linear = LogisticRegression(known)
            self.products = InnerProductInteraction(fields, output="elementwise_product")
            self.attention = nn.Sequential(
                nn.Linear(SIZE, UNITS), nn.ReLU(), nn.Linear(UNITS, 1, bias=False), nn.Softmax(1)
            )
            self.p = nn.Linear(SIZE, 1, bias=False)

        def forward(self, columns: dict[str, Tensor]) -> Tensor:
            products = self.products(self.vectors(columns))
            pooled = (self.attention(products) * products).sum(dim=1)
            return (self.linear(columns) + self.p(pooled)).sigmoid().squeeze(-1)

    model = Afm()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step(rows: Tensor, labels: Tensor) -> None:  # as its train_step() does
        adam.zero_grad()
        predicted = model(dict(zip(names, rows.unbind(1), strict=True)))
        binary_cross_entropy(predicted, labels).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        adam.step()

    return step


class PlainAfm(nn.Module):
    """Eq. 3 to 9 of Xiao et al., IJCAI 2017."""

    def __init__(self, fields: int, values: int) -> None:
        super().__init__()
        self.vectors = nn.Embedding(fields * values, SIZE)
        self.weights = nn.Embedding(fields * values, 1)
        self.bias = nn.Parameter(torch.zeros(()))
        self.W, self.h = nn.Linear(SIZE, UNITS), nn.Linear(UNITS, 1, bias=False)
        self.p = nn.Linear(SIZE, 1, bias=False)
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1))
        self.register_buffer("starts", torch.arange(fields) * values)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.starts
        v = self.vectors(rows)  # (B, F, K)
        products = v[:, self.pairs[0]] * v[:, self.pairs[1]]  # (B, P, K)
        attention = self.h(self.W(products).relu()).softmax(dim=1)  # (B, P, 1)
        pooled = (attention * products).sum(dim=1)  # (B, K)
        linear = self.weights(rows).sum(dim=(1, 2))
        return self.bias + linear + self.p(pooled).squeeze(1)


def plain(fields: int, values: int, *, compiled: bool) -> Step:
    model = PlainAfm(fields, values)
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    forward = torch.compile(model) if compiled else model

    def step(rows: Tensor, labels: Tensor) -> None:
        adam.zero_grad()
        binary_cross_entropy_with_logits(forward(rows), labels).backward()
        adam.step()

    return step


CONTENDERS: dict[str, Callable[[int, int], Step]] = {
    "deepctr": deepctr,
    "fuxictr": fuxictr,
    "torch": lambda fields, values: plain(fields, values, compiled=False),
    "compile": lambda fields, values: plain(fields, values, compiled=True),
}


def main(contender: str, fields: int, values: int, steps: int) -> None:
    """Takes the steps, after two untimed ones, and prints the median rows/s."""
    torch.manual_seed(0)
    step = CONTENDERS[contender](fields, values)
    seconds = []
    for _ in range(WARM + steps):
        rows = torch.randint(values, (BATCH, fields))
        labels = torch.randint(2, (BATCH,)).float()
        start = time.perf_counter()
        step(rows, labels)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"rows_per_second": BATCH / median(seconds[WARM:])}))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
