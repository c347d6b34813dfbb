"""Starting from a finished FM, as the AFM paper does, or FwFM: from its embeddings, linear weights
and bias, and what encodes its histories.

An AFM of the scale ``pairs`` starts as exactly that model. With h = 0 attention is the softmax of
the pairs' bias c, the same for all rows, and for the FwFM's weights r_ij

    Σ_ij r_ij <v_i, v_j> = pᵀ (P Σ_ij a_ij (v_i∘v_j)),    c = ln r,  p = (mean of r, …)

where all r_ij are above 0, as attention is.
"""

from pathlib import Path
from typing import NamedTuple

import torch

from afm.artifact import LATEST, load_run, read_manifest
from afm.errors import ArtifactError
from afm.model import AFM, FM
from conf.schema import Config
from conf.training import STARTS_AS_FWFM
from features.spec import FeatureSpec

NAMES = ("fm", "fwfm")
"""What other models start from."""
_LEAST = 1e-3
"""Of the weights of pairs, 1 in an FM, that attention stands for."""


class Pretrained(NamedTuple):
    """A finished model that another starts from."""

    folder: Path
    identity: str
    """Of its run, as in its manifest."""


def find_pretrained(config: Config, spec: FeatureSpec) -> Pretrained | None:
    """Finds the run that ``model.pretrained`` names, and checks that a model can start from it.

    Args:
        config: The configuration.
        spec: The features' spec.

    Returns:
        The run; None if none is named.

    Raises:
        ArtifactError: There is no such finished run, or it is one of another model, of other
            features, of another K or of histories that are encoded otherwise.
    """
    named = config.model.pretrained
    if named is None:
        return None
    of_name = Path(config.models_root) / named / LATEST
    # Resolved once: `latest` may move to another run.
    folder = (of_name if named in NAMES else Path(named)).resolve()
    begin = f"model.pretrained = {named!r}:"
    train_it = f"run jobs/train.py with model.name={named if named in NAMES else 'fm'}"
    manifest = read_manifest(folder)
    if manifest is None:
        raise ArtifactError(f"{begin} there is no finished run in {folder}; {train_it} first")
    model = manifest.config.model
    if model.name == "fwfm" and not config.model.starts_as_fwfm:
        raise ArtifactError(f"{begin} {folder} is a run of fwfm; {STARTS_AS_FWFM}")
    if model.name not in NAMES:
        raise ArtifactError(f"{begin} {folder} is a run of {model.name}, not of fm; {train_it}")
    if manifest.spec_hash != spec.hash:
        lines = "".join(f"\n  {line}" for line in manifest.spec.difference(spec))
        raise ArtifactError(
            f"{begin} {folder} was trained on other features (that run first, the tables "
            f"second):{lines}\nTo have one of these tables, {train_it}"
        )
    if model.embedding_size != config.model.embedding_size:
        raise ArtifactError(
            f"{begin} the embeddings in {folder} have the length "
            f"{model.embedding_size}, but model.embedding_size is {config.model.embedding_size}. "
            f"Make them equal, or {train_it} and model.embedding_size={config.model.embedding_size}"
        )
    if model.history not in ("mean", config.model.history):  # as a mean all encoders start
        raise ArtifactError(
            f"{begin} {folder} encodes histories by {model.history}, but model.history is "
            f"{config.model.history}. Make them equal, or {train_it} and "
            f"model.history={config.model.history}"
        )
    return Pretrained(folder, manifest.identity)


@torch.no_grad()
def start_from(model: FM, pretrained: Pretrained) -> None:
    """Fills the weights that a model shares with another; the rest keep their initial values.

    Args:
        model: A new model.
        pretrained: What :func:`find_pretrained` found for it.

    Raises:
        ArtifactError: The run's weights cannot be read.
    """
    for name, array in load_run(pretrained.folder).weights.items():
        weight = torch.from_numpy(array)
        if isinstance(model, AFM) and name == "pair_weights":
            r = weight.clamp(min=_LEAST)
            model.attention.pair_bias.copy_(r.log())
            model.p.fill_(r.mean() if len(r) else 1.0)  # none of a single field
        else:
            parameter = model.get_parameter(name)
            parameter.copy_(weight.view_as(parameter))
