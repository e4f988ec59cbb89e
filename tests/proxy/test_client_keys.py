"""The file of API keys: hashed, looked up at once, readable again at any time, and never shown in an error."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from proxy.authorization import authorize, check_admin, check_model, check_samples, check_strategy
from proxy.cli.keys import command
from proxy.client_keys import ANYBODY, KeysError, expired, hash_key, load_keys, new_key, salted
from proxy.config import ConfigError
from proxy.errors import Forbidden, Unauthorized

CANARY = "canary-5d1f0c-secret"


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"authorization", b"Bearer " + key.encode())]


def written(tmp_path: Path, *entries: object) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def test_a_key_is_found_by_its_hash_alone(tmp_path: Path) -> None:
    key, other = new_key(), new_key()
    path = written(tmp_path, {"name": "a", "hash": hash_key(key)}, {"name": "b", "hash": hash_key(other)})
    keys = load_keys(path)

    assert authorize(keys, bearer(key)).name == "a" and authorize(keys, bearer(other)).name == "b"
    assert key not in path.read_text() and len(key) >= 43
    for wrong in (key[:-1], key + "x", hash_key(key), "", "x" * 10_000):
        with pytest.raises(Unauthorized):
            authorize(keys, bearer(wrong))
    with pytest.raises(Unauthorized):
        authorize(keys, [])


def test_without_keys_everybody_may() -> None:
    assert authorize(None, []) is ANYBODY and ANYBODY.admin and ANYBODY.cache_salt is None


def test_two_hashes_let_a_key_be_replaced(tmp_path: Path) -> None:
    old, fresh = new_key(), new_key()
    keys = load_keys(written(tmp_path, {"name": "a", "hash": [hash_key(old), hash_key(fresh)]}))
    assert keys.find(old.encode()) == keys.find(fresh.encode()) != None  # noqa: E711
    assert [caller.name for caller in keys.callers()] == ["a"]


def test_a_disabled_key_and_one_that_has_expired(tmp_path: Path) -> None:
    off, past, last_day = new_key(), new_key(), new_key()
    path = tmp_path / "keys.yaml"
    path.write_text(
        f"- {{name: switched-off, hash: '{hash_key(off)}', disabled: true}}\n"
        f"- {{name: past, hash: '{hash_key(past)}', expires: 2020-01-31}}\n"
        f"- {{name: last-day, hash: '{hash_key(last_day)}', expires: 2020-01-31}}\n"
    )
    keys = load_keys(path)
    with pytest.raises(Forbidden, match="'switched-off' is disabled"):
        authorize(keys, bearer(off))
    with pytest.raises(Unauthorized, match="'past' has expired"):
        authorize(keys, bearer(past))
    caller = keys.find(last_day.encode())
    assert caller is not None
    assert not expired(caller, 1_580_515_198) and expired(caller, 1_580_515_200)  # 2020-01-31T23:59:58Z, a day later


def test_a_plain_key_works_without_rights_and_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = written(tmp_path, CANARY, {"name": "a", "hash": hash_key(new_key()), "admin": True})
    with caplog.at_level(logging.WARNING):
        keys = load_keys(path)
    caller = authorize(keys, bearer(CANARY))
    assert (caller.name, caller.admin) == ("key-1", False)
    assert "1 of 2 keys are stored in plain text" in caplog.text and CANARY not in caplog.text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "at least one key"),
        ("[]", "at least one key"),
        ("a: b", "at least one key"),
        (f"[{CANARY}, ", "keys.yaml:1: not YAML"),
        (f"- {CANARY}\n- {{{CANARY}: *x}}", "not YAML"),
        ("- 1", "entry 1: expected"),
        ("- ''", "entry 1: expected"),
        (f"- {{name: a, hash: {CANARY}}}", "key 'a': hash: not `sha256:`"),
        (f"- {{name: a, hash: 'sha256:{'0' * 64}', limit: {{}}}}", "key 'a': limit: unknown key"),
        (f"- {{name: a, hash: 'sha256:{'0' * 64}', limits: {{max_n: 0}}}}", "key 'a': limits.max_n"),
        (f"- {{name: a, hash: 'sha256:{'0' * 64}', limits: {{usd_per_day: .inf}}}}", "key 'a': limits.usd_per_day"),
        (f"- {{name: a, hash: 'sha256:{'0' * 64}', expires: soon}}", "key 'a': expires"),
        (f"- {{name: 'a b', hash: 'sha256:{'0' * 64}'}}", "key 'a b': name"),
        (f"- {CANARY}\n- {CANARY}", "given twice"),
        (f"- {{name: a, hash: 'sha256:{'0' * 64}'}}\n- {{name: a, hash: 'sha256:{'1' * 64}'}}", "two keys are named"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_an_error_says_where_and_shows_no_key(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "keys.yaml"
    path.write_text(text)
    with pytest.raises(KeysError) as error:
        load_keys(path)
    assert problem in str(error.value) and CANARY not in str(error.value)


def test_each_tenant_has_a_cache_salt_that_lasts_and_that_engines_take(tmp_path: Path) -> None:
    a, b, c = new_key(), new_key(), new_key()
    path = written(
        tmp_path,
        {"name": "a", "hash": hash_key(a)},
        {"name": "b", "hash": hash_key(b)},
        {"name": "c", "hash": hash_key(c), "share_prefix_cache": True},
    )
    salts = {caller.name: caller.cache_salt for caller in load_keys(path).callers()}
    assert salts == {caller.name: caller.cache_salt for caller in load_keys(path).callers()}
    assert salts["a"] != salts["b"] and salts["c"] is None
    assert salts["a"] is not None and len(salts["a"]) == 43 and not set(salts["a"]) & set("@/\\\0")
    assert {caller.cache_salt for caller in load_keys(path, share_prefix_cache=True).callers()} == {None}
    assert salted(salts["a"], "own") != salts["b"]


def test_rights(tmp_path: Path) -> None:
    limits = {"models": ["m"], "strategies": ["self-consistency"], "max_n": 4}
    key = new_key()
    caller = authorize(
        load_keys(written(tmp_path, {"name": "a", "hash": hash_key(key), "limits": limits})), bearer(key)
    )
    check_model(caller, "m")
    check_strategy(caller, "none")
    check_strategy(caller, "self-consistency")
    check_samples(caller, 4, "n")
    with pytest.raises(Forbidden, match="may use the models m; not 'other'"):
        check_model(caller, "other")
    with pytest.raises(Forbidden, match="strategies none, self-consistency; not 'beam-search'"):
        check_strategy(caller, "beam-search")
    with pytest.raises(Forbidden, match=r"n: 5 samples .* allows 4"):
        check_samples(caller, 5, "n")
    with pytest.raises(Forbidden):
        check_admin(caller)


def test_the_command_makes_a_key_and_stores_its_hash(tmp_path: Path) -> None:
    path, runner = tmp_path / "keys.yaml", CliRunner()
    made = runner.invoke(command, ["new", "team-a", "--file", str(path), "--max-n", "8", "--model", "m", "--admin"])
    more = runner.invoke(command, ["new", "team-b", "--file", str(path), "--expires", "2030-01-31"])
    key = made.stdout.strip().splitlines()[-1]

    assert made.exit_code == more.exit_code == 0
    assert key not in path.read_text() and path.stat().st_mode & 0o777 == 0o600
    caller = load_keys(path).find(key.encode())
    assert caller is not None and (caller.name, caller.admin, caller.limits.max_n) == ("team-a", True, 8)
    assert "team-a (admin)" in runner.invoke(command, ["check", "--file", str(path)]).output
    assert runner.invoke(command, ["hash"], input=key + "\n").stdout.strip() == hash_key(key)


def test_the_command_changes_nothing_that_it_would_break(tmp_path: Path) -> None:
    path, runner = tmp_path / "keys.yaml", CliRunner()
    for text, problem in ((f"[{CANARY}, other]", "not YAML"), (f"- {{name: a, hash: '{hash_key('x')}'}}", "named 'a'")):
        path.write_text(text)
        result = runner.invoke(command, ["new", "a", "--file", str(path)])
        assert isinstance(result.exception, ConfigError) and problem in str(result.exception)
        assert CANARY not in str(result.exception) and path.read_text() == text
        assert list(tmp_path.iterdir()) == [path]
