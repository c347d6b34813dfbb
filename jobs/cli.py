"""The command ``afm``: one name for all jobs, each run as its own file is.

    afm prepare conf/yours.yaml mode=append
    afm train -np 4 conf/yours.yaml model.name=fm
    afm score --spark master=spark://HOST:7077 conf/yours.yaml

It only starts them, shows the command that does, and ends as it ends.
"""

import ast
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import click

import jobs
from conf import SPARK_CONF
from jobs.events import JSON

FOLDER = Path(jobs.__path__[0])

ON_SPARK = ("prepare", "train_on_spark", "evaluate", "score", "monitor", "synthesize")
ON_RANKS = ("train", "tune")
PLAIN = ("init", "report", "maintain", "doctor")

_PIPELINE = "CONFIG.yaml [KEY=VALUE]..."
_TAKEN = {"init": "LOG [NEW.yaml]", "doctor": f"[{_PIPELINE}]"}
"""What jobs take that do not take a pipeline."""

SPARK_OPTIONS: list[click.Parameter] = [
    click.Option(
        ["--spark", "flags"],
        multiple=True,
        metavar="FLAG=VALUE",
        help="A flag of spark-submit, without its dashes: master, driver-memory, py-files, conf …. "
        "Again for more.",
    )
]
RANK_OPTIONS: list[click.Parameter] = [
    click.Option(["-np", "ranks"], default=1, show_default=True, help="Processes."),
    click.Option(["-H", "--hosts"], metavar="HOST:N,…", help="Where, as for horovodrun."),
]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Attentional factorization machines on Spark: from logs to ranked recommendations.

    A pipeline is a YAML file; any of its values can be given after it as key=value.
    """


def on_spark(job: str, flags: Sequence[str], rest: Sequence[str]) -> list[str]:
    """The command of a job that runs on Spark.

    Args:
        job: Its name.
        flags: Flags of spark-submit, ``name=value``.
        rest: The job's own arguments.

    Returns:
        The command's words.

    Raises:
        click.UsageError: A flag has no value.
    """
    words = ["spark-submit", "--properties-file", str(SPARK_CONF)]
    for flag in flags:
        name, equals, value = flag.partition("=")
        if not equals:
            raise click.UsageError(f"--spark {flag}: give it as {flag}=VALUE")
        words += [f"--{name.lstrip('-')}", value]
    return [*words, str(FOLDER / f"{job}.py"), *rest]


def on_ranks(job: str, ranks: int, hosts: str | None, rest: Sequence[str]) -> list[str]:
    """The command of a job that runs on one or more ranks, and of one that needs no Spark.

    Args:
        job: Its name.
        ranks: How many.
        hosts: Where, if not all on this machine.
        rest: The job's own arguments.

    Returns:
        The command's words.
    """
    words = [sys.executable, str(FOLDER / f"{job}.py"), *rest]
    if ranks == 1 and not hosts:
        return words
    return ["horovodrun", "-np", str(ranks), *(["-H", hosts] if hosts else []), *words]


def start(words: list[str]) -> NoReturn:
    """Becomes a command, which finds what is installed beside this Python first."""
    click.echo(f"$ {shlex.join(words)}", err=True)
    beside = str(Path(sys.executable).parent)
    os.environ["PATH"] = f"{beside}{os.pathsep}{os.environ.get('PATH', '')}"
    if words[0] == "horovodrun" and JSON in words:
        sys.exit(_without_ranks(words))
    os.execvp(words[0], words)


def _without_ranks(words: list[str]) -> int:
    """Runs horovodrun, of whose stdout only what ranks say gets there, without their numbers."""
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        for line in process.stdout or ():
            said = re.sub(r"^\[\d+\]<stdout>:", "", line)
            click.echo(said, nl=False, err=said == line)
    return process.returncode if process.returncode >= 0 else 128 - process.returncode


def _command(job: str) -> click.Command:
    """A job as a command, with its docstring as help. It is not imported: torch takes seconds."""

    def run(
        arguments: Sequence[str],
        flags: Sequence[str] = (),
        ranks: int = 1,
        hosts: str | None = None,
    ) -> NoReturn:
        if job in ON_SPARK:
            start(on_spark(job, flags, arguments))
        start(on_ranks(job, ranks, hosts, arguments))

    text = ast.get_docstring(ast.parse((FOLDER / f"{job}.py").read_text(encoding="utf-8"))) or ""
    summary, *details = text.split("\n\n")
    options = SPARK_OPTIONS if job in ON_SPARK else RANK_OPTIONS if job in ON_RANKS else []
    rest = click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED, metavar="")
    return click.Command(
        job,
        callback=run,
        params=[*options, rest],
        short_help=summary,
        help="\n\n".join([summary, *(f"\b\n{part}" for part in details)]),  # \b keeps its lines
        options_metavar=f"[OPTIONS] {_TAKEN.get(job, _PIPELINE)}",
        context_settings={"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]},
    )


for _job in (*ON_SPARK, *ON_RANKS, *PLAIN):
    main.add_command(_command(_job))


if __name__ == "__main__":
    main()
