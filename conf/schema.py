"""The configuration of a pipeline, as typed, frozen objects.

One YAML file drives every job. It is validated here once; behind this door nothing is a
dictionary any more. Unknown keys are refused. The field descriptions below are the reference
documentation (``docs/reference/configuration.md`` is made from them).
"""

import difflib
import hashlib
import re
from collections import Counter
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from conf.ranges import keys_of, refusals

Side = Literal["user", "item", "context"]
Split = Literal["train", "validation", "test"]
Loss = Literal["log", "squared"]
StopOn = Literal["auc", "log_loss", "rmse"]

RESERVED = frozenset(
    {"user_key", "item_key", "event_time", "label", "weight", "split", "row", "sampled"}
    | {"rank", "probability", "logit", "explanation"}
)
"""Column names of our own tables; no field may take one of them."""

BUILT_IN_RULES = frozenset(
    {"malformed", "duplicate", "label", "weight", "user_key", "item_key", "event_time"}
    | {"orphan_user", "orphan_item", "label=0", "label=1"}
)
"""Names in the tables ``quarantine`` and ``quality`` that belong to no field. A field's own are its
name and ``<field>.range``, ``<field>.allowed`` and ``<field>.missing``."""

MOST = 2**31 - 1
"""The greatest of numbers that count things: what Spark's and Arrow's 32 bits hold."""
LONG = 2**63
LARGEST, LEAST = 3.4028234663852886e38, 1.1754943508222875e-38
"""The greatest number of 32 bits, and the least above 0 of full precision: models compute in
these."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=128)]
Scalar = str | int | float | bool


class Section(BaseModel):
    """A part of the configuration: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Table(Section):
    """Where a table is read from."""

    format: Literal["csv", "json", "parquet", "delta"] = Field(description="How it is stored.")
    path: str | tuple[str, ...] = Field(
        description="File, folder or glob, or a list of them; any path Spark can read."
    )
    columns: str | None = Field(
        None,
        description="Column names and types as Spark SQL DDL (`user INT, title STRING`). "
        "Without it CSV and JSON types are inferred, which costs a pass.",
    )
    options: dict[str, Scalar] = Field(
        default_factory=dict, description="Options of Spark's reader, such as `sep` or `header`."
    )
    version: int | None = Field(
        None, ge=0, le=MOST, description="Version of a Delta table; the newest if left out."
    )

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        if not self.path or (isinstance(self.path, tuple) and "" in self.path):
            raise ValueError("the path is empty: name a file or a folder")
        if self.version is not None and self.format != "delta":
            raise ValueError(f"`version` is for Delta tables; this one is {self.format}")
        if self.format == "delta" and not isinstance(self.path, str):
            raise ValueError("a Delta source is one table: give one path")
        if "mode" in self.options:
            raise ValueError("options.mode would lose rows uncounted; they are quarantined here")
        if {"versionAsOf", "timestampAsOf"} & self.options.keys():
            raise ValueError("name a Delta version by `version`, not in options")
        return self


class Source(Section):
    """The raw tables."""

    interactions: Table = Field(description="The log: one row per interaction.")
    users: Table | None = Field(
        None, description="One row per user. Without it users are taken from the log."
    )
    items: Table | None = Field(
        None, description="One row per item. Without it items are taken from the log."
    )


class Keys(Section):
    """What identifies a user, an item and a moment: Spark SQL expressions over the log.

    Where users or items have a table of their own, the same expression names their key there.
    """

    user: str | None = Field(
        None, description="User key; scoring, `history`, `negatives` and a split by last need it."
    )
    item: str | None = Field(None, description="Item key; scoring and `negatives` need it.")
    time: str | None = Field(
        None, description="Time; `history` and a split by time or by last need it."
    )


class Default(Section):
    """Replace missing values by a constant."""

    default: int | float | str = Field(description="The value to put in.")


class FieldCheck(Section):
    """What a field's values have to be like, where they are not missing.

    Rows that break a rule are quarantined as `<field>.range` or `<field>.allowed`.
    """

    minimum: float | None = Field(
        None, allow_inf_nan=False, description="The least number allowed, for `value`."
    )
    maximum: float | None = Field(
        None, allow_inf_nan=False, description="The greatest number allowed, for `value`."
    )
    allowed: tuple[Scalar, ...] | None = Field(
        None, min_length=1, description="The values allowed; of `multi`, every one is looked at."
    )
    max_share: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of rows that each rule of this field, `not a number` among them, may "
        "refuse before the job stops; `quality.max_share` if left out.",
    )
    max_missing: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Share of accepted rows without a value beyond which the job stops; "
        "no row is refused for it.",
    )

    @model_validator(mode="after")
    def _leaves_numbers(self) -> Self:
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ValueError(f"minimum {self.minimum:g} is greater than maximum {self.maximum:g}")
        return self


class FieldConfig(Section):
    """One field: where it comes from and what becomes of it."""

    name: Name = Field(description="Its column in every table we write.")
    side: Side = Field(description="What it describes: the `user`, the `item` or the `context`.")
    expr: str = Field("", description="Spark SQL expression; the column of that name if left out.")
    missing: tuple[Scalar, ...] = Field(
        (), description="Values that stand for 'missing' besides null and NaN: -124, `unknown`, ''."
    )
    encode: Literal["index", "hash", "bucket", "value", "multi", "none"] = Field(
        description="`index`: one embedding per distinct value. `hash`: likewise, but values share "
        "`buckets` embeddings and no vocabulary is learned. `bucket`: a number's quantile, one "
        "embedding each. `value`: a number times one embedding. `multi`: several values, "
        "embeddings averaged. `none`: carried along for people to read, unseen by the model."
    )
    impute: Literal["mean", "median", "mode"] | Default | None = Field(
        None,
        description="What replaces a missing value: `mean`, `median`, `mode` or "
        "`{default: …}`. Left out: the mean for `value`, an embedding of its own for the others.",
    )
    flag_missing: bool = Field(
        False,
        description="Adds the field `<name>_missing`, which says whether the value was imputed.",
    )
    scale: Literal["none", "minmax", "standard", "log1p"] = Field(
        "none",
        description="For `value`: onto [0, 1], to mean 0 and variance 1, or ln(1 + x - minimum).",
    )
    min_count: int = Field(
        1,
        ge=1,
        le=MOST,
        description="Training rows that a value needs for an embedding of its own; "
        "rarer ones share 'unseen'.",
    )
    buckets: int | None = Field(
        None,
        ge=2,
        le=MOST - 2,
        description="For `hash`, over how many embeddings the values are spread. For `bucket`, "
        "how many quantiles; 32 if left out.",
    )
    separator: str = Field("|", min_length=1, description="What stands between values of `multi`.")
    max_values: int = Field(
        8, ge=1, le=256, description="How many values of `multi` are kept, from the first."
    )
    check: FieldCheck = Field(
        default_factory=FieldCheck, description="What its values have to be like."
    )

    @model_validator(mode="before")
    @classmethod
    def _expr_is_name(cls, data: object) -> object:
        if isinstance(data, dict) and "name" in data and not data.get("expr"):
            return {**data, "expr": f"`{data['name']}`"}
        return data

    @model_validator(mode="after")
    def _fits_encoding(self) -> Self:
        allowed = {
            "index": {"impute", "flag_missing", "min_count"},
            "hash": {"impute", "flag_missing", "buckets"},
            "bucket": {"impute", "flag_missing", "buckets"},
            "value": {"impute", "flag_missing", "scale"},
            "multi": {"min_count", "separator", "max_values"},
            "none": set(),
        }[self.encode]
        special = (
            *("impute", "flag_missing", "buckets"),
            *("max_values", "min_count", "scale", "separator"),
        )
        defaults = {name: type(self).model_fields[name].default for name in special}
        changed = [name for name in special if getattr(self, name) != defaults[name]]
        wrong = [name for name in changed if name not in allowed]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} does not apply to encode: {self.encode}")
        if self.encode in ("index", "hash") and self.impute in ("mean", "median"):
            raise ValueError(f"impute: {self.impute} needs encode: value or bucket")
        if self.encode == "hash" and self.buckets is None:
            raise ValueError("encode: hash needs buckets, the number of embeddings")
        if self.flag_missing and self.impute is None and self.encode != "value":
            raise ValueError("flag_missing needs impute: without it 'missing' has its embedding")
        if (
            self.encode in ("value", "bucket")
            and isinstance(self.impute, Default)
            and isinstance(self.impute.default, str)
        ):
            raise ValueError(f"impute default {self.impute.default!r} is not a number")
        if (
            self.encode in ("value", "bucket")
            and isinstance(self.impute, Default)
            and not abs(float(self.impute.default)) <= LARGEST
        ):
            raise ValueError("the impute default is not a finite number of 32 bits")
        return self

    @model_validator(mode="after")
    def _check_fits_encoding(self) -> Self:
        refusing = {
            "index": ("allowed", "max_share"),
            "hash": ("allowed", "max_share"),
            "value": ("minimum", "maximum", "allowed", "max_share"),
            "bucket": ("minimum", "maximum", "allowed", "max_share"),
            "multi": ("allowed", "max_share"),
            "none": (),
        }[self.encode]
        given = [name for name, value in self.check if value is not None]
        wrong = [name for name in given if name not in (*refusing, "max_missing")]
        if wrong:
            named = ", ".join(f"check.{name}" for name in wrong)
            raise ValueError(f"{named} does not apply to encode: {self.encode}")
        if self.encode in ("value", "bucket"):
            for value in self.check.allowed or ():
                if isinstance(value, str | bool):
                    raise ValueError(f"check.allowed {value!r} is not a number")
        elif "max_share" in given and "allowed" not in given:
            raise ValueError("check.max_share has no rule to hold for; give check.allowed too")
        return self

    @property
    def encoding(self) -> "FieldConfig":
        """The field without what decides only which rows are refused."""
        return self.model_copy(update={"check": FieldCheck()})

    @property
    def reading(self) -> tuple[object, ...]:
        """Equal for two fields exactly if they make the same readable column of raw rows."""
        kinds = {"index": "text", "hash": "text", "value": "number", "bucket": "number"}
        separator = self.separator if self.encode == "multi" else None
        kind = kinds.get(self.encode, self.encode)
        return (self.name, self.side, self.expr, self.missing, kind, separator)

    @property
    def flag(self) -> str:
        """Name of the field that says whether this one was missing."""
        return f"{self.name}_missing"


class Cross(Section):
    """A field whose values are the pairs of values of two others: `index`, `hash` or `bucket`."""

    name: Name = Field(description="Its column in the features table.")
    fields: tuple[str, str] = Field(description="The two fields.")
    min_count: int = Field(
        1, ge=1, le=MOST, description="Training rows that a pair needs for an embedding of its own."
    )
    buckets: int | None = Field(
        None,
        ge=2,
        le=MOST - 2,
        description="Over how many embeddings the pairs are spread by hash; without it each pair "
        "in training has its own.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.buckets is not None and self.min_count > 1:
            raise ValueError("min_count does not apply to a cross with buckets")
        return self


class History(Section):
    """A field made of what its user liked before: values of the last positive rows."""

    name: Name = Field(description="Its column in the features table.")
    of: str = Field(description="The `index` field of the item whose values it lists.")
    length: int = Field(10, ge=1, le=256, description="How many values, the latest ones.")


class Negatives(Section):
    """Rows with label 0 for logs that know positive rows only: items that the user does not have.

    No sampled row has an item that its user has in any row of the log, whatever its label or split.
    """

    per_positive: int = Field(ge=1, le=MOST, description="Rows to sample for each positive row.")
    by: Literal["uniform", "popularity"] = Field(
        "uniform",
        description="`uniform`: every item alike. `popularity`: in proportion to the positive "
        "training rows of an item.",
    )
    seed: int = Field(0, ge=-LONG, le=LONG - 1, description="Seed of the draws.")


class SplitConfig(Section):
    """Which rows train, which decide when to stop, which test."""

    by: Literal["hash", "time", "last"] = Field(
        "hash",
        description="`hash`: a seeded hash of the row's keys, so that a row stays in its part "
        "for ever. `time`: the oldest train, the newest test. `last`: of each user, the newest "
        "test and those before them validate.",
    )
    last: int = Field(
        1,
        ge=1,
        le=MOST,
        description="For `last`: rows of each user for the test, and as many for validation. "
        "Users with fewer than 2 · `last` + 1 rows only train.",
    )
    validation: float = Field(0.1, gt=0, lt=1, description="Share of rows for validation.")
    test: float = Field(0.1, gt=0, lt=1, description="Share of rows for the test.")
    seed: int = Field(0, ge=-LONG, le=LONG - 1, description="Seed of the hash.")

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test leave nothing to train on")
        return self

    @model_validator(mode="after")
    def _fits_way(self) -> Self:
        special = ("validation", "test") if self.by == "last" else ("last",)
        defaults = {name: type(self).model_fields[name].default for name in special}
        wrong = [name for name in special if getattr(self, name) != defaults[name]]
        if wrong:
            remedy = "; set `last` to the rows per user instead" if self.by == "last" else ""
            raise ValueError(
                f"{', '.join(wrong)} does not apply to by: {self.by}; leave it out{remedy}"
            )
        return self


class Rule(Section):
    """A condition that every row has to meet; rows that do not are quarantined."""

    name: str = Field(description="How the quarantine table calls it.")
    expr: str = Field(description="Spark SQL condition over the raw columns; null counts as false.")
    max_share: float | None = Field(
        None, ge=0, le=1, description="Share of refused rows beyond which the job stops."
    )


class Quality(Section):
    """What rows must be like."""

    max_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="Share of rows that one rule may refuse before the job stops, "
        "unless the rule says otherwise.",
    )
    duplicates: Literal["keep", "quarantine"] = Field(
        "keep",
        description="Interactions with the same keys (user, item and, if given, time) as another: "
        "`keep` them all, or `quarantine` all but one. Which one follows from the rows alone.",
    )
    orphans: Literal["keep", "quarantine"] = Field(
        "keep",
        description="Interactions whose user is not in `source.users`, or whose item is not in "
        "`source.items`: `keep` them with those fields missing, or `quarantine` them.",
    )
    rules: tuple[Rule, ...] = Field((), description="Rules beyond the built-in ones.")


class PrepareConfig(Section):
    """How `jobs/prepare.py` goes about it; none of it changes what a row is encoded to."""

    mode: Literal["all", "append", "refit"] = Field(
        "all",
        description="`all` makes the tables anew from the sources. `append` adds the rows of "
        "`source.interactions`, a new day say, encoded as the tables are. `refit` learns anew "
        "from all rows that the tables hold by now, and encodes them again.",
    )
    batch: str | None = Field(
        None,
        description="What the rows of `source.interactions` are known by, so that they are not "
        "appended twice; their path if left out.",
    )
    broadcast_values: int = Field(
        2_000_000,
        ge=1,
        le=MOST,
        description="Values of an `index` field that every task holds in memory; the rarer ones of "
        "a larger vocabulary are looked up by a shuffle join. (Those of `multi`, of fields that a "
        "`history` lists and of crosses are always held: give large ones a `min_count`, or hash.)",
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
        description="A finished FM to start from, as the paper does: `fm`, this pipeline's latest, "
        "or the folder of a run of the same features and K. Embeddings, linear weights and bias "
        "are taken from it.",
    )

    @model_validator(mode="after")
    def _starts_from_another(self) -> Self:
        if self.pretrained is not None and self.name == "fm":
            raise ValueError("pretrained is for afm and fwfm, which start from an fm; leave it out")
        return self


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


class EvaluateConfig(Section):
    """How `jobs/evaluate.py` measures rankings of all items."""

    ranking: bool = Field(
        False,
        description="Also rank all items for users of the test rows, and measure HR, recall, NDCG "
        "and coverage next to popularity and Spark ALS; into the table `rankings`.",
    )
    top_k: int = Field(10, ge=1, le=MOST, description="K, the items of a ranking that count.")
    users: int = Field(
        10_000, ge=1, le=MOST, description="Most users to rank for, chosen by a hash."
    )
    als_rank: int = Field(32, ge=1, le=MOST, description="Length of the vectors of ALS.")


class Context(Section):
    """A situation that items are recommended for."""

    name: str = Field(min_length=1, description="What the column `context` calls it.")
    values: dict[str, Scalar | None] = Field(
        default_factory=dict,
        description="For context fields, values that their expressions give; those of "
        "`score.context` hold for the others.",
    )


class ScoreConfig(Section):
    """Which recommendations are kept, and how they are computed."""

    mode: Literal["all", "changed"] = Field(
        "all",
        description="`changed` scores only what the tables' changes since the last run affect: "
        "users that changed, and new items for all users. The result is that of `all`, which is "
        "what happens if the model or this section changed.",
    )
    top_k: int = Field(10, ge=1, le=MOST, description="Items kept for each user.")
    min_score: float | None = Field(
        None, ge=0, le=1, description="Least probability of a recommendation."
    )
    users: str | None = Field(
        None,
        description="Spark SQL condition over the columns of the table `users` (`user_key`, fields "
        "with `encode: none` as they came, the others encoded): who gets recommendations.",
    )
    items: str | None = Field(
        None,
        description="Spark SQL condition over the columns of the table `items`, likewise: what is "
        "recommended.",
    )
    exclude_seen: tuple[Split, ...] = Field(
        (), description="Items that a user has in these parts of the log are not recommended."
    )
    candidates: Table | None = Field(
        None,
        description="A table with the columns user_key and item_key: the pairs to score. "
        "Without it: every user with every item.",
    )
    context: dict[str, Scalar | None] = Field(
        default_factory=dict,
        description="For each context field, a value that its expression gives.",
    )
    contexts: tuple[Context, ...] = Field(
        (),
        description="Several situations, each with K items for each user; rows then have a column "
        "`context`.",
    )
    explain: int = Field(
        3, ge=0, le=MOST, description="Field pairs, by attention, that explain each recommendation."
    )
    explain_plan: bool = Field(
        False,
        description="Say which pairs of fields are computed how often, and what that costs, "
        "and end without scoring.",
    )
    items_per_block: int = Field(
        262_144,
        ge=1,
        le=MOST,
        description="Items that a task holds at a time, prepared; a few hundred bytes each. With "
        "more items, tasks take block after block.",
    )
    parts: int | None = Field(
        None,
        ge=1,
        le=MOST,
        description="Slices of users. A run that was interrupted goes on after its last finished "
        "slice. As many as take some minutes each if left out.",
    )

    @property
    def situations(self) -> dict[str | None, dict[str, Scalar | None]]:
        """The contexts to score in: values of context fields by name, None for a nameless one."""
        if not self.contexts:
            return {None: self.context}
        return {c.name: self.context | c.values for c in self.contexts}

    @model_validator(mode="after")
    def _tells_contexts_apart(self) -> Self:
        counts = Counter(c.name for c in self.contexts)
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"contexts: the name {twice[0]!r} is used twice")
        return self


class ReportConfig(Section):
    """The page that `jobs/report.py` writes."""

    path: str | None = Field(
        None, description="Where the page is written; `<tables.root>/report.html` if left out."
    )
    users: int = Field(3, ge=0, le=MOST, description="Users whose recommendations it shows.")


class MonitorConfig(Section):
    """What `jobs/monitor.py` compares, and when it raises an alarm.

    Differences that may be chance are none, however large.
    """

    batch: str | None = Field(
        None, description="The batch to compare; the one appended last if left out."
    )
    psi: float = Field(
        0.2,
        gt=0,
        description="Population stability index beyond which a field, or the scores, moved. 0.1 is "
        "often called a small shift, 0.25 a large one.",
    )
    missing: float = Field(
        0.05, ge=0, description="How far a field's share of missing values may change."
    )
    unseen: float = Field(
        0.1, ge=0, description="How far a field's share of values unseen in training may rise."
    )
    label: float = Field(0.05, ge=0, description="How far the share of positive rows may change.")
    auc: float = Field(0.05, ge=0, description="How far the model's AUC may fall.")


class MaintainConfig(Section):
    """What `jobs/maintain.py` tidies up."""

    dry_run: bool = Field(False, description="Say what would be done, and do nothing.")
    retention_hours: int = Field(
        168,
        ge=0,
        description="So long the tables' files stay that no version needs any more. Files of a job "
        "that is under way are such, too: more than the longest job takes.",
    )
    compact_files: int = Field(
        100,
        ge=1,
        description="Compact `interactions`, `features` and `quarantine` if they have more files.",
    )
    keep_models: int | None = Field(
        None,
        ge=1,
        description="Keep so many finished runs of each kind of model, the newest and `latest`; "
        "remove the others, and runs that were given up. All stay if left out.",
    )


class Tables(Section):
    """Where our own tables and models live."""

    root: str = Field(
        min_length=1, description="Folder of the Delta tables: a path, or any Hadoop URL."
    )
    models: str | None = Field(
        None, description="Folder of the models; `<root>/models` if left out. A mounted path."
    )

    @model_validator(mode="after")
    def _models_are_mounted(self) -> Self:
        if is_url(self.root) and self.models is None:
            raise ValueError("root is a URL: give `models` a folder that the machines share")
        odd = [letter for letter in "%#?" if letter in self.root]
        if odd:
            raise ValueError(
                f"root holds {' and '.join(odd)}, which Spark, Delta and Arrow read differently in "
                "paths; choose another folder"
            )
        return self


class Config(Section):
    """A whole pipeline."""

    source: Source
    label: str = Field(description="Spark SQL expression that gives 0 or 1 (or false and true).")
    weight: str | None = Field(
        None,
        description="Spark SQL expression: how much a row counts in the loss and in the metrics, a "
        "number above 0. A mean of about 1 leaves the size of a step as it is. Sampled rows have "
        "the weight of the row that they are sampled for.",
    )
    keys: Keys = Field(default_factory=Keys)
    fields: tuple[FieldConfig, ...]
    crosses: tuple[Cross, ...] = ()
    history: tuple[History, ...] = ()
    negatives: Negatives | None = None
    split: SplitConfig = Field(default_factory=SplitConfig)
    quality: Quality = Field(default_factory=Quality)
    prepare: PrepareConfig = Field(default_factory=PrepareConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    tune: TuneConfig | None = None
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)
    score: ScoreConfig = Field(default_factory=ScoreConfig)
    report: ReportConfig = Field(default_factory=ReportConfig)
    monitor: MonitorConfig = Field(default_factory=MonitorConfig)
    maintain: MaintainConfig = Field(default_factory=MaintainConfig)
    tables: Tables

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        problems = [
            *self._name_problems(),
            *self._rule_problems(),
            *self._cross_problems(),
            *self._history_problems(),
            *self._key_problems(),
            *self._tune_problems(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _name_problems(self) -> list[str]:
        # Spark and Delta tell columns apart without regard to case.
        flags = [f.flag for f in self.fields if f.flag_missing]
        names = [f.name for f in self.fields] + flags + [c.name for c in self.crosses]
        names += [h.name for h in self.history]
        counts = Counter(n.lower() for n in names)
        problems = [f"the name {n!r} is used twice" for n, c in counts.items() if c > 1]
        taken = [n for n in names if n.lower() in RESERVED | BUILT_IN_RULES]
        problems += [f"the name {n!r} is ours; take another" for n in taken]
        if sum(f.encode != "none" for f in self.fields) < 2:
            problems.append("a model needs two fields that are not encode: none")
        return problems

    def _rule_problems(self) -> list[str]:
        names = [r.name for r in self.quality.rules]
        kinds = ("", ".range", ".allowed", ".missing")
        taken = BUILT_IN_RULES | {f"{f.name}{kind}" for f in self.fields for kind in kinds}
        problems = [
            f"the rule name {n!r} is taken; each rule needs one of its own"
            for n, count in Counter(names).items()
            if n in taken or count > 1
        ]
        if self.quality.duplicates == "quarantine" and None in (self.keys.user, self.keys.item):
            problems.append("quality.duplicates: quarantine needs keys.user and keys.item")
        sides = (self.source.users, self.source.items)
        if self.quality.orphans == "quarantine" and sides == (None, None):
            problems.append("quality.orphans: quarantine needs source.users or source.items")
        return problems

    def _cross_problems(self) -> list[str]:
        encodings = {f.name: f.encode for f in self.fields}
        problems = []
        for cross in self.crosses:
            if cross.fields[0] == cross.fields[1]:
                problems.append(f"cross {cross.name!r} crosses {cross.fields[0]!r} with itself")
            for name in cross.fields:
                if name not in encodings:
                    problems.append(f"cross {cross.name!r} names the unknown field {name!r}")
                elif encodings[name] not in ("index", "hash", "bucket"):
                    problems.append(
                        f"cross {cross.name!r} needs encode: index, hash or bucket, "
                        f"but {name!r} is {encodings[name]}"
                    )
        return problems

    def _history_problems(self) -> list[str]:
        fields = {f.name: f for f in self.fields}
        problems = []
        for history in self.history:
            field = fields.get(history.of)
            if field is None:
                problems.append(f"history {history.name!r} names the unknown field {history.of!r}")
            elif (field.side, field.encode) != ("item", "index"):
                problems.append(
                    f"history {history.name!r} needs a field of side item with encode: index, "
                    f"but {field.name!r} is {field.side} and {field.encode}"
                )
        if self.model.history != "mean" and not self.history:
            problems.append(
                f"model.history: {self.model.history} has nothing to encode; "
                "name a `history`, or leave it out"
            )
        return problems

    def _key_problems(self) -> list[str]:
        needs: list[tuple[str, bool, tuple[Literal["user", "item", "time"], ...]]] = [
            ("split.by: time", self.split.by == "time", ("time",)),
            ("split.by: last", self.split.by == "last", ("user", "time")),
            ("history", bool(self.history), ("user", "time")),
            ("negatives", self.negatives is not None, ("user", "item")),
        ]
        problems = [
            f"{what} needs keys.{key}"
            for what, wanted, keys in needs
            for key in keys
            if wanted and getattr(self.keys, key) is None
        ]
        for side in ("user", "item"):
            if getattr(self.keys, side) is None:
                if any(f.side == side for f in self.fields):
                    problems.append(f"fields of side {side} need keys.{side}")
                if getattr(self.source, f"{side}s") is not None:
                    problems.append(f"source.{side}s needs keys.{side}")
        contexts = {f.name for f in self.fields if f.side == "context" and f.encode != "none"}
        given = [("score.context", self.score.context)]
        given += [(f"score.contexts.{n}", c.values) for n, c in enumerate(self.score.contexts)]
        for where, values in given:
            for name in sorted(values.keys() - contexts):
                problems.append(f"{where} names {name!r}, which is no context field")
        return problems

    def _tune_problems(self) -> list[str]:
        if self.tune is None:
            return []
        problems = []
        fitting: dict[str, dict[str, tuple[object, ...]]] = {"model": {}, "train": {}}
        for key, values in self.tune.ranges.items():
            problem = _range_problem(key, values)
            if problem:
                problems.append(f"tune.ranges.{key}: {problem}")
            else:
                section, _, below = key.partition(".")
                fitting[section][below] = values.ends
        return problems + [
            f"tune.ranges: {section}.{refusal}"
            for section, candidates in fitting.items()
            for refusal in refusals(getattr(self, section), candidates)
        ]

    @property
    def models_root(self) -> str:
        """Folder of the models, without a trailing slash."""
        return self.tables.models or f"{self.tables.root.rstrip('/')}/models"


TUNABLE = {
    f"{name}.{key}": kinds
    for name, section in (("model", ModelConfig), ("train", TrainConfig))
    for key, kinds in keys_of(section).items()
}
"""Keys of `model` and `train`, and the types that each takes."""


def _range_problem(key: str, values: Range) -> str:
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


def is_url(path: str) -> bool:
    """Whether a path names its file system, as ``s3://lake/x`` does, and not a local folder."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", path) is not None


def digest(*parts: str) -> str:
    """A short, stable name for some text: 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:16]
