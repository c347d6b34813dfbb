"""Secrets of a configuration, which never reach a table, a manifest, a report or a message.

Readers of some sources need passwords: in ``options``, and in URLs before the ``@``.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from conf.features import Table
from conf.names import digest
from conf.schema import Config

MASK = "•••"

_SECRET = re.compile(
    r"pass|pwd|secret|token|key|credential|auth|signature|\bsas\b|account|connection", re.IGNORECASE
)
"""Names of options that may hold one. Hiding too much does no harm here."""
_PASSWORD_OF_URL = re.compile(r"(?<=://)[^/\s@:]*:(?!\d+/)[^\s@]*@")
_USER_OF_URL = re.compile(r"(?<!abfs://)(?<!abfss://)(?<!wasb://)(?<!wasbs://)(?<=://)[^/\s@]+@")
"""Azure's URLs name a container there, which tells one source from another."""
_ASSIGNED = re.compile(
    r"((?:^|[?&;\s])(?:pass\w*|pwd|secret|token|key|sig\w*)\s*=\s*)[^;&\s]+", re.IGNORECASE
)
"""In URLs, such as those of JDBC, and in options; a folder ``key=5`` stands after a slash."""
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"`,]+")
_SHORTEST = 4
"""Letters of a value that is looked for in texts: shorter ones stand everywhere."""


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
        hidden = _USER_OF_URL.sub(f"{MASK}@", _PASSWORD_OF_URL.sub(f"{MASK}@", value))
        is_exposed = inside_options or "://" in value
        return _ASSIGNED.sub(rf"\g<1>{MASK}", hidden) if is_exposed else hidden
    if isinstance(value, Sequence):
        return [masked(inner, inside_options) for inner in value]
    return value


def masked_override(override: str) -> str:
    """An override without secrets.

    >>> masked_override("source.interactions.options.password=1234")
    'source.interactions.options.password=•••'
    """
    name, equals, text = override.partition("=")
    if not equals:
        return override
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return f"{name}={MASK}" if "options" in override else f"{name}={masked(text)}"
    node: Any = value
    for part in reversed(name.split(".")):
        node = {part: node}
    shown = masked(node)
    for part in name.split("."):
        shown = shown[part] if isinstance(shown, Mapping) else shown
    return override if shown == value else f"{name}={flow(shown)}"


def flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return re.sub(r"\n(\.\.\.\n)?$", "", text)


def without_secrets(config: Config) -> Config:
    """A configuration to keep: with :data:`MASK` in place of passwords in options and URLs.

    Args:
        config: The configuration.

    Returns:
        A copy in which the same keys count as set; expressions stay as they are.
    """
    source = {name: _masked_table(t) for name, t in config.source if isinstance(t, Table)}
    tables = {name: masked(at) for name, at in config.tables if at is not None}
    changed: dict[str, Any] = {
        "source": config.source.model_copy(update=source),
        "tables": config.tables.model_copy(update=tables),
    }
    if config.score.candidates is not None:
        candidates = {"candidates": _masked_table(config.score.candidates)}
        changed["score"] = config.score.model_copy(update=candidates)
    return config.model_copy(update=changed)


def _masked_table(table: Table) -> Table:
    path = masked(table.path)
    shown: dict[str, Any] = {"path": path if isinstance(path, str) else tuple(path)}
    if table.options:
        shown["options"] = masked(table.options, inside_options=True)
    return table.model_copy(update=shown)


def digest_of(config: Config) -> str:
    """A digest of a configuration that tells nothing of its secrets, and outlives their change."""
    return digest(without_secrets(config).model_dump_json())


def redacted(text: str, config: Config | None = None) -> str:
    """A text without secrets.

    Args:
        text: A message, perhaps of a library that a source is read with.
        config: The configuration, whose secrets it may name.

    Returns:
        The text, with :data:`MASK` in place of what gives access in URLs, and of secret options.
    """
    for secret in _secrets(config) if config else ():
        text = text.replace(secret, MASK)
    return _URL.sub(lambda url: str(masked(url[0])), text)


def _secrets(config: Config) -> Iterator[str]:
    for table in (*(t for _, t in config.source), config.score.candidates):
        if table is not None:
            for name, value in table.options.items():
                text = str(value)
                if len(text) >= _SHORTEST and masked({name: value}, True)[name] == MASK:
                    yield text
