"""What a JSON value means under its schema: the differences that the schema calls none are taken out.

A member left out that has a default is that default, and where `uniqueItems` says that a list is a set, order is none.
Of the schema only what tells values apart is read (`type`, `enum`, `const`, `properties`, `required`, `items`, local
`$ref`); engines enforce the rest while they generate.
"""

import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_DEFAULTS: Final = 1000
"""Filled in per value: defaults that hold others of their own kind would be without end."""

_TYPES: Final[Mapping[str, Callable[[Any], bool]]] = MappingProxyType(
    {
        "object": lambda value: isinstance(value, dict),
        "array": lambda value: isinstance(value, list),
        "string": lambda value: isinstance(value, str),
        "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
        "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "boolean": lambda value: isinstance(value, bool),
        "null": lambda value: value is None,
    }
)


class _TooManyDefaults(ValueError):
    pass


def normal_form(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value in its normal form. Raises ValueError where it breaks the schema, is nested deeper than MAX_DEPTH, or
    takes more than MAX_DEFAULTS."""
    return _Reader(schema).normal(value, schema, 0)


class _Reader:
    """Of one value under one schema."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._defaults_left = MAX_DEFAULTS

    def normal(self, value: Any, schema: Any, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if not isinstance(schema, Mapping):
            return value
        reference = schema.get("$ref")
        if isinstance(reference, str):
            return self.normal(value, _resolved(reference, self._root), depth + 1)
        _check(value, schema)
        if isinstance(value, dict):
            return self._object(value, schema, depth)
        if isinstance(value, list):
            items = [self.normal(item, schema.get("items"), depth + 1) for item in value]
            if schema.get("uniqueItems") is True:
                items.sort(key=lambda item: json.dumps(item, sort_keys=True))
            return items
        return value

    def _object(self, value: dict[str, Any], schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties = schema.get("properties")
        properties = properties if isinstance(properties, Mapping) else {}
        required = schema.get("required")
        missing = [name for name in (required if isinstance(required, list) else ()) if name not in value]
        if missing:
            raise ValueError(f"{missing[0]} is missing")
        found = {name: self.normal(member, properties.get(name), depth + 1) for name, member in value.items()}
        for name, of in properties.items():
            if name not in found and isinstance(of, Mapping) and "default" in of:
                found[name] = self._default(of, depth)
        return found

    def _default(self, schema: Mapping[str, Any], depth: int) -> Any:
        """As a value that was written out would be; as it stands where it breaks its own schema."""
        self._defaults_left -= 1
        if self._defaults_left < 0:
            raise _TooManyDefaults("too many defaults")
        default = _whole_as_integers(schema["default"])
        try:
            return self.normal(default, schema, depth + 1)
        except _TooManyDefaults:
            raise
        except ValueError:
            return default


def _whole_as_integers(value: Any) -> Any:
    """1.0 as 1, as values are read."""
    if isinstance(value, dict):
        return {name: _whole_as_integers(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_whole_as_integers(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _check(value: Any, schema: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    known = [name for name in names if isinstance(name, str) and name in _TYPES]
    if known and not any(_TYPES[name](value) for name in known):
        raise ValueError(f"not of type {wanted}")
    if isinstance(schema.get("enum"), list) and not any(_equal(value, allowed) for allowed in schema["enum"]):
        raise ValueError("not one of the values allowed")
    if "const" in schema and not _equal(value, schema["const"]):
        raise ValueError("not the value allowed")


def _equal(a: Any, b: Any) -> bool:
    """In JSON true is no 1."""
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """What a local reference names; one to elsewhere allows every value."""
    if reference == "#":
        return root
    if not reference.startswith("#/"):
        return None
    found: Any = root
    for part in reference.removeprefix("#/").split("/"):
        name = part.replace("~1", "/").replace("~0", "~")
        found = found.get(name) if isinstance(found, Mapping) else None
    return found
