"""What the tables and models were made from, by what, and how to make them again."""

from dataclasses import dataclass
from datetime import datetime

import yaml

from afm.errors import TableError
from conf.schema import Config
from conf.secrets import digest_of, masked
from features.spec import Prepared
from reporting.commands import Commands
from reporting.models import Models
from reporting.tables import Tables

_RESULTS = ("prepared", "metrics", "rankings", "scores")


@dataclass(frozen=True)
class TableLine:
    """A table at the version that counts."""

    name: str
    version: int
    time: datetime | None
    """When it was committed; None if the log no longer knows."""
    config: str | None
    """Digest of the configuration that made it."""


@dataclass(frozen=True)
class ModelLine:
    """A model and what made it."""

    name: str
    run: str
    spec: str
    features: int
    """Version of the table."""
    seed: int
    ranks: int
    revision: str | None
    command: str


@dataclass(frozen=True)
class Lineage:
    """The last section."""

    config: str
    """The configuration as it was given, as YAML without secrets."""
    config_digest: str
    spec: str | None
    tables: tuple[TableLine, ...]
    models: tuple[ModelLine, ...]
    libraries: dict[str, str]
    commands: tuple[str, ...]


def trace(
    tables: Tables, config: Config, prepared: Prepared | None, models: Models, commands: Commands
) -> Lineage:
    """Gathers where everything comes from.

    Args:
        tables: The tables.
        config: The pipeline.
        prepared: What is published of the tables, if anything.
        models: The models, if any.
        commands: What the jobs are called with.

    Returns:
        The lines.
    """
    given = masked(config.model_dump(mode="json", exclude_unset=True, exclude={"report"}))
    trained = [commands.of_model(a.manifest, config) for a in models.by_name.values()]
    newest = next((a.manifest for a in models.by_name.values()), None)
    ranked = ("evaluate.ranking=true",) if _has(tables, "rankings") else ()
    ranked = () if any(o.startswith("evaluate.ranking=") for o in commands.overrides) else ranked
    return Lineage(
        config=yaml.safe_dump(given, sort_keys=False, allow_unicode=True, width=88),
        config_digest=digest_of(config),
        spec=None if prepared is None else prepared.spec.hash,
        tables=tuple(_table_lines(tables, prepared)),
        models=tuple(
            ModelLine(
                name=name,
                run=artifact.manifest.run,
                spec=artifact.manifest.spec_hash,
                features=artifact.manifest.features.version,
                seed=artifact.manifest.seed,
                ranks=artifact.manifest.ranks,
                revision=artifact.manifest.revision,
                command=command,
            )
            for (name, artifact), command in zip(models.by_name.items(), trained, strict=True)
        ),
        libraries={} if newest is None else newest.libraries,
        commands=(
            commands.of("prepare"),
            *(trained[::-1] or [commands.of("train")]),
            commands.of("evaluate", *ranked),
            commands.of("score"),
        ),
    )


def _table_lines(tables: Tables, prepared: Prepared | None) -> list[TableLine]:
    versions = {} if prepared is None else dict(prepared.versions)
    lines = []
    for name in [*versions, *_RESULTS]:
        try:
            commits = tables.commits(name) if _has(tables, name) else []
        except TableError:
            commits = []
        if not commits:
            continue
        version = versions.get(name, commits[0].version)
        commit = next((c for c in commits if c.version == version), None)
        lines.append(
            TableLine(
                name=name,
                version=version,
                time=None if commit is None else commit.time,
                config=None if commit is None else commit.about.get("config"),
            )
        )
    return lines


def _has(tables: Tables, name: str) -> bool:
    try:
        return tables.has(name)
    except TableError:
        return False
