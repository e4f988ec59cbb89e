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


def normal_form(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value in its normal form. Raises ValueError where it breaks the schema or is nested deeper than MAX_DEPTH."""
    return _normal(value, schema, schema, 0)


def _normal(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if not isinstance(schema, Mapping):
        return value
    reference = schema.get("$ref")
    if isinstance(reference, str):
        return _normal(value, _resolved(reference, root), root, depth + 1)
    _check(value, schema)
    if isinstance(value, dict):
        return _object(value, schema, root, depth)
    if isinstance(value, list):
        items = [_normal(item, schema.get("items"), root, depth + 1) for item in value]
        if schema.get("uniqueItems") is True:
            items.sort(key=lambda item: json.dumps(item, sort_keys=True))
        return items
    return value


def _object(value: dict[str, Any], schema: Mapping[str, Any], root: Mapping[str, Any], depth: int) -> dict[str, Any]:
    properties = schema.get("properties")
    properties = properties if isinstance(properties, Mapping) else {}
    missing = [name for name in schema.get("required", ()) if name not in value]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    found = {name: _normal(member, properties.get(name), root, depth + 1) for name, member in value.items()}
    for name, of in properties.items():
        if name not in found and isinstance(of, Mapping) and "default" in of:
            found[name] = of["default"]
    return found


def _check(value: Any, schema: Mapping[str, Any]) -> None:
    """Raises ValueError."""
    wanted = schema.get("type")
    names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
    known = [name for name in names if name in _TYPES]
    if known and not any(_TYPES[name](value) for name in known):
        raise ValueError(f"not of type {wanted}")
    if isinstance(schema.get("enum"), list) and value not in schema["enum"]:
        raise ValueError("not one of the values allowed")
    if "const" in schema and value != schema["const"]:
        raise ValueError("not the value allowed")


def _resolved(reference: str, root: Mapping[str, Any]) -> Any:
    """A local `#/…` reference; anything else allows every value."""
    found: Any = root
    for part in reference.removeprefix("#/").split("/") if reference.startswith("#/") else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    return found if reference.startswith("#/") else None
