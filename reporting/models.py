"""The trained models of a pipeline that belong together."""

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from afm.artifact import LATEST, Artifact, load
from afm.errors import ArtifactError
from conf.schema import Config
from conf.training import ModelConfig
from reporting.missing import MissingStep

NAMES: tuple[str, ...] = get_args(ModelConfig.model_fields["name"].annotation)


@dataclass(frozen=True)
class Models:
    """Models of one spec, the configured one first, if it is trained."""

    by_name: dict[str, Artifact]
    notes: tuple[str, ...]
    """Why others are left out, a sentence each."""

    @property
    def main(self) -> Artifact:
        """The model that the page is about: the configured one, or the first there is.

        Raises:
            MissingStep: None is trained.
        """
        if not self.by_name:
            raise MissingStep("No model is trained yet.", "train")
        return next(iter(self.by_name.values()))


def find_models(config: Config) -> Models:
    """Reads the configured model and the latest of other kinds.

    Args:
        config: The pipeline.

    Returns:
        Those that are trained on the same features as the first of them.
    """
    found: dict[str, Artifact] = {}
    notes = []
    names = [config.model.name, *(n for n in NAMES if n != config.model.name)]
    for name in names:
        run = config.train.run if name == config.model.name else None
        if not (Path(config.models_root) / name / (run or LATEST)).exists():
            continue
        try:
            artifact = load(config.models_root, name, run)
        except ArtifactError as error:
            notes.append(f"{name} is left out: {error}.")
            continue
        first = next(iter(found.values()), artifact)
        if artifact.manifest.spec_hash == first.manifest.spec_hash:
            found[name] = artifact
        else:
            notes.append(f"{name} was trained on other features and is left out.")
    return Models(found, tuple(notes))
