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
from conf.schema import Config
from conf.secrets import redacted
from conf.section import Section
from features.errors import DataError, cause_of, unreadable_file
from jobs import events
from jobs.failures import explained

TRACE = "AFM_TRACE"
"""Set in the environment, it makes jobs show the stack trace of an error."""

_LONGEST = 2_500
"""Letters of a message."""

_OURS = re.compile(r"^(?:features|afm)\.errors\.\w+: (.+)$", re.MULTILINE)
"""What a task raised of ours, as Spark tells it."""

_ON_VALUES = {
    "ArithmeticException",
    "ArrayIndexOutOfBoundsException",
    "DateTimeException",
    "NumberFormatException",
    "SparkRuntimeException",
    "SparkUpgradeException",
}
"""What Spark raises where an expression fails, which it does not always name."""
_OLD_CALENDAR = "INCONSISTENT_BEHAVIOR_CROSS_VERSION"
"""In what it says of times that Spark 2 read otherwise."""
_REMEDY = "Make it fit every row, as try_cast and nullif do, or correct the data"


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
    config: Section | None = None
    try:
        config = load(arguments[0], arguments[1:], schema, own)
        main(config)
    except KeyboardInterrupt:
        events.tell("error", message="interrupted")
        sys.exit(130)
    except Exception as error:
        if os.environ.get(TRACE):
            events.tell("error", message=message(error, config))
            raise
        if os.environ.get("HOROVOD_RANK", "0") != "0":
            time.sleep(3)  # what is wrong for all ranks, the first one says before it ends them
        said = message(error, config)
        events.tell("error", message=said)
        print(f"error: {said}", file=sys.stderr, flush=True)
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


def message(error: Exception, config: Section | None = None) -> str:
    """What a failed job says: what is wrong, where, and what to do, without secrets.

    Args:
        error: Why it failed.
        config: Its configuration, if it could be read.

    Returns:
        A text, mostly of one line.
    """
    of_pipeline = config if isinstance(config, Config) else None
    said = redacted(_said(error, of_pipeline), of_pipeline)
    # It may name what the data holds.
    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in said
    )
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} …"


def _said(error: Exception, config: Config | None) -> str:
    if known := explained(str(error), config):
        return known
    if expected(error):
        return str(error)
    if ours := _OURS.search(str(error)):
        return ours[1]
    if said := unreadable_file(error):
        return said
    cause = cause_of(error)
    expression = re.search(r"^== SQL.*==\n(.+)$", str(error), re.MULTILINE)
    if expression:
        return f"the expression {expression[1]!r} fails on a value of the data: {cause}. {_REMEDY}"
    if type(error).__name__ in _ON_VALUES or _OLD_CALENDAR in str(error):
        which = "an expression (of a field, label, weight, rule, score.users or score.items)"
        return f"{which} fails on a value of the data: {cause.rstrip('.:')}. {_REMEDY}"
    return f"{type(error).__name__}: {cause}\nRun again with {TRACE}=1 for the stack trace."
