"""Steps in one call against gradients and optimisers one after the other, to the last bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from afm.artifact import load
from afm.look_ups import looked_up
from afm.model import FM, build_model
from afm.objective import gradients
from afm.optimizers import Optimizers
from afm.ranks import Ranks
from afm.slots import Layout
from afm.whole_step import WholeStep
from conf.training import ModelConfig, TrainConfig
from features.spec import Input
from tests.afm.conftest import ConfigOf
from tests.afm.random_batches import VALUES, make_batch, make_model
from tests.afm.training import assert_same_weights, threads
from tests.jobs.commands import HOROVODRUN, command

RATES = (0.1, 0.02, 0.05)
NEVER = 1e9
"""A norm that no gradient has: what looks at norms is not the kernel's, and scales by 1."""


def train_by_hand(
    settings: TrainConfig, size: int, rows: int, *, whole: bool
) -> tuple[FM, Optimizers, list[float]]:
    """Some steps: the model, its optimisers, and the sums of losses."""
    model = make_model(5, size, 9, embedding_dropout=0.2, dropout=0.1)
    optimizers, ranks = Optimizers.of(model, settings), Ranks()
    step = WholeStep.of(model, optimizers, None, settings, only_indices=False)
    assert step is not None
    losses = []
    for seed, rate in enumerate(RATES):
        torch.manual_seed(seed)
        batch = make_batch(model, rows)
        if whole:
            losses.append(step(rate, *batch, first=0, global_rows=rows))
        else:
            loss, *found = gradients(
                model,
                *batch,
                settings,
                global_rows=rows,
                size=1,
                shrinkage=optimizers.lazy.shrinkage.item(),
            )
            optimizers.step(ranks, rate, *looked_up(*batch[:2], *found))
            losses.append(loss.item())
    return model, optimizers, losses


@pytest.mark.parametrize("size", [16, 5])
@pytest.mark.parametrize("rows", [1, 300, 1000])
@pytest.mark.parametrize("number", [1, 3])
def test_steps_are_those_of_gradients_and_optimizers(size: int, rows: int, number: int) -> None:
    settings = TrainConfig.model_validate(
        {"weight_decay": 2.0, "table_rate": 0.5, "l2": {"embedding": 0.3}}
    )
    apart = train_by_hand(settings, size, rows, whole=False)
    with threads(number):
        together = train_by_hand(settings, size, rows, whole=True)
    assert together[2] == apart[2]
    for mine, other in zip(together[:2], apart[:2], strict=True):
        state, wanted = (o.state_dict() if isinstance(o, FM) else o.state for o in (mine, other))
        for name, tensor in wanted.items():
            assert torch.equal(state[name], tensor), name


def test_look_ups_of_0_leave_their_rows_as_they_are() -> None:
    settings, last = TrainConfig(), VALUES - 1
    model = make_model(3, 16, 4)
    optimizers = Optimizers.of(model, settings)
    step = WholeStep.of(model, optimizers, None, settings, only_indices=False)
    assert step is not None
    rows, x, labels, weights = make_batch(model, 64)
    step(0.1, rows, x, labels, weights, first=0, global_rows=64)  # all have moments
    rows %= last
    rows[:, 0], x[:, 0] = last, 0
    tables = optimizers.lazy.tables
    before = [table.detach().clone() for table in tables]
    step(0.1, rows, x, labels, weights, first=0, global_rows=64)
    for table, was in zip(tables, before, strict=True):
        assert torch.equal(table[last], was[last])
        assert not torch.equal(table[0], was[0])


@pytest.mark.parametrize(
    ("of_model", "of_training"),
    [
        ({"name": "fm"}, {}),
        ({}, {"loss": "squared"}),
        ({}, {"precision": "bf16"}),
        ({}, {"optimizer": "adagrad"}),
        ({}, {"clip_norm": 1.0}),
        ({}, {"l2": {"attention": 0.1}}),
    ],
)
def test_what_the_kernel_lacks_is_left_to_others(
    of_model: dict[str, Any], of_training: dict[str, Any]
) -> None:
    inputs = [Input(name=n, side="user", encode="index", cardinality=3) for n in "abc"]
    model = build_model(Layout.of(inputs), ModelConfig.model_validate(of_model), seed=0)
    settings = TrainConfig.model_validate(of_training)
    optimizers = Optimizers.of(model, settings)
    assert WholeStep.of(model.train(), optimizers, None, settings, only_indices=True) is None


@pytest.mark.parametrize("ranks_at_once", [1, 2])
def test_real_ranks_train_the_same_model(
    prepared_root: Path, config_of: ConfigOf, ranks_at_once: int
) -> None:
    path = prepared_root / "conf.yaml"
    config = config_of(prepared_root, train={"epochs": 2, "batch_size": 100})
    path.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_defaults=True)))
    weights = []
    for folder, overrides in (("whole", ()), ("apart", (f"train.clip_norm={NEVER}",))):
        models = prepared_root / f"{folder}{ranks_at_once}"
        command(
            *(*HOROVODRUN, "-np", str(ranks_at_once), "python", "jobs/train.py", path),
            *(f"tables.models={models}", *overrides),
        )
        weights.append(load(models, "afm").weights)
    assert_same_weights(*weights)
