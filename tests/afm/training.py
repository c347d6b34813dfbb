"""Training in tests, in this process, to its end or until it is killed."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from torch import Tensor

from afm import train as train_module
from afm.artifact import Manifest, load
from afm.metrics import Metrics
from afm.progress import Progress
from afm.ranks import Ranks
from afm.train import train
from conf.schema import Config

CPU = torch.device("cpu")


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Lets torch have so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors are faster on one thread, and other test processes want theirs."""
    with threads(1):
        yield


def run(config: Config, ranks: Ranks) -> tuple[Manifest, str]:
    """Trains; the manifest and what was reported."""
    stream = io.StringIO()
    return train(config, ranks, Progress(stream), CPU), stream.getvalue()


def weights_of(config: Config) -> dict[str, np.ndarray]:
    return load(config.models_root, config.model.name).weights


def assert_same_weights(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


class Killed(BaseException):
    """As abrupt as a kill, as far as training is concerned."""


def kill_in_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Lets training die while it measures an epoch, before that is kept."""
    real, calls = train_module.measure, count(1)

    def measure(*arguments: object) -> Metrics:
        if next(calls) == epoch:
            raise Killed
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(train_module, "measure", measure)


def kill_at_step(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Lets training die after a step, counted over all epochs, and trials."""
    real, calls = train_module._step, count(1)

    def one(*arguments: object) -> Tensor | float:
        loss = real(*arguments)  # type: ignore[arg-type]
        if next(calls) == step:
            raise Killed
        return loss

    monkeypatch.setattr(train_module, "_step", one)
