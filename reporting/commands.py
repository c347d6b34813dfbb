"""The command lines that make a pipeline's tables and models, to show and to copy."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from afm.artifact import Manifest
from conf.schema import Config
from reporting.missing import Job
from reporting.secrets import masked

_SPARK = "spark-submit --properties-file conf/spark.conf"


@dataclass(frozen=True)
class Commands:
    """What the jobs of a pipeline are called with."""

    yaml: str
    """The file of the configuration."""
    overrides: tuple[str, ...]
    """``key=value`` each."""

    def of(self, job: Job, *more: str, ranks: int = 1) -> str:
        """The command of a job, without secrets.

        Args:
            job: The job.
            more: Further overrides.
            ranks: For training: how many processes.

        Returns:
            A line for a shell.
        """
        start = _SPARK if job != "train" else "python"
        if job == "train" and ranks > 1:
            start = f"horovodrun -np {ranks} python"
        own = (o for o in self.overrides if not o.startswith("report."))
        words = [f"jobs/{job}.py", self.yaml, *map(masked_override, own), *more]
        return " ".join([start, *map(shlex.quote, words)])

    def of_model(self, manifest: Manifest, config: Config) -> str:
        """The command that trained a model.

        Args:
            manifest: The model's.
            config: The pipeline's configuration by now.

        Returns:
            A line for a shell, with an override for whatever the model has otherwise.
        """
        more = [
            f"{section}.{key}={_flow(value)}"
            for section in ("model", "train")
            for key, value in _other(getattr(manifest.config, section), getattr(config, section))
        ]
        return self.of("train", *more, ranks=manifest.ranks)


def masked_override(override: str) -> str:
    """An override without secrets.

    >>> masked_override("source.interactions.options.password=1234")
    'source.interactions.options.password=•••'
    """
    name, _, value = override.partition("=")
    node: Any = yaml.safe_load(value)
    for part in reversed(name.split(".")):
        node = {part: node}
    shown = masked(node)
    for part in name.split("."):
        shown = shown[part]
    return override if shown == yaml.safe_load(value) else f"{name}={_flow(shown)}"


def _other(mine: Any, theirs: Any) -> Sequence[tuple[str, Any]]:
    """The keys in which a section differs from another one."""
    a, b = mine.model_dump(mode="json"), theirs.model_dump(mode="json")
    return [(key, a[key]) for key in a if a[key] != b[key]]


def _flow(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return re.sub(r"\n(\.\.\.\n)?$", "", text)
