"""Checkpoints as files."""

from pathlib import Path

import pytest
import torch

from afm import checkpoint
from afm.checkpoint import Checkpoint, Position, Writer
from afm.order import Leg
from tests.afm.some_metrics import curves_of


def test_checkpoint_is_read_as_it_was_when_it_was_written(tmp_path: Path) -> None:
    embedding = torch.arange(6.0).reshape(2, 3)
    position = Position(
        curves=tuple(curves_of(0.6, 0.7)),
        legs=(Leg(3, 7), Leg(2, 5)),
        sums=((0.1, 3.0), (1 / 3, 2.0)),
    )
    state = Checkpoint(
        identity="0123",
        position=position,
        weights={"bias": torch.tensor(1.5), "embedding": embedding},
        optimizer={"bias/step": torch.tensor(3.0)},
        best={"embedding": embedding.clone().T},
    )
    assert checkpoint.read(tmp_path) is None
    with Writer(tmp_path) as writer:
        writer.write(state)
        embedding.zero_()  # training goes on
        leftover = tmp_path / "checkpoint" / ".state.safetensors.1"
        leftover.parent.mkdir(exist_ok=True)
        leftover.touch()  # of a process that was killed while it wrote
        embedding.copy_(torch.arange(6.0).reshape(2, 3))
        writer.write(state)
    again = checkpoint.read(tmp_path)
    assert again is not None
    assert (again.identity, again.position) == ("0123", position)
    assert torch.equal(again.weights["embedding"], embedding)
    assert again.weights["bias"].shape == ()
    assert torch.equal(again.best["embedding"], embedding.T)
    assert again.optimizer["bias/step"].item() == 3.0
    assert [path.name for path in (tmp_path / "checkpoint").iterdir()] == ["state.safetensors"]


def test_checkpoint_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    state = Checkpoint(identity="0", position=Position(), weights={}, optimizer={}, best={})
    (tmp_path / "checkpoint").touch()  # a file where the folder should be
    with pytest.raises(FileExistsError), Writer(tmp_path) as writer:
        writer.write(state)


def test_sums_of_losses_go_on_on_other_numbers_of_ranks() -> None:
    position = Position(legs=(Leg(3, 1),), sums=((1.0, 5.0), (2.0, 6.0), (4.0, 8.0)))
    assert [position.sums_of(rank, 3) for rank in range(3)] == list(position.sums)
    assert [position.sums_of(rank, 2) for rank in range(2)] == [(7.0, 19.0), (0.0, 0.0)]
    assert Position().sums_of(0, 1) == (0.0, 0.0)
