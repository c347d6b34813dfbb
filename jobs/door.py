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
from conf.secrets import redacted
from features.errors import DataError, cause_of, unreadable_file

TRACE = "AFM_TRACE"
"""Set in the environment, it makes jobs show the stack trace of an error."""

_LONGEST = 2_500
"""Letters of a message."""

_OURS = re.compile(r"^(?:features|afm)\.errors\.\w+: (.+)$", re.MULTILINE)
"""What a task raised of ours, as Spark tells it."""


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
    config = None
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
        print(f"error: {message(error, config)}", file=sys.stderr, flush=True)
        sys.exit(1)


def message(error: Exception, config: Section | None = None) -> str:
    """What a failed job says: what is wrong, where, and what to do, without secrets.

    Args:
        error: Why it failed.
        config: Its configuration, if it could be read.

    Returns:
        A text, mostly of one line.
    """
    said = redacted(_said(error), config if isinstance(config, Config) else None)
    # It may name what the data holds.
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in said
    )
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"


def _said(error: Exception) -> str:
    if isinstance(error, ConfigError | DataError | ModelError):
        return str(error)
    if ours := _OURS.search(str(error)):
        return ours[1]
    if said := unreadable_file(error):
        return said
    cause = cause_of(error)
    expression = re.search(r"^== SQL.*==\n(.+)$", str(error), re.MULTILINE)
    if expression:
        return (
            f"the expression {expression[1]!r} fails on a value of the data: {cause}. Make it fit "
            "every row, as try_cast and nullif do, or correct the data"
        )
    return f"{type(error).__name__}: {cause}\nRun again with {TRACE}=1 for the stack trace."
