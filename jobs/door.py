"""How every job is entered: ``job.py conf.yaml [key=value …]``, and how it says that it failed."""

import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

from afm.errors import ModelError
from conf.load import ConfigError, load
from conf.schema import Config, Section
from features.errors import DataError
from jobs.failures import explained

TRACE = "AFM_TRACE"
"""Set in the environment, it makes jobs show the stack trace of an error."""


def run(
    main: Callable[[Any], None],
    usage: str | None,
    schema: type[Section] = Config,
    own: str | None = None,
) -> None:
    """Loads the configuration named on the command line, runs the job and exits.

    Exit codes: 0 done, 1 failed with a message, 2 called wrongly.

    Args:
        main: The job.
        usage: What ``--help`` prints: the job's docstring.
        schema: The configuration that the job takes.
        own: The job's own section, whose keys need not name it on the command line.
    """
    arguments = sys.argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print((usage or "").strip())
        sys.exit(0)
    if not arguments:
        print((usage or "").strip(), file=sys.stderr)
        sys.exit(2)
    config: Section | None = None
    try:
        config = load(arguments[0], arguments[1:], schema, own)
        main(config)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if os.environ.get(TRACE):
            raise
        if os.environ.get("HOROVOD_RANK", "0") != "0":
            time.sleep(3)  # what is wrong for all ranks, the first one says before it ends them
        if "pyspark" in sys.modules:  # whose progress bar may stand in the line
            print(file=sys.stderr)
        print(f"error: {_message(error, config)}", file=sys.stderr, flush=True)
        sys.exit(1)


def _message(error: Exception, config: Section | None) -> str:
    text = str(error)
    if known := explained(text, config if isinstance(config, Config) else None):
        return known
    if isinstance(error, ConfigError | DataError | ModelError):
        return text
    # Spark wraps what happened in a task several times; the last cause is what happened.
    causes = re.findall(r"^\s*Caused by: (.+)$", text, re.MULTILINE)
    causes += re.findall(r"^(\w+(?:\.\w+)*Error: .+)$", text, re.MULTILINE)  # of a Python worker
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = causes[-1] if causes else f"{type(error).__name__}: {' '.join(lines[:1])}"
    expression = re.search(r"^== SQL.*==\n(.+)$", text, re.MULTILINE)
    if expression:
        return f"the expression {expression[1]!r} fails on a value of the data: {said}"
    return f"{said}\nRun again with {TRACE}=1 for the stack trace."
