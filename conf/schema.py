"""The configuration of a pipeline, as typed, frozen objects.

One YAML file drives every job. It is validated here once; behind this door nothing is a
dictionary any more. Unknown keys are refused. Its sections are in ``conf.features``,
``conf.training`` and ``conf.results``; here is what they have to agree on. The descriptions of
fields are the reference documentation (``docs/reference/configuration.md`` is made from them).
"""

from collections import Counter
from typing import Literal, Self

from pydantic import Field, model_validator

from conf.features import (
    BUILT_IN_RULES,
    RESERVED,
    Cross,
    FieldConfig,
    History,
    Keys,
    Negatives,
    PrepareConfig,
    Quality,
    Source,
    SplitConfig,
)
from conf.ranges import refusals
from conf.results import (
    EvaluateConfig,
    MaintainConfig,
    MonitorConfig,
    ReportConfig,
    ScoreConfig,
    Tables,
)
from conf.section import Section
from conf.training import ModelConfig, TrainConfig, TuneConfig, range_problem


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
            problem = range_problem(key, values)
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
