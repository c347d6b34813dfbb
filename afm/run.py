"""What a training run reads and where it writes: found, and checked, before it begins."""

from dataclasses import dataclass
from pathlib import Path

from afm.artifact import (
    LATEST,
    Manifest,
    TableVersion,
    identity_of,
    point_latest,
    read_manifest,
    run_folder,
)
from afm.errors import ArtifactError, TrainError
from afm.pretrained import Pretrained, find_pretrained
from afm.reader import Part, open_part
from afm.slots import Layout
from afm.storage import table_uri
from afm.tables import read_prepared
from conf.schema import Config
from conf.secrets import masked
from features.spec import Prepared


@dataclass(frozen=True)
class Plan:
    """All that a run reads, and where it writes."""

    config: Config
    prepared: Prepared
    features: TableVersion
    identity: str
    folder: Path
    pretrained: Pretrained | None
    """What the model starts from, if that is not chance."""
    train: Part
    validation: Part

    def require(self, identity: str) -> None:
        """Makes sure that what lies in the folder is of this run.

        Args:
            identity: That of what lies there.

        Raises:
            ArtifactError: It is of a run of another configuration or of other tables.
        """
        if identity != self.identity:
            raise ArtifactError(
                f"{self.folder} holds a run of another configuration or of other tables. "
                "Choose another train.run, or delete the folder"
            )


def make_plan(config: Config, rank: int, size: int) -> Plan:
    """Finds the tables of a run and checks that they can be learned from.

    Args:
        config: The configuration.
        rank: This rank.
        size: How many there are.

    Returns:
        The plan.

    Raises:
        TableError: The prepared tables cannot be read.
        TrainError: The tables were prepared with another configuration, or the training or
            validation rows are none, or all of one class.
        ArtifactError: ``model.pretrained`` names no run that the model can start from, or the
            run could not be made the latest.
    """
    root = config.tables.root
    prepared = read_prepared(root)
    if problem := prepared.mismatch(config):
        raise TrainError(problem)
    path = masked(table_uri(root, "features"))
    features = TableVersion(path=path, version=prepared.versions["features"])
    layout = Layout.of(prepared.spec.inputs)
    batch_size = config.train.batch_size
    training, validation = (
        open_part(
            root,
            features.version,
            split,
            layout,
            weighted=prepared.weight is not None,
            batch_size=batch_size,
            rank=rank,
            size=size,
        )
        for split in ("train", "validation")
    )
    _check_labels("training", training)
    _check_labels("validation", validation)
    pretrained = find_pretrained(config, prepared.spec)
    identity = identity_of(
        config, prepared.spec, features, None if pretrained is None else pretrained.identity
    )
    folder = run_folder(config, identity)
    latest = folder.parent / LATEST
    if latest.is_dir() and not latest.is_symlink():
        raise ArtifactError(
            f"{latest} is a folder, where a link to the newest run belongs: models were copied "
            "without their links. Move it away"
        )
    return Plan(config, prepared, features, identity, folder, pretrained, training, validation)


def finished_run(plan: Plan) -> Manifest | None:
    """Looks for the finished run of a plan, and makes it the latest.

    Args:
        plan: The plan.

    Returns:
        Its manifest, or None if it is not finished.

    Raises:
        ArtifactError: The folder holds a run of another configuration.
    """
    manifest = read_manifest(plan.folder)
    if manifest is not None:
        plan.require(manifest.identity)
        point_latest(plan.folder)
    return manifest


def _check_labels(name: str, part: Part) -> None:
    if not part.rows:
        raise TrainError(f"there are no {name} rows; change `split`, or prepare more data")
    if part.labels is not None and part.labels[0] == part.labels[1]:
        raise TrainError(
            f"all {part.rows:,} {name} rows have the label {part.labels[0]:g}: there is nothing "
            "to tell apart. Check `label` in the configuration"
        )
