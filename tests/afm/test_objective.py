"""What training minimises, against its formulas."""

import numpy as np
import pytest
import torch

from afm.model import build_model
from afm.objective import losses, penalty
from afm.slots import Layout
from conf.training import L2, ModelConfig


def test_losses_against_their_formulas() -> None:
    scores, labels = torch.tensor([-2.0, 0.0, 0.5, 3.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    p = 1 / (1 + np.exp(-scores.double().numpy()))
    y = labels.numpy()
    logs = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    np.testing.assert_allclose(losses(scores, labels, "log").numpy(), logs, rtol=1e-6)
    assert losses(scores, labels, "squared").tolist() == [1.0, 1.0, 2.25, 4.0]


SLOTS = (torch.tensor([[1, 50, 74, 77, 75, 75]]), torch.tensor([[1, 1, 0.5, 1, 0, 0]]))


def test_penalty_on_embeddings_touches_looked_up_rows_only(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(embedding_size=4, attention_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    total = penalty(model, vectors, x, L2(embedding=0.5), global_rows=2, size=1)
    total.backward()
    touched = [1, 50, 74, 77]  # slots with x = 0 are padding
    assert model.embedding.grad is not None
    assert model.embedding.grad.abs().sum(dim=1).nonzero().flatten().tolist() == touched
    # λ/2 Σ v² over a step of two rows, by hand
    rows = model.embedding.detach().numpy()[touched].astype(np.float64)
    assert total.item() == pytest.approx(0.5 * (rows**2).sum() / 2)
    np.testing.assert_allclose(model.embedding.grad[touched].numpy(), 0.5 * rows, rtol=1e-6)


def test_penalty_on_attention_touches_W_only(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(embedding_size=4, attention_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    l2 = L2(attention=0.1)
    shares = [penalty(model, vectors, x, l2, global_rows=4, size=2) for _ in range(2)]
    sum(shares).backward()
    W = model.attention.W
    torch.testing.assert_close(W.grad, 0.2 * W.detach())
    assert all(p.grad is None for name, p in model.named_parameters() if name != "attention.W")


def test_penalty_of_an_fm_has_no_attention(layout: Layout) -> None:
    model = build_model(layout, ModelConfig(name="fm", embedding_size=4), seed=0)
    vectors, x = model.look_up(SLOTS[0])[0], SLOTS[1]
    assert penalty(model, vectors, x, L2(attention=0.1), global_rows=4, size=1).item() == 0
