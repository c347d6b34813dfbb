"""What an unfinished run needs to go on: one file per run, replaced every so many steps.

All randomness is derived from (seed, epoch, step, rank), so no random states are kept.
"""

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from afm.artifact import Epoch, replace_file
from afm.metrics import Metrics
from afm.order import Leg

FOLDER, FILE = "checkpoint", "state.safetensors"


@dataclass(frozen=True)
class Position:
    """How far a run has come."""

    start: Metrics | None = None
    """Validation metrics of the weights that it starts from, where these are trained already."""
    curves: tuple[Epoch, ...] = ()
    """The epochs that are over."""
    legs: tuple[Leg, ...] = ()
    """Steps of the next one."""
    sums: tuple[tuple[float, float], ...] = ()
    """Of each rank of the last leg, the sums of the losses and of the weights of the rows that it
    knows of the next epoch."""

    @property
    def steps(self) -> int:
        """Steps taken of the next epoch."""
        return sum(leg.steps for leg in self.legs)

    def sums_of(self, rank: int, size: int) -> tuple[float, float]:
        """Where a rank's sums go on; the leader takes those of ranks that are gone.

        Args:
            rank: The rank.
            size: How many there are now.

        Returns:
            The sums.
        """
        if len(self.sums) == size:
            return self.sums[rank]
        if rank:
            return 0.0, 0.0
        return sum(loss for loss, _ in self.sums), sum(weight for _, weight in self.sums)


_POSITION = TypeAdapter(Position)


def position_to_json(position: Position) -> str:
    """A position as JSON."""
    return _POSITION.dump_json(position).decode()


def position_from_json(text: str) -> Position:
    """A position from JSON."""
    return _POSITION.validate_json(text)


@dataclass(frozen=True)
class Checkpoint:
    """A run as it stands after a step."""

    identity: str
    """Of the run, as in its manifest."""
    position: Position
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """Adam's steps and moments."""
    best: Mapping[str, Tensor]
    """The weights of the best epoch so far, which stay as they are."""


class Writer:
    """Writes checkpoints of a run on a thread of its own: training waits for a copy in memory only.

    Leaving its context waits for what is being written.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if self._written and error is None:
            self._written.result()

    def write(self, checkpoint: Checkpoint) -> None:
        """Replaces the run's checkpoint, once the one before is written.

        Args:
            checkpoint: Its state; what may change, may as soon as this returns.
        """
        if self._written:
            self._written.result()
        parts = {"weights": checkpoint.weights, "optimizer": checkpoint.optimizer}
        tensors = {
            f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
            for part, named in parts.items()
            for name, tensor in named.items()
        } | {f"best/{name}": tensor.cpu().contiguous() for name, tensor in checkpoint.best.items()}
        about = {
            "identity": checkpoint.identity,
            "position": position_to_json(checkpoint.position),
        }
        self._written = self._thread.submit(_write, self._folder / FOLDER, tensors, about)


def _write(folder: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".{FILE}.*"):  # of a process that was killed while it wrote
        leftover.unlink()
    replace_file(folder / FILE, lambda path: save_file(tensors, path, about))


def read(folder: Path) -> Checkpoint | None:
    """Reads the checkpoint of a run.

    Args:
        folder: The run's folder.

    Returns:
        Its state, or None if there is no checkpoint.
    """
    path = folder / FOLDER / FILE
    if not path.exists():
        return None
    parts: dict[str, dict[str, Tensor]] = {"weights": {}, "optimizer": {}, "best": {}}
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        for key in file.keys():  # noqa: SIM118 (a handle, not a dict)
            part, _, name = key.partition("/")
            parts[part][name] = file.get_tensor(key)
    return Checkpoint(
        identity=about["identity"],
        position=position_from_json(about["position"]),
        weights=parts["weights"],
        optimizer=parts["optimizer"],
        best=parts["best"],
    )


def remove(folder: Path) -> None:
    """Removes the checkpoint of a run that is finished.

    Args:
        folder: The run's folder.
    """
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
