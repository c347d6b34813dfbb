"""The FeatureSpec: the one contract between the Spark side and the torch side.

It says which fields there are, on which side they stand, how many embeddings each takes, and
all that was learned from the training rows. It is JSON in and out, and imports neither Spark nor
torch. Vocabularies can be large, so they stay in the Delta table ``vocabulary``; the spec carries
their digest.

Every ``features`` table has the columns below, and one per :class:`Input`:

=========  ==================  ==========================================================
encode     column type         content
=========  ==================  ==========================================================
``index``  ``int``             0 missing, 1 unseen or rare, 2… by falling frequency (of a
                               ``hash`` or ``bucket`` field: by the bucket's number)
``multi``  ``array<int>``      ``width`` such indices, the unused ones 0
``value``  ``float``           the imputed, scaled number
=========  ==================  ==========================================================
"""

from typing import Literal

from pydantic import Field

from conf.features import Cross, FieldConfig, History, Keys, Negatives, SplitConfig
from conf.names import digest
from conf.schema import Config
from conf.section import Section

USER, ITEM, TIME = "user_key", "item_key", "event_time"
LABEL, WEIGHT, SPLIT, ROW, SAMPLED = "label", "weight", "split", "row", "sampled"
SPLITS: tuple[Literal["train"], Literal["validation"], Literal["test"]] = (
    "train",
    "validation",
    "test",
)

MISSING, UNSEEN, FIRST = 0, 1, 2
"""Indices: a missing value, a value unseen (or too rare) in training, the most frequent value."""


class Input(Section):
    """A model field, as the torch side sees it."""

    name: str
    side: Literal["user", "item", "context", "cross"]
    """``cross`` depends on two sides at once."""
    encode: Literal["index", "value", "multi"]
    cardinality: int
    """Embeddings it takes: 1 for ``value``, otherwise 2 + vocabulary or buckets."""
    width: int = 1
    """Columns of indices: ``max_values`` for ``multi``, otherwise 1."""
    parents: tuple[str, str] | None = None
    """For a cross: the two fields it is made of."""
    history: bool = False
    """Whether it is a ``multi`` whose values are in the order of time, the oldest first."""


class Scaling(Section):
    """x ↦ (t(x) - offset) · factor, where t is ln(1 + max(x - minimum, 0)) or nothing."""

    log_minimum: float | None = None
    offset: float = 0.0
    factor: float = 1.0


class FittedField(Section):
    """A field of the configuration with what was learned for it."""

    config: FieldConfig
    cardinality: int
    fill: float | str | None = None
    """What replaces a missing value; None keeps it missing (index 0)."""
    scaling: Scaling = Scaling()
    boundaries: tuple[float, ...] = ()
    """For ``bucket``: the smallest number of each bucket but the first, rising."""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """What the model sees of it: the field, and whether it was missing."""
        config = self.config
        if config.encode == "none":
            return ()
        itself = Input(
            name=config.name,
            side=config.side,
            encode=config.encode if config.encode in ("value", "multi") else "index",
            cardinality=self.cardinality,
            width=config.max_values if config.encode == "multi" else 1,
        )
        flag = Input(name=config.flag, side=config.side, encode="index", cardinality=FIRST + 1)
        return (itself, flag) if config.flag_missing else (itself,)


class FittedCross(Section):
    """A cross of the configuration with what was learned for it."""

    config: Cross
    side: Literal["user", "item", "context", "cross"]
    cardinality: int


class FittedHistory(Section):
    """A history of the configuration, with the vocabulary of the field that it lists."""

    config: History
    cardinality: int


class FittedSplit(Section):
    """A split that can be applied to new rows."""

    config: SplitConfig
    cuts: tuple[float, float] | None = None
    """For a split by time: the last moment of training and of validation, as doubles."""


class FeatureSpec(Section):
    """How raw rows become model inputs."""

    format: Literal[2] = 2
    label: str
    keys: Keys
    fields: tuple[FittedField, ...]
    histories: tuple[FittedHistory, ...] = ()
    crosses: tuple[FittedCross, ...] = ()
    split: FittedSplit
    vocabulary_digest: str = ""

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The model's fields in their fixed order: fields as configured, histories, crosses."""
        fields = tuple(i for field in self.fields for i in field.inputs)
        histories = tuple(
            Input(
                name=h.config.name,
                side="user",
                encode="multi",
                cardinality=h.cardinality,
                width=h.config.length,
                history=True,
            )
            for h in self.histories
        )
        crosses = tuple(
            Input(
                name=c.config.name,
                side=c.side,
                encode="index",
                cardinality=c.cardinality,
                parents=c.config.fields,
            )
            for c in self.crosses
        )
        return fields + histories + crosses

    @property
    def hash(self) -> str:
        """Equal for two specs exactly if they encode every row alike."""
        return digest(self.model_dump_json())

    def changed_in(self, config: Config) -> list[str]:
        """What a configuration asks for that this spec was not fitted to; empty if nothing.

        Args:
            config: The configuration of a later job.

        Returns:
            The keys of the configuration that differ.
        """
        asked = {
            "label": (config.label, self.label),
            "keys": (config.keys, self.keys),
            "fields": ([f.encoding for f in config.fields], [f.config for f in self.fields]),
            "history": (list(config.history), [h.config for h in self.histories]),
            "crosses": (list(config.crosses), [c.config for c in self.crosses]),
            "split": (config.split, self.split.config),
        }
        return [key for key, (theirs, mine) in asked.items() if theirs != mine]

    def read_otherwise_by(self, config: Config) -> list[str]:
        """What makes a configuration read raw rows otherwise than this spec's did.

        Args:
            config: The configuration of a later job.

        Returns:
            The keys of the configuration that differ; how fields are encoded is no part of it.
        """
        asked = {
            "label": (config.label, self.label),
            "keys": (config.keys, self.keys),
            "fields": ([f.reading for f in config.fields], [f.config.reading for f in self.fields]),
            "split.seed": (config.split.seed, self.split.config.seed),
        }
        return [key for key, (theirs, mine) in asked.items() if theirs != mine]

    def difference(self, other: "FeatureSpec") -> list[str]:
        """Names what differs between two specs, a line each; empty if they are the same.

        Args:
            other: The spec to compare with.

        Returns:
            Lines such as ``field age: cardinality 63, not 62``, this spec's value first.
        """
        lines = []
        mine, theirs = ({i.name: i for i in s.inputs} for s in (self, other))
        for name in [*mine, *(n for n in theirs if n not in mine)]:
            a, b = mine.get(name), theirs.get(name)
            if a is None or b is None:
                lines.append(f"field {name}: only in {'the second' if a is None else 'the first'}")
            elif a != b:
                changed = [k for k in Input.model_fields if getattr(a, k) != getattr(b, k)]
                lines += [
                    f"field {name}: {k} {getattr(a, k)}, not {getattr(b, k)}" for k in changed
                ]
        if not lines and self.vocabulary_digest != other.vocabulary_digest:
            lines.append("the vocabularies differ")
        if not lines and self != other:
            lines.append("fitted statistics differ (imputing, scaling, split, label or keys)")
        return lines


class Prepared(Section):
    """What a finished ``prepare`` publishes: a spec and the table versions that belong to it.

    It is one row of the Delta table ``prepared``, written last and in one commit, so that readers
    see all tables of one run or all of the run before.
    """

    spec: FeatureSpec
    versions: dict[str, int]
    """Delta version of each table."""
    rows: dict[str, int] = Field(default_factory=dict)
    """Row counts: read, accepted, quarantined, and each split."""
    negatives: Negatives | None = None
    """How negatives were sampled into the interactions."""
    weight: str | None = None
    """The expression for the column ``weight``; without it there is none."""
    batches: dict[str, str] = Field(default_factory=dict)
    """The batches of rows that the tables hold, each with a fingerprint of its rows."""

    def mismatch(self, config: Config) -> str:
        """Why these tables are not those of a configuration; empty if they are.

        Args:
            config: The configuration of a later job.

        Returns:
            A sentence with the remedy, or nothing.
        """
        changed = ", ".join(
            self.spec.changed_in(config)
            + ["negatives"] * (self.negatives != config.negatives)
            + ["weight"] * (self.weight != config.weight)
        )
        return changed and (
            f"the tables in {config.tables.root} were prepared with another {changed}. "
            "Run jobs/prepare.py again"
        )
