"""The chart renders into manifests that Kubernetes knows, and into a configuration that the proxy loads."""

from __future__ import annotations

import json
import re
import subprocess
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


@pytest.mark.parametrize("executor", ["mp", "ray"])
def test_an_engine_over_two_nodes_is_two_pods_of_which_the_first_answers(render: Render, executor: str) -> None:
    manifests = render({**values_of(CHART / "examples/two-nodes.yaml"), "fleet": {"backends": two_nodes(executor)}})
    engine = of_kind(manifests, "StatefulSet")[0]
    name, container = engine["metadata"]["name"], engine["spec"]["template"]["spec"]["containers"][0]
    assert engine["spec"]["replicas"] == 2
    assert flags(container["args"])["distributed-executor-backend"] == executor
    assert container["command"][4:] == [executor, "2", name]
    service = next(one for one in of_kind(manifests, "Service") if one["metadata"]["name"] == name)
    assert service["spec"]["selector"]["statefulset.kubernetes.io/pod-name"] == f"{name}-0"
    assert service["spec"]["publishNotReadyAddresses"], "the others look for it before it serves"
    assert container["livenessProbe"]["exec"]["command"][-1] == f"http://{name}:8000/health", (
        "who works for it ends too"
    )


def two_nodes(executor: str) -> dict[str, Any]:
    return {"large-tp16": {"nodes": 2, "gpusPerNode": 8, "executor": executor}}


@pytest.mark.parametrize(
    ("executor", "rank", "told"),
    [
        ("mp", 0, ["vllm serve --model m --nnodes 2 --node-rank 0 --master-addr head"]),
        ("mp", 1, ["vllm serve --model m --headless --nnodes 2 --node-rank 1 --master-addr head"]),
        ("ray", 0, ["ray start --head --port=6379", "python3 1 of 2", "python3 2 of 2", "vllm serve --model m"]),
        ("ray", 1, ["ray start --address=head:6379 --block", "ray start --address=head:6379 --block"]),
    ],
)
def test_what_each_node_of_an_engine_starts(
    render: Render, tmp_path: Path, executor: str, rank: int, told: list[str]
) -> None:
    """The rendered pod's script, with stand-ins for Ray and vLLM; the other node or the head comes at a second look."""
    manifests = render({**values_of(CHART / "examples/two-nodes.yaml"), "fleet": {"backends": two_nodes(executor)}})
    command = of_kind(manifests, "StatefulSet")[0]["spec"]["template"]["spec"]["containers"][0]["command"]
    calls = tmp_path / "calls"
    look = f'n=$(grep -c python3 {calls}); n=$((n + 1)); echo "python3 $n of 2" >> {calls}; echo $n'
    ray = f'echo "ray $*" >> {calls}; case "$*" in *address*) [ $(grep -c address {calls}) -ge 2 ];; esac'
    for name, body in (("vllm", f'echo "vllm $*" >> {calls}'), ("ray", ray), ("python3", look), ("sleep", ":")):
        stand_in = tmp_path / name
        stand_in.write_text(f"#!/bin/bash\n{body}\n")
        stand_in.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOSTNAME": f"engine-{rank}"}
    ran = subprocess.run(
        [*command[:4], executor, "2", "head", "--model", "m"], env=environment, capture_output=True, text=True
    )
    assert calls.read_text().splitlines() == told, ran.stderr
    assert ran.returncode == (1 if (executor, rank) == ("ray", 1) else 0), "a node without its head starts anew"


def test_engines_answer_to_the_proxy_and_to_whom_the_operator_names(render: Render) -> None:
    def sources(values: dict[str, Any]) -> list[dict[str, Any]]:
        policies = of_kind(render(values), "NetworkPolicy")
        engines = next(one for one in policies if one["metadata"]["name"].endswith("-engines"))
        return [source for rule in engines["spec"]["ingress"] for source in rule["from"]]

    values = values_of(CHART / "examples/one-gpu-node.yaml")
    components = [source["podSelector"]["matchLabels"]["app.kubernetes.io/component"] for source in sources(values)]
    assert components == ["proxy", "engine"]
    prometheus = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
    assert prometheus in sources({**values, "networkPolicy": {"prometheusFrom": [prometheus]}})


def test_the_trace_file_stays_below_the_volume_that_it_would_fill(render: Render, tmp_path: Path) -> None:
    manifests = render(ONE)
    volumes = of_kind(manifests, "Deployment")[0]["spec"]["template"]["spec"]["volumes"]
    limit = next(volume["emptyDir"]["sizeLimit"] for volume in volumes if volume["name"] == "traces")
    most = rendered_config(manifests, tmp_path).traces.max_bytes
    assert limit == "2Gi" and most is not None and most + (64 << 20) < 2 << 30


def test_replicas_follow_the_share_of_missed_requests_and_one_is_replaced_at_a_time(render: Render) -> None:
    manifests = render(EVERYTHING)
    scaler = of_kind(manifests, "HorizontalPodAutoscaler")[0]["spec"]
    pods, cpu = scaler["metrics"]
    assert (pods["pods"]["metric"]["name"], pods["pods"]["target"]["averageValue"]) == (
        "paretoproxy_slo_missed_share",
        "50m",
    )
    assert cpu["resource"]["target"]["averageUtilization"] == 70
    deployment = of_kind(manifests, "Deployment")[0]
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"] and "replicas" not in deployment["spec"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    disruption = of_kind(manifests, "PodDisruptionBudget")[0]["spec"]
    assert disruption["maxUnavailable"] == 1
    assert disruption["selector"] == deployment["spec"]["selector"]


@pytest.mark.parametrize(("objective", "pages"), [(0.95, ["0.72", "0.3"]), (0.8, ["0.9", "0.9"])])
def test_the_fast_alerts_can_fire_whatever_the_objective(render: Render, objective: float, pages: list[str]) -> None:
    manifests = render({**ONE, "alerts": {"enabled": True, "objective": objective}})
    rules = [rule for group in of_kind(manifests, "PrometheusRule")[0]["spec"]["groups"] for rule in group["rules"]]
    burns = [
        rule for rule in rules if rule.get("alert") == "ParetoproxySloBurn" and rule["labels"]["severity"] == "page"
    ]
    assert [re.findall(r"> (\S+)", rule["expr"]) for rule in burns] == [[page, page] for page in pages]


def test_a_proxy_with_tls_is_probed_by_it_and_has_its_certificates(render: Render) -> None:
    volume = {"name": "tls", "secret": {"secretName": "tls"}}
    mount = {"name": "tls", "mountPath": "/tls", "readOnly": True}
    server = {"tls": {"cert": "/tls/tls.crt", "key": "/tls/tls.key"}}
    values = {"config": {**ONE["config"], "server": server}, "extraVolumes": [volume], "extraVolumeMounts": [mount]}
    for told, scheme in ((values, "HTTPS"), (ONE, "HTTP")):
        pod = of_kind(render(told), "Deployment")[0]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        probes = [container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")]
        assert {probe["scheme"] for probe in probes} == {scheme}
        assert (volume in pod["volumes"], mount in container["volumeMounts"]) == (told is values,) * 2


def test_what_takes_a_restart_gets_one(render: Render) -> None:
    def checksum(**config: Any) -> str:
        pod = of_kind(render({"config": {**ONE["config"], **config}}), "Deployment")[0]["spec"]["template"]
        told: str = pod["metadata"]["annotations"]["checksum/needs-restart"]
        return told

    assert checksum(slo={"percentile": 0.9}) == checksum()
    for changed in ({"reliability": {"breaker": {"failures": 9}}}, {"admission": {"max_queue": 9}}, {"limits": {}}):
        assert checksum(**changed) != checksum()


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
