"""What an unfinished run needs to go on: one file per run, replaced after each epoch.

All randomness is derived from (seed, epoch, rank), so no random states are kept.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from afm.artifact import Epoch, curves_from_json, curves_to_json, replace_file

FOLDER, FILE = "checkpoint", "state.safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """A run as it stands after an epoch."""

    identity: str
    """Of the run, as in its manifest."""
    curves: Sequence[Epoch]
    """The epochs so far."""
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    """Adam's steps and moments."""
    best: Mapping[str, Tensor]
    """The weights of the best epoch so far."""


def write(folder: Path, checkpoint: Checkpoint) -> None:
    """Replaces the checkpoint of a run.

    Args:
        folder: The run's folder.
        checkpoint: Its state.
    """
    parts = {
        "weights": checkpoint.weights,
        "optimizer": checkpoint.optimizer,
        "best": checkpoint.best,
    }
    # Cloned: safetensors refuses tensors that share memory.
    tensors = {
        f"{part}/{name}": tensor.detach().cpu().contiguous().clone()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    about = {
        "identity": checkpoint.identity,
        "curves": curves_to_json(checkpoint.curves).decode(),
    }
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    replace_file(folder / FOLDER / FILE, lambda path: save_file(tensors, path, about))


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
        curves=curves_from_json(about["curves"]),
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
