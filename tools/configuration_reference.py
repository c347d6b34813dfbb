"""Writes docs/reference/configuration.md from the schemas' own descriptions.

python tools/configuration_reference.py          # write it
python tools/configuration_reference.py --check  # fail if it is out of date (make lint does)
"""

import json
import sys
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from conf.schema import Config
from conf.synthetic import Synthetic

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "configuration.md"

HEAD = """# Configuration

One YAML file drives every job; unknown keys are refused. Any value can be given on the command
line: `jobs/train.py conf/movielens.yaml train.epochs=3 fields.0.min_count=5` (lists count from 0,
values are YAML). The files in `conf/` are examples.

This page is made from `conf/schema.py` and, for the [synthetic logs](#a-synthetic-log) at its
end, `conf/synthetic.py` by `tools/configuration_reference.py`.
"""

SYNTHETIC_HEAD = """
# A synthetic log

`jobs/synthesize.py` takes a file of its own; [A log to try things on](../howto/synthetic.md) says
what for.
"""


def main() -> None:
    """Writes the page, or compares it."""
    text = page()
    if "--check" in sys.argv[1:]:
        if TARGET.read_text(encoding="utf-8") != text:
            sys.exit(f"{TARGET} is out of date: run python tools/configuration_reference.py")
    else:
        TARGET.write_text(text, encoding="utf-8")


def page() -> str:
    """The page."""
    return "".join(
        [
            HEAD,
            *sections(Config, "(top level)", set()),
            SYNTHETIC_HEAD,
            *sections(Synthetic, "(top level)", set()),
        ]
    )


def sections(model: type[BaseModel], place: str, seen: set[type[BaseModel]]) -> list[str]:
    """The page's part for a section of the schema and for those below it."""
    seen.add(model)
    about = (model.__doc__ or "").strip().replace("\n    ", "\n")
    lines = [f"\n## `{place}`\n\n{about}\n\n| key | type | default | |\n|---|---|---|---|\n"]
    below = []
    for name, field in model.model_fields.items():
        inner = [m for m in models_in(field.annotation) if m not in seen]
        text = (field.description or (inner[0].__doc__ if inner else "") or "").split("\n\n")[0]
        kind = type_of(field.annotation).replace("|", "\\|")
        lines.append(f"| `{name}` | {kind} | {default_of(field)} | {text} |\n")
        prefix = name if place == "(top level)" else f"{place}.{name}"
        below += [(m, prefix) for m in inner]
    for inner_model, prefix in below:
        if inner_model not in seen:
            lines += sections(inner_model, prefix, seen)
    return lines


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a type mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in models_in(inner)]


def type_of(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(f"`{a}`" for a in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_of(a) for a in arguments))
    if origin is tuple:
        return f"list of {type_of(arguments[0])}"
    if origin is dict:
        return f"{type_of(arguments[0])} → {type_of(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {str: "text", int: "integer", float: "number", bool: "true or false"}
    return names.get(annotation, "text")


def default_of(field: Any) -> str:
    """A default as YAML would have it."""
    if field.is_required():
        return "**required**"
    if field.default is PydanticUndefined:
        return ""
    value = [] if field.default == () else field.default
    text = json.dumps(value).replace("|", "\\|")  # a bar would end the cell
    return f"`{text}`" if value != "" else ""


if __name__ == "__main__":
    main()
