"""The model folder: what a training run leaves, and how it is found again.

::

    <models root>/<model>/<run>/
        weights.safetensors     the best epoch's weights
        curves.json             loss and metrics of each epoch
        manifest.json           what made them; written last, so a folder that has it is finished
        checkpoint/             of a run that is not finished (see afm.checkpoint)
    <models root>/<model>/latest -> <run>
    <models root>/tune/         searches (see afm.search)

Every file is written under another name, synced and renamed, and nothing is pickled. This module
imports neither torch nor Spark: Spark's workers load models with it.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from afm.errors import ArtifactError
from afm.forward import Parameters, Weights
from afm.metrics import Metrics
from afm.slots import Layout
from conf.names import digest
from conf.schema import Config
from conf.section import Section
from conf.training import NOT_THE_MODEL
from features.spec import FeatureSpec

LATEST = "latest"
WEIGHTS, CURVES, MANIFEST = "weights.safetensors", "curves.json", "manifest.json"
_AGAIN = "Delete the folder and run jobs/train.py"
LIBRARIES = ("torch", "horovod", "petastorm", "pyarrow", "deltalake", "numpy", "safetensors")


class TableVersion(Section):
    """A Delta table at one of its versions."""

    path: str
    version: int


class Manifest(Section):
    """How a model was made, and how good it is."""

    format: Literal[1] = 1
    run: str
    identity: str
    """Digest of all that determines the weights, the number of ranks aside."""
    config: Config
    """Without secrets."""
    spec: FeatureSpec
    spec_hash: str
    features: TableVersion
    seed: int
    ranks: int
    epochs: int
    """Epochs trained; the weights are those of ``best_epoch``."""
    best_epoch: int
    """From 1; 0 where none is better than the pretrained weights that the run starts from."""
    validation: Metrics
    """Metrics of the best epoch on the validation rows."""
    libraries: dict[str, str]
    revision: str | None
    """Git commit of the code, where it lay in a repository."""
    weights_hash: str = ""
    """The :func:`hash_of` the weights; :func:`write` fills it in."""


@dataclass(frozen=True)
class Shares:
    """Where the time of training steps went, on each rank: shares of 1. The rest is computing."""

    data: tuple[float, ...] = ()
    """Waiting for the reader."""
    ranks: tuple[float, ...] = ()
    """Talking to the other ranks, and waiting for them (on GPUs, for what is computed, too)."""


@dataclass(frozen=True)
class Epoch:
    """A point of the learning curves."""

    number: int
    train_loss: float
    """Mean loss of the training rows, as met on the way, penalties aside."""
    validation: Metrics
    samples_per_second: float
    time: Shares = Shares()


_CURVES = TypeAdapter(tuple[Epoch, ...])


@dataclass(frozen=True)
class Artifact:
    """A finished model, as read from its folder."""

    folder: Path
    manifest: Manifest
    weights: dict[str, NDArray[np.float32]]
    """By name: ``bias`` (), ``linear`` (R,), ``embedding`` (R, K); for AFM also ``p`` (K,) and
    ``attention.`` with ``W`` (A, K), ``b`` (A,), ``h`` (A,), ``pair_bias`` (P,); for FwFM also
    ``pair_weights`` (P,); for each history that is encoded, ``history.<n>.`` and the names of
    ``afm.history_vectors``."""

    @property
    def layout(self) -> Layout:
        """Where each field stands in the embedding table."""
        return Layout.of(self.manifest.spec.inputs)

    def require(self, spec: FeatureSpec) -> None:
        """Makes sure that the model was trained on such features.

        Args:
            spec: The spec of the tables that the model is to be used on.

        Raises:
            ArtifactError: It was not; the message names what differs.
        """
        if self.manifest.spec_hash != spec.hash:
            lines = "".join(f"\n  {line}" for line in self.manifest.spec.difference(spec))
            raise ArtifactError(
                f"model {self.folder} was trained on other features (model first, tables "
                f"second):{lines}\nRun jobs/train.py on the present tables"
            )


def identity_of(
    config: Config, spec: FeatureSpec, features: TableVersion, pretrained: str | None = None
) -> str:
    """The digest of all that determines a model, the number of ranks aside.

    Args:
        config: The configuration; its ``model`` and ``train`` sections count.
        spec: The features' spec.
        features: The features table.
        pretrained: Identity of the run that the model starts from, if it does.

    Returns:
        16 hexadecimal digits.
    """
    return digest(
        config.model.model_dump_json(),
        config.train.model_dump_json(exclude=set(NOT_THE_MODEL)),
        spec.hash,
        features.model_dump_json(),
        *([] if pretrained is None else [pretrained]),
    )


def hash_of(weights: Weights) -> str:
    """The SHA-256 of weights, with their names and shapes.

    Args:
        weights: The weights, by name.

    Returns:
        64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for name, array in sorted(weights.items()):
        sha.update(f"{name} {array.dtype} {array.shape}\n".encode())
        sha.update(np.asarray(array, order="C").data)
    return sha.hexdigest()


def run_folder(config: Config, identity: str) -> Path:
    """The folder of a run.

    Args:
        config: The configuration.
        identity: Its :func:`identity_of`, which names the run if ``train.run`` does not.

    Returns:
        The folder; it need not be there.
    """
    return Path(config.models_root).resolve() / config.model.name / (config.train.run or identity)


def libraries() -> dict[str, str]:
    """Versions of Python and of the libraries that training uses."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in LIBRARIES}}


def revision() -> str | None:
    """Git commit of this code, ``-dirty`` if changed since; None outside a repository."""
    try:
        result = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        return None
    return result.stdout.strip() or None


def save(folder: Path, weights: Weights, curves: Sequence[Epoch], manifest: Manifest) -> Manifest:
    """Writes a finished run and makes it the latest.

    Args:
        folder: The run's folder.
        weights: Its weights.
        curves: Its epochs.
        manifest: Its manifest.

    Returns:
        The manifest as it was written.
    """
    written = write(folder, weights, curves, manifest)
    point_latest(folder)
    return written


def write(folder: Path, weights: Weights, curves: Sequence[Epoch], manifest: Manifest) -> Manifest:
    """Writes the files of a finished run, for those who know where.

    Args:
        folder: Where to.
        weights: Its weights.
        curves: Its epochs.
        manifest: Its manifest.

    Returns:
        The manifest as it was written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
    replace_file(folder / WEIGHTS, lambda path: save_file(arrays, path))
    replace_file(folder / CURVES, lambda path: path.write_bytes(curves_to_json(curves, indent=2)))
    written = manifest.model_copy(update={"weights_hash": hash_of(arrays)})
    about = written.model_dump_json(indent=2)
    replace_file(folder / MANIFEST, lambda path: path.write_text(about))
    return written


def point_latest(folder: Path) -> None:
    """Makes ``latest`` point to a finished run, in one step.

    Args:
        folder: The run's folder.
    """
    link = folder.parent / LATEST
    temporary = folder.parent / f".{LATEST}.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, link)


def read_manifest(folder: Path) -> Manifest | None:
    """Reads the manifest of a run.

    Args:
        folder: The run's folder.

    Returns:
        The manifest, or None if the run is not there or not finished.

    Raises:
        ArtifactError: The manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ArtifactError(_damaged(path, error)) from None
    if manifest.spec.hash != manifest.spec_hash:
        raise ArtifactError(
            f"{path}: its spec does not have the hash {manifest.spec_hash} that it names. {_AGAIN}"
        )
    return manifest


def _damaged(path: Path, error: ValidationError) -> str:
    """What to say of a file that is not what it should be."""
    first = error.errors()[0]
    found = f"{'.'.join(map(str, first['loc'])) or 'file'}: {first['msg']}"
    return f"{path} is damaged or from another version of this code ({found}). {_AGAIN}"


def read_curves(folder: Path) -> tuple[Epoch, ...]:
    """Reads the learning curves of a finished run.

    Args:
        folder: The run's folder.

    Returns:
        Its epochs.

    Raises:
        ArtifactError: The file is damaged, or not there.
    """
    path = folder / CURVES
    try:
        return curves_from_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"cannot read {path} ({error}). {_AGAIN}") from None
    except ValidationError as error:
        raise ArtifactError(_damaged(path, error)) from None


def load(models_root: str | Path, model: str, run: str | None = None) -> Artifact:
    """Reads a finished model.

    Args:
        models_root: Folder of the models.
        model: ``afm``, ``fm`` or ``fwfm``.
        run: Name of the run; the latest if left out.

    Returns:
        The model.

    Raises:
        ArtifactError: There is no such finished model, or its files are damaged.
    """
    models = Path(models_root) / model
    # Resolved once: `latest` may move to another run between the reading of two files.
    folder = Path(os.path.realpath(models / (run or LATEST)))  # where links go round, it stays
    if not os.path.exists(folder / MANIFEST):
        what = f"run {run!r}" if run else "model"
        raise ArtifactError(
            f"no finished {what} in {models}: run jobs/train.py with model.name={model} first"
        )
    return load_run(folder)


def load_run(folder: Path) -> Artifact:
    """Reads a finished run.

    Args:
        folder: Its folder.

    Returns:
        The model.

    Raises:
        ArtifactError: It is not finished, or its files are damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"no finished run in {folder}: run jobs/train.py first")
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"cannot read {folder / WEIGHTS} ({error}). {_AGAIN}") from None
    artifact = Artifact(folder=folder, manifest=manifest, weights=weights)
    rows = weights["embedding"].shape[0] if "embedding" in weights else 0
    if rows != artifact.layout.rows:
        raise ArtifactError(
            f"{folder / WEIGHTS} holds {rows} embeddings, but its manifest describes "
            f"{artifact.layout.rows}. {_AGAIN}"
        )
    try:
        for name, array in weights.items():
            if array.dtype != np.float32:
                raise ValueError(f"{name} is {array.dtype}, not float32")
        Parameters.of(weights, artifact.layout, manifest.config.model.scale)
    except ValueError as error:
        raise ArtifactError(
            f"{folder / WEIGHTS} does not fit its manifest ({error}). {_AGAIN}"
        ) from None
    if hash_of(weights) != manifest.weights_hash:
        raise ArtifactError(
            f"{folder / WEIGHTS} is damaged or from another version of this code: its weights are "
            f"not those that its manifest names. {_AGAIN}"
        )
    return artifact


def curves_to_json(curves: Sequence[Epoch], indent: int | None = None) -> bytes:
    """Epochs as JSON."""
    return _CURVES.dump_json(tuple(curves), indent=indent)


def curves_from_json(text: str | bytes) -> tuple[Epoch, ...]:
    """Epochs from JSON."""
    return _CURVES.validate_json(text)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that, whenever the machine stops, the old or the new one is there whole.

    Args:
        path: The file.
        write: Writes to the path it is given.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    write(temporary)
    _sync(temporary)
    os.replace(temporary, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
