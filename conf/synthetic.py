"""The configuration of a synthetic log (``jobs/synthesize.py``), as typed, frozen objects."""

from collections import Counter
from typing import Literal, Self

from pydantic import Field, model_validator

from conf.features import RESERVED, Side
from conf.section import Name, Section

KEYS = {"user": "user_id", "item": "item_id"}
"""Column of each side's key."""
TIME, LABEL, LOGIT = "time", "clicked", "true_logit"
OWN_COLUMNS = frozenset({*KEYS, *KEYS.values(), TIME, LABEL, LOGIT})


class Population(Section):
    """The users or the items: keys 0, 1, … by falling frequency."""

    count: int = Field(ge=2, description="How many there are.")
    zipf: float = Field(
        1.0, ge=0, description="Key k has a share of the rows proportional to 1 / (k + 1)^zipf."
    )


class SyntheticField(Section):
    """A column, drawn independently of the others."""

    name: Name = Field(description="Name of the column.")
    side: Side = Field(description="What it is drawn for: each `user`, each `item` or each row.")
    kind: Literal["category", "normal", "lognormal", "count"] = Field(
        description="`category`: a string. `normal` and `lognormal`: a number. `count`: the whole "
        "part of a lognormal number."
    )
    cardinality: int | None = Field(
        None, ge=2, description="For `category`, which needs it: how many values there are."
    )
    zipf: float = Field(
        1.0, ge=0, description="For `category`: the k-th value is as frequent as 1 / k^zipf."
    )
    width: int = Field(8, ge=2, description="For `category`: characters of a value.")
    mean: float = Field(0.0, description="For numbers: of the normal number, or of the logarithm.")
    std: float = Field(1.0, gt=0, description="For numbers: the standard deviation of the same.")
    null_share: float = Field(0.0, ge=0, lt=1, description="Share of nulls.")

    @model_validator(mode="after")
    def _fits_kind(self) -> Self:
        category, number = {"cardinality", "zipf", "width"}, {"mean", "std"}
        wrong = self.model_fields_set & (number if self.kind == "category" else category)
        if wrong:
            raise ValueError(f"{', '.join(sorted(wrong))} does not apply to kind: {self.kind}")
        if self.kind == "category" and self.cardinality is None:
            raise ValueError("kind: category needs a cardinality")
        return self


class Planted(Section):
    """The AFM that labels are drawn from; its random weights follow from the seed."""

    fields: tuple[str, ...] | None = Field(
        None,
        description="Fields that the label depends on, `user` and `item` being the keys; "
        "all if left out.",
    )
    embedding_size: int = Field(8, ge=1, description="K, the length of an embedding.")
    attention_size: int = Field(4, ge=1, description="A, the hidden units of the attention.")
    strength: float = Field(
        1.5, gt=0, description="Standard deviation of the true logits; 0 would be a coin's."
    )
    label_rate: float = Field(0.25, gt=0, lt=1, description="Expected share of positive rows.")


class Synthetic(Section):
    """A synthetic log whose best possible accuracy is known."""

    rows: int = Field(ge=1, description="Rows of the log.")
    seed: int = Field(0, ge=0, lt=2**63, description="Everything random follows from it.")
    path: str = Field(description="Folder that the log is written into: any path Spark can write.")
    rows_per_file: int = Field(
        262_144, ge=1, description="Rows of a Parquet file, about; each file is a task."
    )
    users: Population | None = Field(None, description="The users; none if left out.")
    items: Population | None = Field(None, description="The items; none if left out.")
    days: int | None = Field(
        None, ge=1, description="Times lie in so many days from 2024-01-01; none if left out."
    )
    one_table: bool = Field(
        False, description="The log has the fields of users and items too, instead of own tables."
    )
    fields: tuple[SyntheticField, ...] = Field(description="The columns beside the keys.")
    planted: Planted = Field(default_factory=Planted, description="What labels are drawn from.")

    @model_validator(mode="after")
    def _holds_together(self) -> Self:
        # Spark tells columns apart without regard to case.
        counts = Counter(f.name.lower() for f in self.fields)
        problems = [f"the name {name!r} is used twice" for name, c in counts.items() if c > 1]
        taken = [f.name for f in self.fields if f.name.lower() in RESERVED | OWN_COLUMNS]
        problems += [f"the name {name!r} is ours; take another" for name in taken]
        problems += [
            f"fields of side {side} need `{side}s`"
            for side in ("user", "item")
            if side not in self.populations and any(f.side == side for f in self.fields)
        ]
        known = {*self.populations, *(f.name for f in self.fields)}
        problems += [
            f"planted.fields names the unknown field {name!r}"
            for name in self.planted_fields
            if name not in known
        ]
        if len(set(self.planted_fields)) < 2:
            problems.append("a planted model needs two fields")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def populations(self) -> dict[Side, Population]:
        """Users and items, as far as there are any."""
        both: dict[Side, Population | None] = {"user": self.users, "item": self.items}
        return {side: population for side, population in both.items() if population is not None}

    @property
    def planted_fields(self) -> tuple[str, ...]:
        """Names of the planted model's fields, keys first."""
        everything = (*self.populations, *(f.name for f in self.fields))
        return everything if self.planted.fields is None else self.planted.fields
