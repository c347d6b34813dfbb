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
RATES_OF_FWFM = {"fwfm.learning_rate": "train.learning_rate", "fwfm.table_rate": "train.table_rate"}
NO_KEYS = (RATE_OF_FM, *RATES_OF_FWFM)
"""Options that are no keys of ours: rates of the FM, or FwFM, that another model starts from."""


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
    all in try n. An FwFM starts from the FM of that try, and an AFM from its FwFM.

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
    if model != "fm":  # begins where another has ended, as the paper has it; tables move less
        options[RATE_OF_FM] = options["train.learning_rate"]
        options["model.pretrained"] = "fm"
        options["train.learning_rate"] = _log_uniform(own, 3e-4, 1e-2)
        options["train.table_rate"] = own.choice((0.0, 0.02, 0.1))
    if model == "afm":
        fwfm = draw("fwfm", number)
        options |= {name: fwfm[key] for name, key in RATES_OF_FWFM.items()}
        options["model.pretrained"] = "fwfm"
        options["model.attention_size"] = own.choice((8, 16, 32))
        options["train.l2.attention"] = _log_uniform(own, 1e-5, 1e-1)
    return options


def before(options: Options) -> dict[str, Options]:
    """The models to be trained before one with these options, in this order, and theirs."""
    of_afm = ("model.attention_size", "model.pair_bias", "model.scale", "train.l2.attention")
    fm = {k: v for k, v in _from_nothing(options).items() if k not in of_afm}
    match options.get("model.pretrained"):
        case None:
            return {}
        case "fm":
            return {"fm": fm}
    rates = {RATE_OF_FM: RATE_OF_FM, **RATES_OF_FWFM}
    own = {key: options[name] for name, key in rates.items() if name in options}
    return {"fm": fm, "fwfm": {**fm, **own, "model.pretrained": "fm"}}


def _from_nothing(options: Options) -> Options:
    """The options without a model to start from: tables are learned at the rate of the first FM."""
    of_start = ("model.pretrained", "train.table_rate", *NO_KEYS)
    rate = {"train.learning_rate": options[RATE_OF_FM]} if RATE_OF_FM in options else {}
    return {k: v for k, v in options.items() if k not in of_start} | rate


def _from_fm(options: Options) -> Options:
    """The options with an FM to start from, if there was an FwFM."""
    if options.get("model.pretrained") != "fwfm":
        return options
    rest = {k: v for k, v in options.items() if k not in RATES_OF_FWFM}
    return {**rest, "model.pretrained": "fm"}


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


def switches(chosen: Options) -> list[Switch]:
    """The ablation of an AFM.

    Args:
        chosen: Its options.

    Returns:
        Switches. One side of each is the chosen options, but that an AFM that does without what an
        FwFM's weights of pairs need starts from an FM on both sides.
    """
    from_fm = _from_fm(chosen)
    return [
        _switch(from_fm, "model.scale", "none", "pairs"),
        Switch("model.pretrained", _from_nothing(chosen), _pretrained(chosen)),
        Switch("model.pretrained: fwfm", _from_fm(_pretrained(chosen)), _pretrained(chosen)),
        _switch(from_fm, "model.pair_bias", False, True),
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


def _pretrained(chosen: Options) -> Options:
    """The options with a model to start from, if there was none."""
    return chosen if chosen.get("model.pretrained") else {**chosen, "model.pretrained": "fwfm"}


def _log_uniform(random: Random, low: float, high: float) -> float:
    return float(f"{low * (high / low) ** random.random():.2g}")
