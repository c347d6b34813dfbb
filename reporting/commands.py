"""The command lines that make a pipeline's tables and models, to show and to copy."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from afm.artifact import Manifest
from conf.schema import Config
from conf.secrets import flow, masked_override
from reporting.missing import Job

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
            f"{section}.{key}={flow(value)}"
            for section in ("model", "train")
            for key, value in _other(getattr(manifest.config, section), getattr(config, section))
        ]
        return self.of("train", *more, ranks=manifest.ranks)


def _other(mine: Any, theirs: Any) -> Sequence[tuple[str, Any]]:
    """The keys in which a section differs from another one."""
    a, b = mine.model_dump(mode="json"), theirs.model_dump(mode="json")
    return [(key, a[key]) for key in a if a[key] != b[key]]
