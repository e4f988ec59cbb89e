"""The chart in a real cluster: installed, asked, rolled under load, taken out again.

    make cluster ARGS="--image REGISTRY/paretoproxy:0.1.0 --values my-values.yaml"

Needs kubectl, a kubeconfig whose user may make namespaces, the image where the nodes find it, and values whose fleet
the cluster can run (`helm/examples`, or backends with a `url`; no API keys). Installs by Helm's own engine into a
namespace that it makes, prints a line a step, and ends with 1 where one fails. What is left then is there to be looked
at: `--keep` leaves it always, `kubectl delete namespace` removes it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import helm_python
import httpx
import yaml

CHART = Path(__file__).resolve().parents[2] / "helm"
RELEASE = "tts"
LOCAL_PORT = 18080
POD_S = 300  # for a pod of the proxy's own image, which the node has
QUESTION = "What is (12 + 30) * 3?"
OURS = f"app.kubernetes.io/instance={RELEASE}"
PROXY = f"{OURS},app.kubernetes.io/component=proxy"
MADE_BY_HELM = "app.kubernetes.io/managed-by=Helm,app.kubernetes.io/part-of=paretoproxy"
KINDS = "all,configmap,secret,serviceaccount,ingress,networkpolicy,poddisruptionbudget,horizontalpodautoscaler"


class StepFailed(Exception):
    """What a step found instead of what it wanted."""


class Cluster:
    """One namespace of a cluster, through kubectl."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace

    def kubectl(self, *arguments: str) -> str:
        """Standard output. Raises StepFailed."""
        command = ("kubectl", "-n", self.namespace, *arguments)
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise StepFailed(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def wait_for_pod(self, name: str, limit_s: float) -> None:
        """Until it is there and ready. Raises StepFailed."""
        end = time.monotonic() + limit_s
        while name not in self.kubectl("get", "pod", "-o", "jsonpath={.items[*].metadata.name}").split():
            if time.monotonic() > end:
                raise StepFailed(f"no pod {name}")
            time.sleep(0.5)
        self.kubectl("wait", "--for=condition=Ready", f"pod/{name}", f"--timeout={limit_s}s")

    @contextmanager
    def forwarded(self, service: str) -> Iterator[str]:
        """A URL on this machine for a service of the cluster."""
        command = ("kubectl", "-n", self.namespace, "port-forward", f"svc/{service}", f"{LOCAL_PORT}:80")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                if not process.stdout.readline():  # a line once it listens
                    raise StepFailed(f"{' '.join(command)} ended; is port {LOCAL_PORT} of this machine in use?")
                yield f"http://127.0.0.1:{LOCAL_PORT}"
            finally:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", required=True, help="of the proxy: REPOSITORY:TAG")
    parser.add_argument("--values", type=Path, required=True)
    parser.add_argument("--namespace", default="paretoproxy-check")
    parser.add_argument("--kubeconfig", default=os.environ.get("KUBECONFIG", str(Path.home() / ".kube/config")))
    parser.add_argument("--startup-s", type=int, default=1800, help="for weights and compilation")
    parser.add_argument("--load-s", type=int, default=90, help="under load; the proxy is rolled meanwhile")
    parser.add_argument("--rate", type=float, default=1.0, help="requests per second")
    parser.add_argument("--keep", action="store_true", help="do not uninstall")
    options = parser.parse_args()
    os.environ["KUBECONFIG"] = options.kubeconfig
    try:
        check(options)
    except (StepFailed, helm_python.HelmError) as failed:
        sys.exit(f"failed: {failed}")


def check(options: argparse.Namespace) -> None:
    """Raises StepFailed."""
    values = with_image(yaml.safe_load(options.values.read_text()), options.image)
    cluster = Cluster(options.namespace)
    with helm_python.Config(kubeconfig_path=options.kubeconfig, namespace=options.namespace) as helm:
        cluster.kubectl("create", "namespace", options.namespace)  # fails where it is: it is not ours to delete
        with step("installed"):
            helm.install(str(CHART), RELEASE, values, namespace=options.namespace)
        with step("every pod ready"):
            cluster.kubectl("rollout", "status", f"deploy/{RELEASE}-paretoproxy", f"--timeout={options.startup_s}s")
            cluster.kubectl("wait", "--for=condition=Ready", "pod", "-l", OURS, f"--timeout={options.startup_s}s")
        model = values["config"]["models"][0]["name"]
        with step("answered through the service"):
            ask(cluster, model)
        with step("non-root, read-only, without a token of the cluster"):
            guarded(cluster)
        with step(f"rolled under {options.rate:g} requests/s for {options.load_s} s"):
            print("   ", roll_under_load(cluster, options, model))
        if options.keep:
            return
        with step("uninstalled"):
            helm.uninstall(RELEASE)
            cluster.kubectl("wait", "--for=delete", "pod", "-l", OURS, "--timeout=180s")
            if left := cluster.kubectl("get", KINDS, "-l", MADE_BY_HELM, "-o", "name"):
                raise StepFailed(f"these are left: {left.split()}")
    cluster.kubectl("delete", "namespace", options.namespace, "--wait=false")


@contextmanager
def step(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def with_image(values: dict[str, Any], image: str) -> dict[str, Any]:
    repository, _, tag = image.rpartition(":")
    if not repository or "/" in tag:  # no tag, or the colon of a registry's port
        raise StepFailed(f"--image {image} has no tag")
    return {**values, "image": {**values.get("image", {}), "repository": repository, "tag": tag}}


def ask(cluster: Cluster, model: str) -> None:
    """One question with an SLO. Raises StepFailed."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}]}
    with cluster.forwarded(f"{RELEASE}-paretoproxy") as url:
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-slo-latency-ms": "30000"}, timeout=90)
    if answer.status_code != 200:
        raise StepFailed(f"{answer.status_code}: {answer.text}")
    print("   ", answer.json()["usage"]["tts"])


def guarded(cluster: Cluster) -> None:
    """Raises StepFailed."""
    pod = cluster.kubectl("get", "pod", "-l", PROXY, "-o", "name").split()[0]
    user = cluster.kubectl("exec", pod, "--", "id", "-u").strip()
    if user == "0":
        raise StepFailed("the proxy runs as root")
    mounts = cluster.kubectl("exec", pod, "--", "cat", "/proc/mounts").splitlines()
    if not any(line.split()[1] == "/" and "ro" in line.split()[3].split(",") for line in mounts):
        raise StepFailed("its root file system can be written")
    if any("kubernetes.io/serviceaccount" in line for line in mounts):
        raise StepFailed("it has a token of the cluster")


def roll_under_load(cluster: Cluster, options: argparse.Namespace, model: str) -> str:
    """Every request must be answered while all proxies are replaced; the load comes from inside the cluster. Raises
    StepFailed."""
    workload = {
        "arrivals": {"process": "constant", "rate": options.rate, "for_s": options.load_s},
        "task": "tinymath-held-out",
        "max_late_ms": 10_000,  # what is lost counts here, not what is late
        "classes": [{"name": "all", "share": 1.0, "slo": {"latency_ms": 30000}}],
    }
    script = (
        f"cat > /tmp/load.yaml && paretoproxy loadtest --url http://{RELEASE}-paretoproxy --model {model} "
        "--workload /tmp/load.yaml --out /tmp/load > /dev/null && cat /tmp/load/summary.json"
    )
    command = ("kubectl", "-n", options.namespace, "run", "load", "--rm", "-i", "--quiet", "--restart=Never")
    run = (
        *command,
        f"--image={options.image}",
        "--image-pull-policy=IfNotPresent",
        "--command",
        "--",
        "sh",
        "-c",
        script,
    )
    with subprocess.Popen(
        run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as load:
        try:
            assert load.stdin is not None
            load.stdin.write(yaml.safe_dump(workload))
            load.stdin.close()
            load.stdin = None
            cluster.wait_for_pod("load", POD_S)
            time.sleep(options.load_s / 4)
            cluster.kubectl("rollout", "restart", f"deploy/{RELEASE}-paretoproxy")
            cluster.kubectl("rollout", "status", f"deploy/{RELEASE}-paretoproxy", f"--timeout={options.load_s}s")
            if load.poll() is not None:
                raise StepFailed("the load ended before the proxies were replaced: make --load-s longer")
            out, err = load.communicate(timeout=options.load_s + 180)
        except subprocess.TimeoutExpired:
            raise StepFailed("the load test does not end") from None
        finally:
            load.kill()
    if load.returncode or "{" not in out:
        raise StepFailed(f"the load test: {err.strip() or out.strip()}")
    told = json.loads(out[out.index("{") :])["overall"]
    if not 0 < told["sent"] == told["answered"]:
        raise StepFailed(f"{told['sent'] - told['answered']} of {told['sent']} requests were lost: {told}")
    return f"{told['answered']} of {told['sent']} requests answered, none lost"


if __name__ == "__main__":
    main()
