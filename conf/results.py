"""What the configuration says of what comes after training, and of where tables and models lie."""

from collections import Counter
from typing import Literal, Self

from pydantic import Field, model_validator

from conf.features import Split, Table
from conf.names import is_url
from conf.section import MOST, Scalar, Section


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
