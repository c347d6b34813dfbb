"""Training by two real ranks against that by one."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from afm.artifact import Artifact, load
from afm.forward import Parameters, forward
from afm.ranks import Ranks
from conf.load import load as load_config
from tests.afm.conftest import ConfigOf
from tests.afm.planted import planted_rows
from tests.afm.some_metrics import smooth
from tests.afm.training import one_thread, run  # noqa: F401
from tests.jobs.commands import HOROVODRUN, command


def logits_of(model: Artifact) -> np.ndarray:
    """What a model gives for the planted test rows."""
    scale = model.manifest.config.model.scale
    parameters = Parameters.of(model.weights, model.layout, scale)
    return forward(parameters, planted_rows(400, seed=3))


@pytest.fixture
def config_file(prepared_root: Path, config_of: ConfigOf) -> Path:
    """A configuration as a file, for real processes.

    Its steps hold all rows, so that training does not depend on how rows fall into batches.
    """
    path = prepared_root / "conf.yaml"
    config = config_of(
        prepared_root,
        model={"embedding_dropout": 0.0},
        train={
            "batch_size": 3000,
            "epochs": 10,
            "learning_rate": 0.05,
            "l2": {"embedding": 0.01, "attention": 0.01},
        },
    )
    path.write_text(yaml.safe_dump(json.loads(config.model_dump_json(exclude_defaults=True))))
    return path


CLIPPED = (
    "train.clip_norm=0.02",
    "train.weight_decay=5",
    "train.table_rate=0.9",
    "train.schedule={warmup: 3, plateau: {}}",
    "model.name=fwfm",
)


ONE_MACHINE = ("-np", "2")
# To Horovod, names are machines: these ranks have nothing in common.
TWO_MACHINES = (*ONE_MACHINE, "-H", "localhost:1,127.0.0.1:1", "--network-interface", "lo")


@pytest.mark.parametrize("where", [ONE_MACHINE, TWO_MACHINES], ids=["one machine", "two machines"])
@pytest.mark.parametrize("overrides", [(), CLIPPED], ids=["plain", "clipped"])
def test_two_ranks_train_the_model_of_one(
    config_file: Path, ranks: Ranks, where: tuple[str, ...], overrides: tuple[str, ...]
) -> None:
    config = load_config(config_file, overrides)
    one, _ = run(config, ranks)

    together = (*HOROVODRUN, *where, "python", "jobs/train.py", config_file)
    result = command(*together, f"tables.models={config_file.parent}/two", *overrides)
    other = load(config_file.parent / "two", config.model.name)
    two = other.manifest
    assert (one.ranks, two.ranks) == (1, 2)
    assert two.best_epoch == one.best_epoch
    assert smooth(two.validation) == pytest.approx(smooth(one.validation), abs=1e-4)
    mine = load(config.models_root, config.model.name)
    for name, array in mine.weights.items():
        # What a unit that is on for all pairs adds to them, softmax takes out again: the gradient
        # of its b is what rounding leaves of 0, and Adam makes steps of any size of that.
        if name != "attention.b":
            np.testing.assert_allclose(other.weights[name], array, atol=1e-3, err_msg=name)
    np.testing.assert_allclose(logits_of(other), logits_of(mine), atol=1e-5)
    lines = [line for line in result.stderr.splitlines() if "epoch " in line]
    assert len(lines) == two.epochs and all(line.startswith("[0]") for line in lines)
