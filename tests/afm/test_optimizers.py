"""Steps of a whole model against dense training with torch's own optimisers."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from afm.look_ups import looked_up
from afm.model import FM, build_model
from afm.objective import gradients, losses
from afm.optimizers import Optimizers, clip
from afm.ranks import Ranks
from afm.slots import Layout
from conf.training import ModelConfig, TrainConfig

RATES = (0.1, 0.1, 0.02, 0.02, 0.05, 0.05)


def batches(layout: Layout) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Rows that come several times in a batch, their numbers, and labels."""
    g = torch.Generator().manual_seed(0)
    made = []
    for size in (3, 60, 8, 60, 1, 30):
        columns = [
            offset + torch.randint(0, min(4, i.cardinality), (size, i.width), generator=g)
            for i, offset in zip(layout.inputs, layout.offsets, strict=True)
        ]
        rows = torch.cat(columns, dim=1)
        x = torch.rand(rows.shape, generator=g).double() + 0.5
        made.append((rows, x, torch.randint(0, 2, (size,), generator=g).double()))
    return made


def stepped(model: FM, layout: Layout, settings: TrainConfig) -> dict[str, Tensor]:
    """The weights after steps as training takes them."""
    ranks = Ranks()
    optimizers = Optimizers.of(model, settings)
    for rate, (rows, x, labels) in zip(RATES, batches(layout), strict=True):
        _, *found = gradients(
            *(model, rows, x, labels, None, settings),
            global_rows=len(rows),
            size=1,
            shrinkage=optimizers.lazy.shrinkage.item(),
        )
        optimizers.step(ranks, rate, *looked_up(rows, x, *found))
    optimizers.lazy.settle()
    return model.state_dict()


def densely_stepped(
    model: FM, layout: Layout, most: float | None, decay: float = 0.0
) -> tuple[dict[str, Tensor], list[float]]:
    """The weights after steps on all rows of the tables, and the norms of the gradients."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, norms = torch.optim.Adagrad(parameters), []
    for rate, (rows, x, labels) in zip(RATES, batches(layout), strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        losses(model(rows, x), labels, "log").mean().backward()
        norms.append(float(clip_grad_norm_(parameters, most or 1e9)))
        with torch.no_grad():
            model.embedding *= 1 - rate * decay
        optimizer.step()
    return model.state_dict(), norms


@pytest.mark.parametrize("name", ["afm", "fm", "fwfm"])
@pytest.mark.parametrize(("most", "decay"), [(None, 0), (0.6, 0), (None, 3), (0.6, 9.9)])
def test_steps_are_those_of_dense_training(
    layout: Layout, name: str, most: float | None, decay: float
) -> None:
    # In float64: to Adagrad a gradient of rounding errors alone is as good as any.
    config = ModelConfig(name=name, embedding_size=4, attention_size=3)
    model = build_model(layout, config, seed=1).double().eval()
    twin = deepcopy(model)
    settings = TrainConfig(optimizer="adagrad", clip_norm=most, weight_decay=decay)
    expected, norms = densely_stepped(twin, layout, most, decay)
    assert most is None or min(norms) < most < max(norms)
    found = stepped(model, layout, settings)
    for weight, tensor in expected.items():
        torch.testing.assert_close(found[weight], tensor, msg=weight)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_tables_learn_at_a_rate_of_their_own(layout: Layout, optimizer: str) -> None:
    config = ModelConfig(embedding_size=4, attention_size=3)
    made = {}
    for rate in (0, 0.25, 1):
        settings = TrainConfig(optimizer=optimizer, table_rate=rate, weight_decay=2)
        model = build_model(layout, config, seed=1).double().eval()
        before = deepcopy(model.state_dict())
        after = stepped(model, layout, settings)
        made[rate] = {name: (after[name] - before[name]).abs().max() for name in after}
    for name in ("embedding", "linear"):
        assert made[0][name] == 0 < made[0.25][name] < 0.5 * made[1][name], name
    for name in ("attention.W", "p", "bias"):
        assert made[0][name] > 0.5 * made[1][name], name


def test_gradients_within_the_norm_stay_as_they_are() -> None:
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[4.0]])]
    clip(gradients, 5.1)
    assert [g.tolist() for g in gradients] == [[3.0, 0.0], [[4.0]]]
    clip(gradients, 1.0)
    torch.testing.assert_close(gradients[0], torch.tensor([0.6, 0.0]))
    torch.testing.assert_close(gradients[1], torch.tensor([[0.8]]))
