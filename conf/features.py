"""What the configuration says of a log and of what is made of it: ``jobs/prepare.py``."""

from typing import Literal, Self

from pydantic import Field, model_validator

from conf.section import LARGEST, LONG, MOST, Name, Scalar, Section

Side = Literal["user", "item", "context"]
Split = Literal["train", "validation", "test"]


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
