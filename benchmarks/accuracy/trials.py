"""What is tried: seeded draws from ranges that are the same for all of our models, and switches.

A trial trains one model once. Its options are keys of our configuration, or arguments of a peer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Self

from conf.training import ModelConfig, TrainConfig

Option = float | int | str | bool | None
Options = Mapping[str, Option]

MODELS = {"afm": "AFM", "fm": "FM", "fwfm": "FwFM", "deepctr": "DeepCTR-Torch's AFM"}
"""Who takes part, AFM first, and what the tables call them."""
SIZE, BATCH, EPOCHS, PATIENCE = 32, 1024, 30, 3
"""The same for all: length of embeddings, rows of a step, most epochs, and epochs without a better
validation AUC before training stops."""
RATE_OF_FM = "fm.learning_rate"
"""An option that is no key of ours: the learning rate of the FM that another model starts from."""


@dataclass(frozen=True)
class Trial:
    """A model to be trained once."""

    setting: str
    """The data set and how it is split."""
    spec: str
    """Hash of the features' spec, so that results of other features are not taken for these."""
    model: str
    seed: int
    chosen: tuple[tuple[str, Option], ...]
    """What differs from the defaults, by name."""
    test: bool = False
    """Whether to measure it on the test rows."""

    @classmethod
    def of(cls, setting: str, spec: str, model: str, seed: int, options: Options) -> Self:
        """A trial that does not look at the test rows."""
        return cls(setting, spec, model, seed, tuple(sorted(options.items())))

    @classmethod
    def from_json(cls, text: Mapping[str, Any]) -> Self:
        """The trial that ``asdict`` made."""
        return cls(**{**text, "chosen": tuple((key, value) for key, value in text["chosen"])})

    @property
    def options(self) -> Options:
        """What differs from the defaults."""
        return dict(self.chosen)


def draw(model: str, number: int) -> Options:
    """The options of a try.

    Try 0 takes the defaults. Later ones are drawn, and what all of our models have is the same for
    all in try n: so the FM that an AFM is pre-trained by is the FM of that try, and costs no
    further one.

    Args:
        model: One of ``MODELS``.
        number: Number of the try.

    Returns:
        What differs from the defaults.
    """
    if number == 0:
        return {}
    shared, own = Random(number), Random(f"{model} {number}")
    if model == "deepctr":
        return {
            "learning_rate": _log_uniform(own, 1e-3, 2e-2),
            # Over the whole table, beside the sum of a batch's losses.
            "l2_reg_embedding": _log_uniform(own, 1e-5, 1.0),
            "l2_reg_linear": _log_uniform(own, 1e-5, 1.0),
            "init_std": own.choice((1e-4, 1e-2, 1e-1)),
            "attention_factor": own.choice((8, 16, 32)),
            "afm_dropout": round(own.choice((0, own.uniform(0, 0.6))), 2),
            "l2_reg_att": _log_uniform(own, 1e-5, 1.0),
        }
    options: dict[str, Option] = {
        "train.learning_rate": _log_uniform(shared, 1e-3, 2e-2),
        "train.weight_decay": _log_uniform(shared, 5e-2, 3.0),
        "model.embedding_dropout": round(shared.uniform(0, 0.7), 2),
        "model.init_std": shared.choice((1e-2, 3e-2, 1e-1)),
    }
    if model != "fm":  # begins where an FM has ended, as the paper has it, whose tables move less
        options[RATE_OF_FM] = options["train.learning_rate"]
        options["model.pretrained"] = "fm"
        options["train.learning_rate"] = _log_uniform(own, 3e-4, 1e-2)
        options["train.table_rate"] = own.choice((0.0, 0.02, 0.1))
    if model == "afm":
        options["model.attention_size"] = own.choice((8, 16, 32))
        options["train.l2.attention"] = _log_uniform(own, 1e-5, 1e-1)
    return options


def of_fm(options: Options) -> Options:
    """The options that an FM has too: those of the FM that another model starts from."""
    of_afm = ("model.attention_size", "model.pair_bias", "model.scale", "train.l2.attention")
    return {k: v for k, v in _from_nothing(options).items() if k not in of_afm}


def _from_nothing(options: Options) -> Options:
    """The options without an FM to start from: tables are learned at the rate of that FM."""
    of_start = ("model.pretrained", "train.table_rate", RATE_OF_FM)
    rate = {"train.learning_rate": options[RATE_OF_FM]} if RATE_OF_FM in options else {}
    return {k: v for k, v in options.items() if k not in of_start} | rate


_DEFAULTS: Options = {
    f"{name}.{key}": field.default
    for name, section in (("model", ModelConfig), ("train", TrainConfig))
    for key, field in section.model_fields.items()
}


@dataclass(frozen=True)
class Switch:
    """One thing about AFM that can be had or not, all else being equal."""

    key: str
    without: Options
    having: Options
    """One of the two is as it was."""


def switches(chosen: Options) -> list[Switch]:
    """The ablation of an AFM.

    Args:
        chosen: Its options.

    Returns:
        Switches, one side of each being the chosen options.
    """
    return [
        _switch(chosen, "model.scale", "none", "pairs"),
        _pretraining(chosen),
        _switch(chosen, "model.pair_bias", False, True),
        _switch(chosen, "model.dropout", 0, 0.3),
        _switch(chosen, "model.embedding_dropout", 0, 0.2),
        _switch(chosen, "train.weight_decay", 0, 0.5),
    ]


def _switch(chosen: Options, key: str, off: Option, on: Option) -> Switch:
    now = chosen.get(key, _DEFAULTS[key])
    options = [chosen if value == now else {**chosen, key: value} for value in (off, on)]
    if now not in (off, on):
        options[1] = chosen
    return Switch(key, *options)


def _pretraining(chosen: Options) -> Switch:
    key = "model.pretrained"
    if chosen.get(key) is None:
        return Switch(key, chosen, {**chosen, key: "fm"})
    return Switch(key, _from_nothing(chosen), chosen)


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(f"{low * (high / low) ** random.random():.2g}")
