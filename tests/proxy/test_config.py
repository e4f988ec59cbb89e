"""The configuration: what is accepted, and where an error is said to be."""

from pathlib import Path

import pytest

from proxy.config import Config, ConfigError, backend_api_key, client_api_keys, load

FLEET = """\
models:
  - name: qwen3-8b
    backends:
      - name: tp1
        url: http://10.0.0.1:8000/
      - {name: tp2, url: "https://10.0.0.2", gpus: 2}
"""


def _load(folder: Path, text: str = FLEET, **environ: str) -> Config:
    path = folder / "fleet.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path, {f"PARETOPROXY_{key}": value for key, value in environ.items()})


def _error(folder: Path, text: str, **environ: str) -> str:
    with pytest.raises(ConfigError) as raised:
        _load(folder, text, **environ)
    return str(raised.value).replace(f"{folder}/", "")


def test_the_smallest_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert (config.server.host, config.server.port, config.server.max_body_bytes) == ("127.0.0.1", 8000, 10_485_760)
    assert (config.slo.percentile, config.slo.defaults.latency_ms) == (0.95, None)
    first, second = config.backends()
    assert (first.url, first.gpus, first.sampling, first.profile) == ("http://10.0.0.1:8000", 1, "all", None)
    assert (second.name, second.gpus) == ("tp2", 2)


BACKEND = "models:\n- name: m\n  backends:\n  - name: a\n    url: http://a\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("server:\n  port: 99999\n" + FLEET, "fleet.yaml:2: server.port: Input should be less than or equal to 65535"),
        (BACKEND + "    gpuz: 2\n", "fleet.yaml:6: models[0].backends[0].gpuz: unknown key"),
        ("sever: {}\n" + FLEET, "fleet.yaml:1: sever: unknown key"),
        (BACKEND.replace("http://a", "ftp://a"), "fleet.yaml:5: models[0].backends[0].url: not an http:// or https://"),
        (BACKEND.replace("http://a", "http://a/?x"), "fleet.yaml:5: models[0].backends[0].url: a backend URL has no"),
        (BACKEND.replace("url: http://a", "gpus: 1"), "fleet.yaml:4: models[0].backends[0].url: Field required"),
        (BACKEND.replace("name: m", "name: m@x"), "fleet.yaml:2: models[0].name: String should match"),
        (
            BACKEND.replace("  backends:", "  task: math\n  quality: {gsm: q.json}\n  backends:"),
            "task 'math' has no table",
        ),
        ("models: []\n", "fleet.yaml:1: models: List should have at least 1 item"),
        ("", "fleet.yaml:1: models: Field required"),
        ("- a\n", "fleet.yaml:1: expected a mapping with the keys server, slo, traces, telemetry, models"),
        ("server:\n  port: 1\n  port: 2\n" + FLEET, "fleet.yaml:3: the key 'port' is given twice"),
        ("server: {a: [}\n", "fleet.yaml:1: expected the node content, but found '}'"),
        ("server:\n  ? [a]\n  : 1\n", "fleet.yaml:2: a key must be a plain value"),
        ("server:\n  host: a\x07b\n", "fleet.yaml:2: special characters are not allowed"),
        ("traces: {path: 2024-13-45}\n", "fleet.yaml: not a YAML value: month must be in 1..12"),
    ],
)
def test_an_error_says_file_line_key_and_problem(tmp_path: Path, text: str, error: str) -> None:
    assert error in _error(tmp_path, text)


def test_every_problem_has_a_line(tmp_path: Path) -> None:
    lines = _error(tmp_path, BACKEND + "    gpus: -1\nslo: {percentile: 0.4}\n").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["fleet.yaml:7", "slo.percentile"],
        ["fleet.yaml:6", "models[0].backends[0].gpus"],
    ]


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*none.yaml: No such file"):
        load(tmp_path / "none.yaml", {})
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary.yaml: it is not UTF-8"):
        load(tmp_path / "binary.yaml", {})


def test_twins_are_refused_across_models(tmp_path: Path) -> None:
    two = BACKEND + BACKEND.removeprefix("models:\n").replace("name: m", "name: m2")
    assert "two backends are named 'a'" in _error(tmp_path, two)
    assert "two models are named 'm'" in _error(
        tmp_path, BACKEND + "- {name: m, backends: [{name: b, url: 'http://b'}]}\n"
    )


def test_a_choice_among_models_names_served_ones(tmp_path: Path) -> None:
    config = _load(tmp_path, BACKEND + "- {name: any, any_of: [m]}\n")
    assert config.models[1].any_of == ["m"]
    assert "any_of names ['x'], which have no backends" in _error(tmp_path, BACKEND + "- {name: any, any_of: [x]}\n")
    assert "['any']" in _error(tmp_path, BACKEND + "- {name: any, any_of: [any]}\n")
    either = "give a model either `backends` or `any_of`"
    assert either in _error(tmp_path, "models: [{name: m}]\n")
    assert either in _error(tmp_path, BACKEND + "  any_of: [m]\n")


def test_the_environment_overlays_any_key_with_yaml_values(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        SERVER__PORT="9000",
        SLO__DEFAULTS__LATENCY_MS="2500",
        MODELS__0__BACKENDS__1__URL="http://other:1",
        MODELS__0__BACKENDS__2="{name: tp4, url: 'http://c'}",
        TRACES__PATH="null",
        CONFIG="fleet.yaml",  # not a section: someone else's variable
    )
    assert (config.server.port, config.slo.defaults.latency_ms, config.traces.path) == (9000, 2500, None)
    assert [backend.url for backend in config.backends()] == ["http://10.0.0.1:8000", "http://other:1", "http://c"]


@pytest.mark.parametrize(
    ("variable", "value", "error"),
    [
        ("SERVER__PORT", "99999", "environment variable PARETOPROXY_SERVER__PORT: server.port: Input should be less"),
        ("SERVER", "{port: x}", "environment variable PARETOPROXY_SERVER: server.port: Input should be a valid"),
        ("SERVER__PROT", "1", "environment variable PARETOPROXY_SERVER__PROT: server.prot: unknown key"),
        ("SERVER__PORT", "{", "environment variable PARETOPROXY_SERVER__PORT: not a YAML value"),
        ("MODELS__7__NAME", "x", "environment variable PARETOPROXY_MODELS__7__NAME: the file has no models[7].name"),
        ("MODELS__0__NAME__X", "x", "the file has no models[0].name.x"),
    ],
)
def test_an_error_in_a_variable_names_the_variable(tmp_path: Path, variable: str, value: str, error: str) -> None:
    assert error in _error(tmp_path, FLEET, **{variable: value})


def test_traces_go_to_a_file_or_to_postgresql(tmp_path: Path) -> None:
    url = "postgresql://proxy:hush@db/traces"
    traces = _load(tmp_path, FLEET, TRACES__URL=url).traces
    assert (traces.target, traces.path, "hush" in repr(traces)) == (url, None, False)
    both = _error(tmp_path, FLEET, TRACES__URL=url, TRACES__PATH="traces.db")
    assert "traces: give either `path` (SQLite) or `url` (PostgreSQL)" in both
    wrong = _error(tmp_path, FLEET, TRACES__URL="mysql://u:hush@db/traces")
    assert "traces.url: not a PostgreSQL URL: postgresql://USER@HOST:PORT/DATABASE" in wrong and "hush" not in wrong
    assert "traces.retention_days: Input should be greater than 0" in _error(
        tmp_path, FLEET, TRACES__RETENTION_DAYS="0"
    )


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "tokenizer.json").touch()
    text = (
        "server: {api_keys: keys.yaml}\n"
        + BACKEND
        + "    profile: p/a.json\n    launch: {model: weights}\n"
        + "  quality: {math: q.json}\n"
        + "- {name: hub, tokenizer: /else, backends: [{name: b, url: 'http://b', launch: {model: Qwen/Qwen3-8B}}]}\n"
    )
    config = _load(tmp_path, text)
    first, second = config.models
    launch = second.backends[0].launch
    assert launch is not None
    assert config.server.api_keys == tmp_path / "keys.yaml"
    assert config.traces.path == tmp_path / "traces.db"
    assert (first.backends[0].profile, first.quality["math"]) == (tmp_path / "p/a.json", tmp_path / "q.json")
    assert first.tokenizer == tmp_path / "weights"  # the launched folder has one
    assert (second.tokenizer, launch.model) == (Path("/else"), "Qwen/Qwen3-8B")


def test_a_backends_key_comes_from_the_variable_that_the_file_names(tmp_path: Path) -> None:
    open_one, keyed = _load(tmp_path, FLEET.replace("gpus: 2", "api_key_env: TP2_KEY")).backends()
    assert backend_api_key(open_one, {}) is None
    assert backend_api_key(keyed, {"TP2_KEY": "secret"}) == "secret"
    for environ in ({}, {"TP2_KEY": ""}):
        with pytest.raises(ConfigError, match="backend tp2: the environment variable TP2_KEY is not set"):
            backend_api_key(keyed, environ)


def test_client_keys_are_a_list_of_at_least_one(tmp_path: Path) -> None:
    assert client_api_keys(_load(tmp_path)) is None
    config, keys = _load(tmp_path, "server: {api_keys: keys.yaml}\n" + FLEET), tmp_path / "keys.yaml"
    with pytest.raises(ConfigError, match=r"cannot read server.api_keys"):
        client_api_keys(config)
    for content in (b"[]", b"[1]", b"a: b", b"[''] ", b"\xff"):
        keys.write_bytes(content)
        with pytest.raises(ConfigError, match=r"keys.yaml"):
            client_api_keys(config)
    keys.write_text("- one\n- two\n")
    found = client_api_keys(config)
    assert found is not None and [caller.name for caller in found.callers()] == ["key-1", "key-2"]


@pytest.mark.parametrize("url", ["collector:4318", "ftp://collector", "http://user:secret@collector:4318"])
def test_a_collector_is_a_base_url_without_a_user(tmp_path: Path, url: str) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"traces: {{otlp_endpoint: '{url}'}}\nmodels: [{{name: m, backends: [{{name: a, url: http://a}}]}}]"
    )
    with pytest.raises(ConfigError, match=r"traces\.otlp_endpoint: expected the collector's base URL"):
        load(path, environ={})
