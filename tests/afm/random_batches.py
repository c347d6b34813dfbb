"""A small AFM with a list among its fields, and random batches for it."""

import torch
from torch import Tensor

from afm.model import AFM, build_model
from afm.slots import Layout
from conf.training import ModelConfig
from features.spec import Input

VALUES = 7
Batch = tuple[Tensor, Tensor, Tensor, Tensor]
"""Rows, numbers, labels and weights."""


def make_model(fields: int, size: int, units: int, **config: float) -> AFM:
    """Fields of one value each, and one of up to three; no weight is 0."""
    inputs = [
        Input(name=f"f{f}", side="user", encode="index", cardinality=VALUES)
        for f in range(fields - 1)
    ]
    inputs.append(Input(name="many", side="item", encode="multi", cardinality=VALUES, width=3))
    settings = {"embedding_dropout": 0.0, **config}
    sizes = ModelConfig(embedding_size=size, attention_size=units, **settings)
    model = build_model(Layout.of(inputs), sizes, seed=0).train()
    assert isinstance(model, AFM)
    torch.manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.normal_(std=0.5)
    return model


def make_batch(model: AFM, size: int) -> Batch:
    """Random rows; the last slot is empty in half of them."""
    slots = len(model.field_of_slot)
    x = torch.rand(size, slots)
    x[:, -1] *= torch.rand(size) < 0.5
    labels = torch.randint(2, (size,)).float()
    return torch.randint(VALUES, (size, slots)), x, labels, torch.rand(size)
