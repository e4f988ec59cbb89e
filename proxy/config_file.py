"""The configuration's file, and the environment over it, as data that knows the place of every key."""

from __future__ import annotations

from collections.abc import Container, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from profiler import yaml_file
from profiler.yaml_file import Loc, YamlFileError, dotted

ENV_PREFIX = "PARETOPROXY_"


class ConfigError(Exception):
    """The configuration cannot be used; the message says where and what to change, one problem a line."""


def read(path: Path) -> tuple[dict[str, Any], dict[Loc, int]]:
    """The data, and the line of every key. Raises ConfigError."""
    try:
        return yaml_file.read(path, "server, slo, traces, telemetry, models")
    except YamlFileError as error:
        raise ConfigError(str(error)) from error


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
            raise ConfigError(f"environment variable {variable}: the file has no {dotted(loc)}")
    last = loc[-1]
    if isinstance(target, list) and isinstance(last, int) and last <= len(target):
        target[last : last + 1] = [value]
    elif isinstance(target, dict):
        target[last] = value
    else:
        raise ConfigError(f"environment variable {variable}: the file has no {dotted(loc)}")
