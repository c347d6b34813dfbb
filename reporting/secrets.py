"""Secrets of a configuration, which never reach the page.

Readers of some sources need passwords: in ``options``, and in URLs before the ``@``.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "•••"

_SECRET = re.compile(
    r"pass|pwd|secret|token|key|credential|auth|signature|\bsas\b|account|connection", re.IGNORECASE
)
"""Names of options that may hold one. Hiding too much does no harm here."""
_USER_OF_URL = re.compile(r"(?<=://)[^/\s@]+@")
_ASSIGNED = re.compile(r"((?:pass\w*|pwd|secret|token|key|sig\w*)\s*=\s*)[^;&\s]+", re.IGNORECASE)
"""In URLs, such as those of JDBC, and in options."""


def masked(value: Any, inside_options: bool = False) -> Any:
    """A part of a configuration without what may be a secret.

    Args:
        value: As :meth:`pydantic.BaseModel.model_dump` gives it.
        inside_options: Whether it stands below a key ``options``.

    Returns:
        A copy, with :data:`MASK` in place of secrets.

    >>> masked({"options": {"sep": ";", "password": "1234"}})
    {'options': {'sep': ';', 'password': '•••'}}
    >>> masked("jdbc://anna:1234@host/log?sig=5")
    'jdbc://•••@host/log?sig=•••'
    """
    if isinstance(value, Mapping):
        return {
            key: MASK
            if inside_options and _SECRET.search(str(key))
            else masked(inner, inside_options or key == "options")
            for key, inner in value.items()
        }
    if isinstance(value, str):
        hidden = _USER_OF_URL.sub(f"{MASK}@", value)
        is_exposed = inside_options or "://" in value
        return _ASSIGNED.sub(rf"\g<1>{MASK}", hidden) if is_exposed else hidden
    if isinstance(value, Sequence):
        return [masked(inner, inside_options) for inner in value]
    return value
