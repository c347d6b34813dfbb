"""A guessed pipeline as a YAML file, with comments for those who read and correct it."""

import json
from pathlib import Path
from typing import Any

from conf.guess import Guess


def first_yaml(found: Guess, source: dict[str, Any], name: str) -> str:
    """Writes a pipeline down.

    Args:
        found: The guess.
        source: The section ``source.interactions``.
        name: What the pipeline is called: its tables go to ``build/<name>``.

    Returns:
        YAML.
    """
    scores = {"user", "item"} <= found.keys.keys()
    commands = ["prepare", "train", "evaluate", *(["score"] if scores else []), "report"]
    log = _on_one_line(Path(str(source["path"])).name)
    lines = [
        f"# A first pipeline, guessed from {log}. Read it, correct it, and then:",
        "#",
        *(f"#   afm {command} {name}.yaml" for command in commands),
        "#",
        "# All keys: docs/reference/configuration.md",
        "",
        "source:",
        f"  interactions: {_flow(source)}",
        "",
        f"label: {_text(found.label)}  # {found.label_why}",
        "",
    ]
    if found.keys:
        lines += ["keys:", *(f"  {key}: {_text(column)}" for key, column in found.keys.items())]
    if not scores:
        lines += ["# No keys of users and items were found: there is nothing to recommend."]
    lines += ["", "fields:"]
    lines += [f"  - {_flow(field.config)}  # {field.why}" for field in found.fields]
    if found.left_out:
        lines += ["", "# Left out. Take in what is known before the label is:"]
        lines += [f"#   {_on_one_line(column)}: {why}" for column, why in found.left_out.items()]
    lines += [
        "",
        "# A seeded hash of the row. Where a model is used on days to come, it is more honest",
    ]
    lines += ["# to learn from the past alone: {by: time} (it needs keys.time)."]
    lines += ["split: {by: hash}"]
    if scores:
        lines += ["", "score: {top_k: 10, exclude_seen: [train, validation, test]}"]
    return "\n".join([*lines, "", f"tables: {{root: build/{name}}}", ""])


def _on_one_line(name: str) -> str:
    """A name of the data in a comment, which it cannot end."""
    return name if name.isprintable() else json.dumps(name)


def _flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(v)}" for key, v in value.items()) + "}"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(value) if isinstance(value, str) else str(value)


def _text(value: str) -> str:
    """Text, in quotes where YAML would take it otherwise. JSON's strings are YAML's."""
    plain = value.replace("_", "a").replace(".", "a").replace("/", "a").replace("-", "a")
    reserved = value.lower() in {"true", "false", "null", "yes", "no", "on", "off", "y", "n", "~"}
    if plain.isalnum() and value[0].isalpha() and not reserved:
        return value
    return json.dumps(value, ensure_ascii=False)
