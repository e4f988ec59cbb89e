"""The table of strategies, and what a client is told about a wrong name or parameter."""

from importlib.metadata import EntryPoint

import pytest

from strategies import registry
from strategies.first_finish import FirstFinish
from strategies.registry import InvalidParameters, Registry, UnknownStrategy
from strategies.self_consistency import SelfConsistency
from strategies.single import Single

OURS = Registry({"none": Single, "self-consistency": SelfConsistency, "first-finish": FirstFinish})


def test_ours_are_installed_under_their_own_names() -> None:
    installed = Registry.installed()
    for strategy in OURS:
        assert installed.get(strategy.name) is strategy
    assert OURS.names == ["first-finish", "none", "self-consistency"]


def test_build_makes_a_strategy_with_checked_parameters() -> None:
    built = OURS.build("self-consistency", {"n": 5})
    assert isinstance(built, SelfConsistency)
    assert built.params.n == 5


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(UnknownStrategy, match="'mcts'; this proxy has auto, first-finish, none, self-consistency"):
        OURS.build("mcts", {})


@pytest.mark.parametrize(
    ("name", "parameters", "parameter", "message"),
    [
        (
            "self-consistency",
            {"beams": 4},
            "beams",
            r"no such parameter \(it has: n, stop, confidence, window, greedy\)",
        ),
        ("none", {"n": 4}, "n", r"no such parameter \(it has: greedy\)"),
        ("self-consistency", {"n": 0}, "n", "greater than or equal to 1"),
        ("self-consistency", {"n": 257}, "n", "less than or equal to 256"),
        ("self-consistency", {"confidence": 1.0}, "confidence", "less than 1"),
        ("self-consistency", {"stop": "never"}, "stop", "'beta', 'all' or 'esc'"),
        ("first-finish", {"n": "many"}, "n", "valid integer"),
        ("first-finish", {"n": 4, "m": 5}, "n", r"m \(5\) cannot be more than n \(4\)"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, parameters: dict[str, object], parameter: str, message: str) -> None:
    with pytest.raises(InvalidParameters, match=message) as raised:
        OURS.build(name, parameters)
    assert raised.value.parameter == parameter


@pytest.mark.parametrize(
    ("value", "error"),
    [("json:loads", TypeError), ("strategies.base:Params", TypeError), ("no_such_package:Strategy", ImportError)],
)
def test_a_broken_plugin_stops_the_start(monkeypatch: pytest.MonkeyPatch, value: str, error: type[Exception]) -> None:
    broken = EntryPoint("broken", value, registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [broken] if group == registry.GROUP else [])
    with pytest.raises(error):
        Registry.installed()


def test_a_third_partys_strategy_is_in_the_table_by_its_entry_points_name(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = EntryPoint("theirs", "strategies.single:Single", registry.GROUP)
    monkeypatch.setattr(registry, "entry_points", lambda group: [theirs] if group == registry.GROUP else [])
    assert Registry.installed().names == ["theirs"]
