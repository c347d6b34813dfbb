"""What a job tells machines: a JSON object per line of stdout, if it was started with ``--json``.

docs/progress.md says what there is. Without ``--json`` nothing is told. It is kept by the process,
for it has one stdout.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

JSON = "--json"
"""On the command line, it makes stdout events."""

_listener: tuple[TextIO, str] | None = None
"""Where events go, and the job that they are of."""


def begin(job: str) -> None:
    """Takes stdout for events; from now on, what is printed for people goes to stderr.

    Args:
        job: Its name, which each event bears.
    """
    global _listener
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    _listener = lines, job


def wanted() -> bool:
    """Whether anybody listens."""
    return _listener is not None


def tell(event: str, **content: object) -> None:
    """Writes an event, if any are wanted.

    Args:
        event: ``step``, ``progress``, ``result`` or ``error``.
        content: What JSON can hold; numbers that it cannot, NaN and infinity, become null.
    """
    if _listener is not None:
        lines, job = _listener
        said = {"event": event, "job": job, **content}
        # One write: a thread that tells of progress must not get between.
        lines.write(json.dumps(_plain(said), allow_nan=False) + "\n")
        lines.flush()


def _plain(value: Any) -> Any:
    match value:
        case float():
            return value if math.isfinite(value) else None
        case str():
            return value
        case Mapping():
            return {str(key): _plain(each) for key, each in value.items()}
        case Sequence():
            return [_plain(each) for each in value]
        case _:
            return value
