"""The chart renders into manifests that Kubernetes knows, and into a configuration that the proxy loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from helm_rig import CHART, EXAMPLES, Manifests, Render, helm, of_kind, values_of

from proxy.config import Config, load
from proxy.launch import Machine, specs
from proxy.metrics import Metrics
from proxy.trace_store import TraceStore

KUBERNETES = ("1.27", "1.33")
CUSTOM = {"ServiceMonitor", "PrometheusRule"}  # of the Prometheus operator
ONE: dict[str, Any] = {"config": {"models": [{"name": "m", "backends": [{"name": "b", "url": "http://b:8000"}]}]}}
EVERYTHING: dict[str, Any] = {
    **ONE,
    "ingress": {"enabled": True, "hosts": [{"host": "llm.example.com"}], "tls": [{"hosts": ["llm.example.com"]}]},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "alerts": {"enabled": True},
    "dashboards": {"enabled": True},
    "networkPolicy": {"restrictEgress": True},
    "profiles": {"existingConfigMap": "profiles"},
    "postgres": {"existingSecret": "pg"},
    "redis": {"existingSecret": "redis"},
}
ALL = [pytest.param(values_of(path), id=path.stem) for path in EXAMPLES] + [
    pytest.param(ONE, id="defaults"),
    pytest.param(EVERYTHING, id="everything"),
]


@pytest.fixture(params=ALL)
def manifests(request: pytest.FixtureRequest, render: Render) -> Manifests:
    return render(request.param)


@pytest.mark.parametrize("version", KUBERNETES)
def test_every_manifest_is_one_that_kubernetes_knows(manifests: Manifests, version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_names_are_unique_and_short_enough(manifests: Manifests) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name) for _, name in names)


def test_the_proxy_loads_the_rendered_configuration(
    manifests: Manifests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = rendered_config(manifests, tmp_path)
    assert (config.server.host, config.server.port) == ("0.0.0.0", 8000)
    assert config.server.drain_delay_s > 0


def test_engines_get_the_arguments_that_up_would_give_them(manifests: Manifests, tmp_path: Path) -> None:
    config = rendered_config(manifests, tmp_path)
    sets = {engine["metadata"]["name"]: engine for engine in of_kind(manifests, "StatefulSet")}
    started = [backend for backend in config.backends() if backend.launch is not None]
    assert len(sets) == len(started)
    if not started:
        return
    for backend in started:  # each listens at the same port of its own host; `up` wants ports that differ
        port = 9000 + started.index(backend)
        object.__setattr__(backend, "url", f"http://{backend.url.split('//')[1].split(':')[0]}:{port}")
    for spec in specs(config, "python3", tmp_path, Machine((0,), gpus=64)):
        host = spec.url.split("//")[1].split(":")[0]
        container = sets[host]["spec"]["template"]["spec"]["containers"][0]
        ours, theirs = flags(container["args"]), flags(list(spec.command[3:]))
        for known_by_the_chart in ("host", "port", "distributed-executor-backend"):
            ours.pop(known_by_the_chart, None)
            theirs.pop(known_by_the_chart, None)
        assert ours == theirs


def test_an_engine_has_a_gpu_for_each_rank_and_the_proxy_finds_it(manifests: Manifests, tmp_path: Path) -> None:
    config = rendered_config(manifests, tmp_path)
    services = {service["metadata"]["name"] for service in of_kind(manifests, "Service")}
    for backend in config.backends():
        if backend.launch is None:
            continue
        host = backend.url.removeprefix("http://").removesuffix(":8000")
        assert host in services
        engine = next(one for one in of_kind(manifests, "StatefulSet") if one["metadata"]["name"] == host)
        limits = engine["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert int(limits["nvidia.com/gpu"]) * engine["spec"]["replicas"] == backend.tensor_parallel_size


def test_the_proxy_runs_with_as_little_as_it_needs(render: Render) -> None:
    pod = of_kind(render(ONE), "Deployment")[0]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False
    # A service named paretoproxy would set PARETOPROXY_PORT=tcp://…, which the proxy refuses as configuration.
    assert pod["enableServiceLinks"] is False


def test_a_pod_lives_longer_than_its_own_grace_period(render: Render) -> None:
    values = {"config": {**ONE["config"], "server": {"grace_s": 200, "drain_delay_s": 7}}}
    pod = of_kind(render(values), "Deployment")[0]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 210


def test_secrets_reach_the_proxy_by_its_environment_and_no_path_is_set_beside_a_url(
    render: Render, tmp_path: Path
) -> None:
    manifests = render(EVERYTHING)
    container = of_kind(manifests, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]
    names = {entry["name"] for entry in container["env"]}
    assert {"PARETOPROXY_TRACES__URL", "PARETOPROXY_LIMITS__REDIS_URL"} <= names
    written = yaml.safe_load(of_kind(manifests, "ConfigMap")[0]["data"]["fleet.yaml"])
    assert "path" not in written["traces"]
    environment = {
        "PARETOPROXY_TRACES__URL": "postgresql://u:p@db/traces",
        "PARETOPROXY_LIMITS__REDIS_URL": "redis://r",
    }
    path = tmp_path / "fleet.yaml"
    path.write_text(yaml.safe_dump(written))
    assert load(path, environment).traces.target == "postgresql://u:p@db/traces"


def test_keys_become_a_secret_that_the_proxy_reads(render: Render) -> None:
    entry = {"name": "alice", "hash": "sha256:" + "0" * 64}
    manifests = render({**ONE, "keys": {"entries": [entry]}})
    secret = of_kind(manifests, "Secret")[0]
    assert yaml.safe_load(secret["stringData"]["keys.yaml"]) == [entry]
    config = yaml.safe_load(of_kind(manifests, "ConfigMap")[0]["data"]["fleet.yaml"])
    assert config["server"]["api_keys"] == "/etc/paretoproxy-keys/keys.yaml"


def test_an_engine_over_two_nodes_runs_on_ray(render: Render) -> None:
    manifests = render(values_of(CHART / "examples/two-nodes.yaml"))
    engine = of_kind(manifests, "StatefulSet")[0]
    container = engine["spec"]["template"]["spec"]["containers"][0]
    assert engine["spec"]["replicas"] == 2
    assert flags(container["args"])["distributed-executor-backend"] == "ray"
    assert "ray start --head" in container["command"][2]
    service = next(
        one for one in of_kind(manifests, "Service") if one["metadata"]["name"] == engine["metadata"]["name"]
    )
    assert service["spec"]["selector"]["apps.kubernetes.io/pod-index"] == "0"  # the head alone answers


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"config": {"models": []}}, "config.models is empty"),
        ({**ONE, "replica": 3}, "replica"),
        ({**ONE, "service": {"type": "Nonsense"}}, "service/type|service.type"),
        ({**ONE, "fleet": {"backends": {"nope": {"nodes": 2}}}}, "fleet.backends.nope: no backend of that name"),
        (
            {**ONE, "autoscaling": {"enabled": True, "sloMissedShare": None, "cpuUtilization": None}},
            "autoscaling needs",
        ),
        ({"config": {**ONE["config"], "server": {"port": 9}}}, "server"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_to_change(
    render: Render, values: dict[str, Any], told: str
) -> None:
    with pytest.raises(helm.HelmError, match=told):
        render(values)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_helm_itself_finds_nothing_wrong(example: Path) -> None:
    found = helm.lint(str(CHART), values_of(example), strict=True)
    assert "ERROR" not in str(found) and "WARNING" not in str(found), found


def test_every_metric_of_alerts_and_dashboards_is_one_that_the_proxy_exports(render: Render) -> None:
    manifests = render(EVERYTHING)
    rules = of_kind(manifests, "PrometheusRule")[0]["spec"]["groups"]
    board = json.loads(next(iter(of_kind(manifests, "ConfigMap")[1]["data"].values())))
    told = [rule["expr"] for group in rules for rule in group["rules"]]
    told += [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = {name for text in told for name in re.findall(r"\bparetoproxy_[a-z0-9_]+", text)}
    families = [family.name for family in Metrics((), TraceStore(None, 1)).read()]
    exported = {name + suffix for name in families for suffix in ("", "_total", "_bucket", "_sum", "_count")}
    assert used and used <= exported


def rendered_config(manifests: Manifests, folder: Path) -> Config:
    path = folder / "fleet.yaml"
    path.write_text(of_kind(manifests, "ConfigMap")[0]["data"]["fleet.yaml"])
    return load(path, {})


def flags(arguments: list[str]) -> dict[str, Any]:
    """`--name value` and `--name`, as a dictionary; JSON values read."""
    found: dict[str, Any] = {}
    for index, word in enumerate(arguments):
        if not word.startswith("--"):
            continue
        value = arguments[index + 1] if index + 1 < len(arguments) else "--"
        found[word[2:]] = True if value.startswith("--") else json.loads(value) if value[0] in "{[" else value
    return found
