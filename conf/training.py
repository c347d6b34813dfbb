"""What the configuration says of models, of their training, and of the search for better values."""

import difflib
from decimal import Decimal
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from conf.ranges import keys_of
from conf.section import LONG, MOST, Name, Scalar, Section

Loss = Literal["log", "squared"]
StopOn = Literal["auc", "log_loss", "rmse"]

STARTS_AS_FWFM = (
    "an fwfm is what an afm starts from, with scale: pairs and pair_bias: true, which take its "
    "weights of pairs. Set these, or start from fm"
)


class ModelConfig(Section):
    """The model (AFM: Xiao et al., IJCAI 2017), or one of its rivals."""

    name: Literal["afm", "fm", "fwfm"] = Field(
        "afm",
        description="`afm`; `fm`: the same model without attention; `fwfm`: FM with a learned "
        "weight per pair of fields (Pan et al., WWW 2018).",
    )
    embedding_size: int = Field(32, ge=1, le=65_536, description="K, the length of an embedding.")
    attention_size: int = Field(
        16, ge=1, le=65_536, description="A, the hidden units of the attention."
    )
    scale: Literal["pairs", "none"] = Field(
        "pairs",
        description="`pairs` multiplies the pooled vector by the number of pairs, so that AFM "
        "starts as an FM; `none` is the paper's.",
    )
    pair_bias: bool = Field(
        True, description="A learned bias per pair of fields in the attention logit."
    )
    history: Literal["mean", "self_attention", "gru"] = Field(
        "mean",
        description="What makes a vector of the embeddings that a `history` lists: their `mean`; "
        "`self_attention` (SASRec, Kang & McAuley, ICDM 2018) or a `gru` (GRU4Rec, Hidasi et al., "
        "ICLR 2016), which know the order and start as the mean.",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the pooled vector.")
    embedding_dropout: float = Field(0.2, ge=0, lt=1, description="Dropout on the embeddings.")
    init_std: float = Field(0.1, gt=0, description="Standard deviation of initial embeddings.")
    pretrained: str | None = Field(
        None,
        description="A finished model to start from: `fm`, this pipeline's latest, as the paper "
        "does; for an AFM also `fwfm`; or the folder of such a run, of the same features and K. "
        "Embeddings, linear weights and bias are taken from it, and what an FwFM has learned of "
        "pairs becomes the first attention.",
    )

    @model_validator(mode="after")
    def _starts_from_another(self) -> Self:
        if self.pretrained is not None and self.name == "fm":
            raise ValueError("pretrained is for afm and fwfm, which start from an fm; leave it out")
        if self.pretrained == "fwfm" and not self.starts_as_fwfm:
            raise ValueError(f"pretrained: {STARTS_AS_FWFM}")
        return self

    @property
    def starts_as_fwfm(self) -> bool:
        """Whether the model can do what an FwFM does."""
        return self.name == "afm" and self.scale == "pairs" and self.pair_bias


class L2(Section):
    """Weights of the L2 penalties, added to the mean loss of a batch."""

    embedding: float = Field(
        0.0, ge=0, description="On the embeddings that the batch looks up, mean over its rows."
    )
    attention: float = Field(0.0, ge=0, description="On the attention's W (the paper's λ).")


class Plateau(Section):
    """Smaller steps once the validation metric of `train.stop_on` no longer improves."""

    factor: float = Field(0.5, gt=0, lt=1, description="What the learning rate is multiplied with.")
    patience: int = Field(
        1,
        ge=1,
        le=MOST,
        description="Epochs without a better one before each reduction; fewer than "
        "`train.patience`, after which training stops.",
    )


class Schedule(Section):
    """How the learning rate changes. The number of ranks has no part in it: `batch_size` is that of
    all ranks together, so nothing has to be scaled when it changes.
    """

    warmup: int | float = Field(
        0,
        ge=0,
        description="Steps over which the learning rate rises from near 0, or as a number below 1 "
        "their share of the steps of all `epochs`.",
    )
    plateau: Plateau | None = Field(
        None, description="Reduce the learning rate on a plateau; `{}` takes the defaults."
    )

    @model_validator(mode="after")
    def _warms_up_for_whole_steps(self) -> Self:
        if isinstance(self.warmup, float) and self.warmup >= 1:
            raise ValueError(f"warmup {self.warmup:g} is neither a whole number nor below 1")
        return self


NOT_THE_MODEL = frozenset({"run", "checkpoint_steps", "logs"})
"""Keys of `train` that do not change what is trained."""


class TrainConfig(Section):
    """How the model is trained."""

    run: Name | None = Field(
        None, description="Name of the run; a hash of all that determines it if left out."
    )
    epochs: int = Field(20, ge=1, le=MOST, description="Most passes over the training rows.")
    batch_size: int = Field(
        1024,
        ge=1,
        le=MOST,
        description="Rows per step over all ranks together, so that the number of "
        "ranks does not change the model.",
    )
    loss: Loss = Field(
        "log",
        description="`log`: the log loss; scores are logits. `squared`, the paper's: the squared "
        "error to targets of 1 and -1 for the labels 1 and 0; a score estimates 2p - 1, so the "
        "probability is (1 + score) / 2, cut off at 0 and 1.",
    )
    optimizer: Literal["adam", "adagrad"] = Field(
        "adam", description="`adam`, or `adagrad`, the paper's; both touch looked-up rows only."
    )
    learning_rate: float = Field(5e-3, gt=0, description="The optimiser's step size.")
    table_rate: float = Field(
        1.0,
        ge=0,
        le=1,
        description="What `learning_rate` is multiplied by for embeddings and linear weights. With "
        "`model.pretrained`, 0 leaves them as the FM has them, and only what it does not have is "
        "learned, such as attention; something between lets them follow.",
    )
    precision: Literal["float32", "bf16"] = Field(
        "float32",
        description="`bf16` multiplies matrices of the forward and backward pass in bfloat16 "
        "(torch.autocast), for GPUs; weights, losses and optimisers stay float32.",
    )
    schedule: Schedule = Field(
        default_factory=Schedule, description="How the learning rate changes."
    )
    clip_norm: float | None = Field(
        None,
        gt=0,
        description="Largest norm of a step's gradient, of all weights together and summed over "
        "the ranks; longer ones are scaled down to it.",
    )
    l2: L2 = Field(default_factory=L2, description="The L2 penalties.")
    weight_decay: float = Field(
        0.0,
        ge=0,
        description="Decoupled weight decay (AdamW) of the embeddings: at each step all of them, "
        "looked up or not, shrink by `learning_rate` times this, so that those of rare values stay "
        "small. One that is not looked up is half as long after 0.7 / (`learning_rate` x this) "
        "steps; try values that make these some epochs. `l2` acts on what the batch looks up only.",
    )
    stop_on: StopOn = Field(
        "auc",
        description="The validation metric by which the best epoch is chosen and training stops: "
        "`auc` where only the order counts, `log_loss` where probabilities do, `rmse` as the "
        "paper does.",
    )
    patience: int = Field(
        2, ge=1, le=MOST, description="Epochs without a better `stop_on` before training stops."
    )
    checkpoint_steps: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Steps from one checkpoint to the next, for epochs that are too long to be "
        "lost; only after each epoch if left out. It does not change the model.",
    )
    shuffle_rows: int = Field(
        262_144, ge=1, le=MOST, description="Rows each rank keeps in memory to shuffle."
    )
    logs: tuple[Literal["tensorboard", "mlflow"], ...] = Field(
        (),
        description="Where each epoch's loss, metrics, learning rate and speed are logged, besides "
        "`curves.json`: `tensorboard` (`<models>/tensorboard`), `mlflow` (the server named by "
        "MLflow's own variable MLFLOW_TRACKING_URI, or else `<models>/mlflow`; the model, too). It "
        "does not change the model.",
    )
    seed: int = Field(
        0, ge=0, le=LONG - 1, description="Seed of initial weights, dropout and the order of rows."
    )

    @model_validator(mode="after")
    def _leaves_latest_free(self) -> Self:
        if self.run == "latest":
            raise ValueError("`latest` is what points to the last run; call this one otherwise")
        return self

    @model_validator(mode="after")
    def _decays_to_no_less_than_nothing(self) -> Self:
        if self.learning_rate * self.weight_decay >= 1:
            raise ValueError(
                f"weight_decay {self.weight_decay:g} times learning_rate {self.learning_rate:g} is "
                "what embeddings shrink by at a step, and has to be less than 1"
            )
        return self

    @model_validator(mode="after")
    def _reduces_before_it_stops(self) -> Self:
        plateau = self.schedule.plateau
        if plateau is not None and plateau.patience >= self.patience:
            raise ValueError(
                f"schedule.plateau.patience {plateau.patience} is not less than patience "
                f"{self.patience}, so that training stops before the learning rate is reduced"
            )
        return self


class Range(Section):
    """Values to try: numbers from `low` to `high`, or `choices`."""

    low: int | float | None = Field(None, description="The least number.")
    high: int | float | None = Field(None, description="The greatest number.")
    step: int | float | None = Field(
        None, gt=0, description="From one number to the next; any if left out, of integers each."
    )
    log: bool = Field(
        False, description="Whether ratios of numbers count rather than their differences."
    )
    choices: tuple[Scalar | None, ...] | None = Field(
        None, min_length=1, description="The values, where they are not numbers of a range."
    )

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        ends = (self.low, self.high)
        if self.choices is not None:
            if ends != (None, None) or self.step is not None or self.log:
                raise ValueError("choices stand alone: leave out low, high, step and log")
            twice = [c for n, c in enumerate(self.choices) if c in self.choices[:n]]
            if twice:
                raise ValueError(f"the choice {twice[0]!r} is there twice")
        elif None in ends:
            raise ValueError("give low and high, or choices")
        return self

    @model_validator(mode="after")
    def _leads_upwards(self) -> Self:
        if self.low is None or self.high is None:
            return self
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not less than high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low greater than 0, and it is {self.low:g}")
        if self.step is not None:
            if self.log:
                raise ValueError("log and step exclude each other; leave one out")
            low, high, step = (Decimal(str(n)) for n in (self.low, self.high, self.step))
            beyond = (high - low) % step
            if beyond:
                raise ValueError(
                    f"steps of {step} from low {low} miss high {high}; the nearest below is "
                    f"{high - beyond}"
                )
        return self

    @property
    def ends(self) -> tuple[Scalar | None, ...]:
        """The values that are refused if any is: both ends, or all choices."""
        return (self.low, self.high) if self.choices is None else self.choices


class TuneConfig(Section):
    """What `jobs/tune.py` searches; the metric is the validation metric of `train.stop_on`."""

    trials: int = Field(
        20, ge=1, le=MOST, description="Trials to make; more of them go on with a search."
    )
    seed: int = Field(0, ge=0, le=LONG - 1, description="Seed of the values that are tried.")
    pruner: Literal["median", "none"] = Field(
        "median",
        description="`median` ends a trial that after two or more epochs is worse than half of the "
        "finished ones were then, once there are five; `none` ends none.",
    )
    ranges: dict[str, Range] = Field(
        min_length=1,
        description="By key of `model` or `train` (`train.learning_rate`), the values to try: "
        "`{low: 1.0e-4, high: 1.0e-1, log: true}`, `{low: 8, high: 64, step: 8}` or "
        "`{choices: [adam, adagrad]}`.",
    )

    @field_validator("ranges", mode="before")
    @classmethod
    def _flat(cls, ranges: Any) -> Any:
        """Joins nested keys: on a command line, dots lead from section to section."""
        if not isinstance(ranges, dict):
            return ranges
        flat: dict[str, Any] = {}
        for key, inner in ranges.items():
            sections = isinstance(inner, dict) and not inner.keys() & Range.model_fields.keys()
            if sections and any(isinstance(below, dict) for below in inner.values()):
                flat |= {f"{key}.{name}": below for name, below in cls._flat(inner).items()}
            else:
                flat[key] = inner
        return flat


TUNABLE = {
    f"{name}.{key}": kinds
    for name, section in (("model", ModelConfig), ("train", TrainConfig))
    for key, kinds in keys_of(section).items()
}
"""Keys of `model` and `train`, and the types that each takes."""


def range_problem(key: str, values: Range) -> str:
    """What is wrong with a range for a key, or nothing."""
    if key not in TUNABLE:
        near = difflib.get_close_matches(key, TUNABLE, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "try one such as train.learning_rate"
        return f"no key of model or train; {remedy}"
    if key in {f"train.{name}" for name in NOT_THE_MODEL}:
        return "it does not change the model; leave it out"
    if key == "train.stop_on":
        return "it says what trials are compared by; set it once, in `train`"
    if values.choices is not None:
        return ""
    kinds, numbers = TUNABLE[key], (values.low, values.high, values.step)
    if not kinds & {int, float}:
        return "it takes no numbers; give choices"
    if float not in kinds:
        broken = [number for number in numbers if isinstance(number, float)]
        if broken:
            return f"it takes integers, and {broken[0]!r} is none"
    return ""
