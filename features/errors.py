"""What can be wrong with the data or its description."""

import re
from urllib.parse import unquote


class DataError(Exception):
    """The data cannot be used as the configuration says.

    The message names table, field or rule, and the remedy.
    """


_RAISED = r"(?:[\w$]+\.)*[A-Z]\w*(?:Exception|Error|Invalid)"
"""The name of an exception, of Java or of Python."""
_UNREADABLE = re.compile(
    r"\[FAILED_READ_FILE\.\w+\] Encountered error while reading file (\S+)\.\s+(.*?)\s*SQLSTATE",
    re.DOTALL,
)


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
    causes += re.findall(rf"^({_RAISED}: .+)$", text, re.MULTILINE)  # in Python
    said = causes[-1] if causes else next((line for line in text.splitlines() if line.strip()), "")
    said = re.sub(rf"^(?:{_RAISED}\s*:?\s+)+", "", said.strip())
    said = re.sub(r"\s*SQLSTATE: .*$", "", re.sub(r"^\[[A-Z0-9_.]+\]\s*", "", said)).strip()
    return "" if re.fullmatch(_RAISED, said) else said


def unreadable_file(error: Exception) -> str:
    """What is to be said where Spark could not read a file.

    Args:
        error: What Spark raised.

    Returns:
        A sentence that names the file, and the remedy; empty if it was something else.
    """
    found = _UNREADABLE.search(str(error))
    if found is None:
        return ""
    file, hint = unquote(found[1]).removeprefix("file://"), " ".join(found[2].split())
    return (
        f"cannot read {file}: {hint or cause_of(error)} If it is a file of a source, correct or "
        "remove it; if it is one of tables.root, run jobs/prepare.py again"
    )
