"""A YAML mapping with the line of every key, so that an error can say where. The configuration and workload files."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

Loc = tuple[str | int, ...]


class YamlFileError(Exception):
    """The file cannot be read as a mapping; the message says where and why."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice in one mapping, which YAML would silently merge."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # `<<: *other`, resolved by SafeLoader
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read(path: Path, keys: str) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The mapping, and the line of each place in it. `keys`: what its top may hold, for the message. Raises
    YamlFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise YamlFileError(f"cannot read {path}: {reason}") from error
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YamlFileError(f"{path}:{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlFileError(f"{path}:{line}: {error.reason}") from error
    except ValueError as error:  # a date that is none
        raise YamlFileError(f"{path}: not a YAML value: {error}") from error
    if not isinstance(data, dict):
        raise YamlFileError(f"{path}:1: expected a mapping with the keys {keys}")
    return data, dict(_lines(node, ()))


def _lines(node: yaml.Node | None, loc: Loc) -> Iterator[tuple[Loc, int]]:
    if node is None:
        return
    yield loc, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*loc, key.value))
            yield (*loc, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _lines(item, (*loc, index))


def explain(
    path: Path, error: ValidationError, lines: Mapping[Loc, int], variables: Mapping[Loc, str] | None = None
) -> str:
    """One problem a line: `mixed.yaml:7: classes[0].share: Input should be greater than 0`. `variables`: of the
    environment, by the place that each has set."""
    variables = variables or {}
    problems = []
    for item in error.errors():
        loc: Loc = tuple(part for part in item["loc"] if not str(part).startswith("="))  # tags are no keys
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        above = [loc[:end] for end in range(len(loc), 0, -1)]
        where = f"{path}:{next((lines[place] for place in above if place in lines), lines.get((), 1))}"
        if (variable := next((variables[place] for place in above if place in variables), None)) is not None:
            where = f"environment variable {variable}"
        problems.append(f"{where}: {dotted(loc) or 'file'}: {message}")
    return "\n".join(problems)


def dotted(loc: Loc) -> str:
    """As in `models[0].name`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
