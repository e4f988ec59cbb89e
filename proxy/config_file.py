"""The configuration's file, and the environment over it, as data that knows the place of every key."""

from __future__ import annotations

from collections.abc import Container, Hashable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

ENV_PREFIX = "PARETOPROXY_"
Loc = tuple[str | int, ...]


class ConfigError(Exception):
    """The configuration cannot be used; the message says where and what to change, one problem a line."""


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


def parse(path: Path, text: str) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The data, and the line of every key. Raises ConfigError."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}:{line}: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{path}:{line}: {error.reason}") from error
    except ValueError as error:  # a date that is none
        raise ConfigError(f"{path}: not a YAML value: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{path}:1: expected a mapping with the keys server, slo, traces, telemetry, models")
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


def explain(path: Path, error: ValidationError, lines: dict[Loc, int], env_keys: dict[Loc, str]) -> str:
    """A line for each problem: in which line of the file or variable, of which key, and what."""
    problems = []
    for item in error.errors():
        loc: Loc = tuple(part for part in item["loc"] if not str(part).startswith("="))  # tags are no keys
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            message = "unknown key"
        known = next(loc[:end] for end in range(len(loc), -1, -1) if loc[:end] in lines or end == 0)
        where = f"{path}:{lines.get(known, 1)}"
        from_env = next((env_keys[loc[:end]] for end in range(len(loc), 0, -1) if loc[:end] in env_keys), None)
        if from_env is not None:
            where = f"environment variable {from_env}"
        problems.append(f"{where}: {_dotted(loc) or 'file'}: {message}")
    return "\n".join(problems)


def _dotted(loc: Loc) -> str:
    text = ""
    for part in loc:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def overlay(data: dict[str, Any], environ: Mapping[str, str], sections: Container[str]) -> dict[Loc, str]:
    """Set the keys that variables name, in place; returns which variable set what. `sections`: keys of the file's top.
    Raises ConfigError."""
    set_by: dict[Loc, str] = {}
    for variable, raw in sorted(environ.items()):
        head, *rest = variable.removeprefix(ENV_PREFIX).lower().split("__")
        if not variable.startswith(ENV_PREFIX) or head not in sections:
            continue
        loc: Loc = (head, *(int(part) if part.isdecimal() else part for part in rest))
        try:
            value = yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise ConfigError(f"environment variable {variable}: not a YAML value") from error
        _set(data, loc, value, variable)
        set_by[loc] = variable
    return set_by


def _set(data: dict[str, Any], loc: Loc, value: Any, variable: str) -> None:
    target: Any = data
    for part, following in pairwise(loc):
        if isinstance(target, list) and isinstance(part, int) and part < len(target):
            target = target[part]
        elif isinstance(target, dict):
            if target.get(part) is None:
                target[part] = [] if isinstance(following, int) else {}
            target = target[part]
        else:
            raise ConfigError(f"environment variable {variable}: the file has no {_dotted(loc)}")
    last = loc[-1]
    if isinstance(target, list) and isinstance(last, int) and last <= len(target):
        target[last : last + 1] = [value]
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"environment variable {variable}: the file has no {_dotted(loc)}")
