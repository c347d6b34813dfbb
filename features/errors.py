"""What can be wrong with the data or its description."""

import re


class DataError(Exception):
    """The data cannot be used as the configuration says.

    The message names table, field or rule, and the remedy.
    """


def cause_of(error: Exception) -> str:
    """What has happened, in a line, as the last cause of an exception says it.

    Spark wraps what happened in a task several times. Names of exceptions, and Spark's codes, are
    left out.

    Args:
        error: What Spark raised.

    Returns:
        The line; empty if the exception says nothing.
    """
    text = str(error)
    causes = re.findall(r"^: (.+)$", text, re.MULTILINE)[:1]  # of what Java raised, the outermost
    causes += re.findall(r"^\s*Caused by: (.+)$", text, re.MULTILINE)
    causes += re.findall(r"^(\w+(?:\.\w+)*Error: .+)$", text, re.MULTILINE)  # of a Python worker
    said = causes[-1] if causes else next((line for line in text.splitlines() if line.strip()), "")
    said = re.sub(r"^(?:[\w.$]+(?:Exception|Error)\s*:?\s+)+", "", said.strip())
    return re.sub(r"\s*SQLSTATE: .*$", "", re.sub(r"^\[[A-Z0-9_.]+\]\s*", "", said)).strip()
