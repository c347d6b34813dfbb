"""Dotted keys of a section, and the section with other values there."""

from collections.abc import Mapping
from itertools import chain, combinations, product
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

S = TypeVar("S", bound=BaseModel)


def keys_of(section: type[BaseModel]) -> dict[str, frozenset[type]]:
    """The keys of a section and of those within it.

    Args:
        section: The section.

    Returns:
        By dotted key, the types that it mentions.
    """
    keys: dict[str, frozenset[type]] = {}
    for name, field in section.model_fields.items():
        kinds = _types_in(field.annotation)
        for inner in kinds:
            if issubclass(inner, BaseModel):
                keys |= {f"{name}.{key}": below for key, below in keys_of(inner).items()}
        if not any(issubclass(kind, BaseModel) for kind in kinds):
            keys[name] = kinds
    return keys


def value_at(section: BaseModel, key: str) -> object:
    """The value of a dotted key; None below a section that is not there."""
    value: object = section
    for part in key.split("."):
        value = getattr(value, part, None)
    return value


def with_values(section: S, values: Mapping[str, object]) -> S:
    """A section with other values.

    Args:
        section: The section.
        values: The values by dotted key; sections on the way there are made if left out so far.

    Returns:
        The section, in which still only what was given, or is by now, counts as set.

    Raises:
        ValidationError: It refuses the values.
    """
    data = section.model_dump(exclude_unset=True)
    for key, value in values.items():
        *parents, last = key.split(".")
        node = data
        for part in parents:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        node[last] = value
    return type(section).model_validate(data)


def refusals(section: BaseModel, candidates: Mapping[str, tuple[object, ...]]) -> list[str]:
    """What a section says against values that are to be tried in it.

    Args:
        section: The section.
        candidates: By dotted key, values to try, at least one.

    Returns:
        A line for each key with a value that it does not take, and for each rule between keys that
        some values break: any one value, and any two of different keys, are tried. The other keys
        have their first value then.
    """
    found = {}
    for key, values in candidates.items():
        for value in values:
            error = _error(section, {key: value})
            if error and ".".join(map(str, error["loc"])).startswith(key):
                found[key] = f"{key} = {value!r}: {error['msg']}"
                break
    left = {key: values for key, values in candidates.items() if key not in found}
    first = {key: values[0] for key, values in left.items()}
    for keys in chain(combinations(left, 1), combinations(left, 2)):
        for some in product(*(left[key] for key in keys)):
            tried = dict(zip(keys, some, strict=True))
            error = _error(section, first | tried)
            if error:
                named = " with ".join(f"{key} = {value!r}" for key, value in tried.items())
                rule = error["msg"].removeprefix("Value error, ")
                found.setdefault(rule, f"{named}: {rule}")
    return list(found.values())


def _error(section: BaseModel, values: Mapping[str, object]) -> Any:
    """The first thing that is wrong with a section with other values, or None."""
    try:
        with_values(section, values)
    except ValidationError as error:
        return error.errors()[0]
    return None


def _types_in(annotation: Any) -> frozenset[type]:
    """The classes that an annotation mentions: those of a literal's values, too."""
    inner = get_args(annotation)
    if not inner:
        return frozenset({annotation if isinstance(annotation, type) else type(annotation)})
    return frozenset().union(*map(_types_in, inner))
