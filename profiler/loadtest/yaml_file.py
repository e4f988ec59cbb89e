"""A YAML mapping with the line of every key, so that an error can say where."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from profiler.loadtest import LoadTestError

Loc = tuple[str | int, ...]


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice, of which YAML would silently drop the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The mapping, and the line of each place in it. Raises LoadTestError."""
    try:
        text = path.read_text(encoding="utf-8")
        loader = _Loader(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else None
    except OSError as error:
        raise LoadTestError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise LoadTestError(f"cannot read {path}: it is not UTF-8") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise LoadTestError(f"{path}:{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise LoadTestError(f"{path}: not YAML: {error}") from None
    if not isinstance(data, dict):
        raise LoadTestError(f"{path}:1: expected a mapping with the keys arrivals and classes")
    return data, dict(_lines(node, ()))


def explain(path: Path, error: ValidationError, lines: dict[Loc, int]) -> str:
    """One problem a line: `mixed.yaml:7: classes[0].share: Input should be greater than 0`."""
    problems = []
    for item in error.errors():
        loc: Loc = tuple(item["loc"])
        message = "unknown key" if item["type"] == "extra_forbidden" else item["msg"].removeprefix("Value error, ")
        known = next((loc[:end] for end in range(len(loc), 0, -1) if loc[:end] in lines), ())
        problems.append(f"{path}:{lines.get(known, 1)}: {_dotted(loc) or 'file'}: {message}")
    return "\n".join(problems)


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


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).removeprefix(".")
