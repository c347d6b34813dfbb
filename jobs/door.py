"""How every job is entered: ``job.py conf.yaml [key=value …] [--json]``, and how it fails."""

import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from afm.errors import ModelError
from conf.load import ConfigError, load
from conf.schema import Config, Section
from features.errors import DataError
from jobs import events

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
    take_streams()
    arguments = sys.argv[1:]
    if "-h" in arguments or "--help" in arguments:
        print((usage or "").strip())
        sys.exit(0)
    if not arguments:
        print((usage or "").strip(), file=sys.stderr)
        events.tell("error", message="called without a configuration")
        sys.exit(2)
    try:
        main(load(arguments[0], arguments[1:], schema, own))
    except KeyboardInterrupt:
        events.tell("error", message="interrupted")
        sys.exit(130)
    except Exception as error:
        if os.environ.get(TRACE):
            events.tell("error", message=_message(error))
            raise
        if os.environ.get("HOROVOD_RANK", "0") != "0":
            time.sleep(3)  # what is wrong for all ranks, the first one says before it ends them
        events.tell("error", message=_message(error))
        print(f"error: {_message(error)}", file=sys.stderr, flush=True)
        sys.exit(1)


def take_streams() -> None:
    """Takes the streams that the user sees, and stdout for events if ``--json`` is given.

    spark-submit starts Python with two pipes, both of which end in its own stdout. Where that has a
    terminal, the job takes it, so as to rewrite a line of it. With ``--json``, what is for people
    must not get into stdout: it goes where spark-submit's stderr goes.
    """
    as_json = events.JSON in sys.argv
    sys.argv = [word for word in sys.argv if word != events.JSON]
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        for stream in (1, 2):
            if as_json and stream == 1:
                continue
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY
            try:
                theirs = os.open(f"/proc/{os.getppid()}/fd/{stream}", flags)
            except OSError:  # a socket, say
                if not as_json:
                    continue
                theirs = os.open(os.devnull, flags)
            if as_json or os.isatty(theirs):
                os.dup2(theirs, stream)
            os.close(theirs)
    if as_json:
        events.begin(Path(sys.argv[0]).stem)


def expected(error: Exception) -> bool:
    """Whether an error's message says it all: what is wrong, and what to do."""
    return isinstance(error, ConfigError | DataError | ModelError)


def _message(error: Exception) -> str:
    if expected(error):
        return str(error)
    text = str(error)
    # Spark wraps what happened in a task several times; the last cause is what happened.
    causes = re.findall(r"^\s*Caused by: (.+)$", text, re.MULTILINE)
    causes += re.findall(r"^(\w+(?:\.\w+)*Error: .+)$", text, re.MULTILINE)  # of a Python worker
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = causes[-1] if causes else f"{type(error).__name__}: {' '.join(lines[:1])}"
    expression = re.search(r"^== SQL.*==\n(.+)$", text, re.MULTILINE)
    if expression:
        return f"the expression {expression[1]!r} fails on a value of the data: {said}"
    return f"{said}\nRun again with {TRACE}=1 for the stack trace."
