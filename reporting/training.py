"""How training went: the learning curves of each model, and where its time went."""

from dataclasses import dataclass

import numpy as np

from afm.artifact import Artifact, Epoch, read_curves
from features.spec import Prepared
from reporting.models import Models


@dataclass(frozen=True)
class Training:
    """The training of a model."""

    name: str
    run: str
    ranks: int
    best_epoch: int
    epochs: tuple[Epoch, ...]
    seconds: float
    """Of the training steps of all epochs; not of validation and checkpoints."""
    samples_per_second: float
    waiting: float
    """Share of the time in which ranks waited for data, a mean over ranks."""
    communicating: float
    """Likewise, in which they talked to each other and waited for each other."""

    @property
    def computing(self) -> float:
        """The rest of the time."""
        return max(0.0, 1.0 - self.waiting - self.communicating)


def read_training(models: Models, prepared: Prepared) -> list[Training]:
    """Reads the learning curves of models.

    Args:
        models: The models, at least one.
        prepared: The tables that they were trained on.

    Returns:
        One for each model.

    Raises:
        MissingStep: No model is trained.
    """
    assert models.main
    rows = prepared.rows["train"]
    return [_training(name, artifact, rows) for name, artifact in models.by_name.items()]


def _training(name: str, artifact: Artifact, rows: int) -> Training:
    epochs, manifest = read_curves(artifact.folder), artifact.manifest
    seconds = np.array([rows / e.samples_per_second for e in epochs])
    shares = np.array([[_mean(e.time.data), _mean(e.time.ranks)] for e in epochs]).reshape(-1, 2)
    total = float(seconds.sum())
    waiting, communicating = seconds @ shares / total if total else (0.0, 0.0)
    return Training(
        name=name,
        run=manifest.run,
        ranks=manifest.ranks,
        best_epoch=manifest.best_epoch,
        epochs=epochs,
        seconds=total,
        samples_per_second=rows * len(epochs) / total if total else 0.0,
        waiting=float(waiting),
        communicating=float(communicating),
    )


def _mean(shares: tuple[float, ...]) -> float:
    return sum(shares) / len(shares) if shares else 0.0
