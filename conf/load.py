"""A YAML file and dotted overrides, as a :class:`~conf.schema.Config`; all faults at once."""

import difflib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, overload

import yaml
from pydantic import BaseModel, ValidationError

from conf.schema import Config
from conf.secrets import masked_override
from conf.section import LONG, Section

_SHOWN, _LONGEST = 12, 300
"""Problems that are told at once, and letters of one: files may be anything."""
_SCALARS = ("str", "int", "float", "bool")

Schema = TypeVar("Schema", bound=Section)


class ConfigError(Exception):
    """The configuration cannot be used; the message names file, key, value and remedy."""


@overload
def load(path: str | Path, overrides: Sequence[str] = ()) -> Config: ...
@overload
def load(
    path: str | Path, overrides: Sequence[str], schema: type[Schema], own: str | None = None
) -> Schema: ...
def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    schema: type[Section] = Config,
    own: str | None = None,
) -> Section:
    """Reads and checks a configuration.

    Args:
        path: A YAML file.
        overrides: ``dotted.key=value`` each; the value is YAML, a list is counted from 0
            (``fields.0.impute=median``).
        schema: What the file has to fit: that of a pipeline if left out.
        own: A section whose keys overrides may name without it, as long as no section is called
            so: ``mode=append`` for ``prepare.mode=append``.

    Returns:
        The configuration.

    Raises:
        ConfigError: The file is not there or not YAML, an override is malformed, or the content
            does not fit the schema.
    """
    data = _read(Path(path))
    for override in overrides:
        first = override.partition("=")[0].partition(".")[0]
        is_own = own is not None and first in _keys(schema, own) - schema.model_fields.keys()
        _override(data, f"{own}.{override}" if is_own else override)
    if unusable := [*_unusable(data, "", set())]:
        raise _refusal(path, unusable)
    try:
        return schema.model_validate(data)
    except ValidationError as error:
        problems = [_describe(problem, schema) for problem in _one_each(error.errors())]
        raise _refusal(path, problems) from None


def _refusal(path: str | Path, problems: Sequence[str]) -> ConfigError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    shown = [problem[:_LONGEST] for problem in problems[:_SHOWN]]
    if len(problems) > _SHOWN:
        shown.append("…")
    lines = "\n".join(f"  {problem}" for problem in shown)
    return ConfigError(f"{count} in {path}:\n{lines}")


def _unusable(value: Any, key: str, seen: set[int]) -> Iterator[str]:
    """Values that no key takes: Spark has 64 bits for integers, and files' names end at a NUL."""
    if isinstance(value, dict | list):
        if id(value) in seen:  # an alias; what it stands for has been looked at
            return
        seen.add(id(value))
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unusable(inner, f"{key}.{name}".lstrip("."), seen)
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{key} = {value}: not a finite number"
    elif isinstance(value, int) and not -LONG <= value < LONG:
        yield f"{key}: an integer that does not fit into 64 bits"
    elif isinstance(value, str) and "\0" in value:
        yield f"{key}: text with a NUL character; take it out"


def _one_each(problems: Sequence[Any]) -> list[Any]:
    """Of problems with the types that a value may have, one: it has none of them."""
    found: dict[tuple[Any, ...], Any] = {}
    for problem in problems:
        *place, kind = problem["loc"] or ("",)
        if kind not in _SCALARS:
            found[problem["loc"]] = problem
        else:
            message = "Input should be text, a number, or true or false"
            found[tuple(place)] = problem | {"loc": tuple(place), "msg": message}
    return list(found.values())


def _keys(schema: type[Section], section: str) -> set[str]:
    (inner,) = _sections(schema.model_fields[section].annotation)
    return set(inner.model_fields)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {path}: {error.strerror}. Give the path of a YAML "
            "file, such as conf/movielens.yaml"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is not UTF-8 text (byte {error.start}: {error.reason}). Save it as UTF-8"
        ) from None
    except _NOT_YAML as error:
        raise ConfigError(f"{path} is not YAML: {_fault(error)}. Correct it") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path} holds no sections; see conf/movielens.yaml for an example")
    return data


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which takes no key twice: the first would be lost silently.

    What looks like a date is text. No key takes a date, and names may be dates.
    """

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping whose keys are there once each."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"the key {key.value!r} is there twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {
    first: [(tag, looks) for tag, looks in known if tag != "tag:yaml.org,2002:timestamp"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _parse(text: str) -> Any:
    loader = _Loader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


_NOT_YAML = (yaml.YAMLError, ValueError, AttributeError, RecursionError)
"""What reading YAML raises: a number of 5000 digits is a ValueError, and what is said to be a time
(``!!timestamp``) and is none an AttributeError."""


def _fault(error: Exception) -> str:
    """What is wrong with a file and where, without the line itself, which may hold a password."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).replace('in "<unicode string>", ', "").split())


def _override(data: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        raise ConfigError(f"cannot read the argument {text!r}: overrides look like train.epochs=3")
    try:
        given = _parse(value)
    except _NOT_YAML:
        shown = masked_override(text).partition("=")[2]
        raise ConfigError(f"cannot set {key}: {shown!r} is not YAML") from None
    *parents, last = key.split(".")
    node: Any = data
    try:
        for part in parents:
            if isinstance(node, list):
                node = node[int(part)]
            else:
                if node.get(part) is None:
                    node[part] = {}
                node = node[part]
        node[int(last) if isinstance(node, list) else last] = given
    except (IndexError, ValueError, TypeError, AttributeError):
        raise ConfigError(f"cannot set {key}: there is no such place in the file") from None


def _describe(problem: Any, schema: type[BaseModel]) -> str:
    location = [part for part in problem["loc"] if part != "Default"]
    key = ".".join(map(str, location)) or "the file"
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown key.{_nearest(location, schema)}"
    if problem["type"] == "missing":
        return f"{key}: missing; it has to be given"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if isinstance(value, str | int | float | bool):
        return f"{key} = {value!r}: {message}"
    return f"{key}: {message}"


def _nearest(location: Sequence[str | int], schema: type[BaseModel]) -> str:
    section = _section_at(location[:-1], schema)
    if section is None:
        return ""
    names = list(section.model_fields)
    near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
    return f" Did you mean {near[0]}?" if near else f" Known are {', '.join(names)}"


def _section_at(location: Sequence[str | int], section: type[BaseModel]) -> type[BaseModel] | None:
    """The schema's section at a place in the file, or None where there is none."""
    for part in location:
        if isinstance(part, int):
            continue
        inner = _sections(section.model_fields[part].annotation)
        if not inner:
            return None
        section = inner[0]
    return section


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) is None or get_origin(annotation) is dict:
        return []
    return [section for inner in get_args(annotation) for section in _sections(inner)]
