"""All strategies, found once through the entry point group, in one table that is handed around."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from strategies.base import Strategy

GROUP = "paretoproxy.strategies"
AnyStrategy = Strategy[Any]


class UnknownStrategy(ValueError):
    """A name that no installed strategy has."""


class InvalidParameters(ValueError):
    """Parameters that the strategy refuses; `parameter` is the one at fault."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(problem)
        self.parameter = parameter


class Registry:
    """Strategy classes by name."""

    def __init__(self, classes: Mapping[str, type[AnyStrategy]]) -> None:
        self._classes = dict(classes)

    @classmethod
    def installed(cls) -> Registry:
        """Everything registered by this package and by others. Raises what a broken plugin's import raises."""
        found = {}
        for point in entry_points(group=GROUP):
            strategy = point.load()
            if not (isinstance(strategy, type) and issubclass(strategy, Strategy)):
                raise TypeError(f"entry point {point.value} is not a Strategy")
            found[point.name] = strategy
        return cls(found)

    def __iter__(self) -> Iterator[type[AnyStrategy]]:
        return iter(self._classes.values())

    @property
    def names(self) -> list[str]:
        return sorted(self._classes)

    def get(self, name: str) -> type[AnyStrategy]:
        """Raises UnknownStrategy, naming those there are."""
        try:
            return self._classes[name]
        except KeyError:
            raise UnknownStrategy(f"unknown strategy {name!r}; this proxy has auto, {', '.join(self.names)}") from None

    def build(self, name: str, parameters: Mapping[str, Any]) -> AnyStrategy:
        """Raises UnknownStrategy, InvalidParameters."""
        strategy = self.get(name)
        try:
            return strategy(strategy.params_type.model_validate(dict(parameters)))
        except ValidationError as error:
            first = error.errors()[0]
            known = ", ".join(strategy.params_type.model_fields) or "none"
            message = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                message = f"strategy {name} has no such parameter (it has: {known})"
            raise InvalidParameters(str(first["loc"][0]) if first["loc"] else "n", message) from None
