"""The clusters that other tests stand on are what they claim to be, and leave nothing behind."""

from __future__ import annotations

import json
import os
import re
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import clusters

PYTHON = "localhost/python:3.13-slim-trixie"
#: What Pod Security `restricted` asks of a container.
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 10001,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def pod(name: str, code: str, **spec: Any) -> dict[str, Any]:
    container = {
        "name": "main",
        "image": PYTHON,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python", "-c", code],
        "securityContext": RESTRICTED,
    }
    container.update(spec.pop("container", {}))
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [container],
            **spec,
        },
    }


def run_to_end(cluster: clusters.Cluster, namespace: str, document: dict[str, Any]) -> str:
    """What the pod wrote; its end must be a success."""
    name = document["metadata"]["name"]
    cluster.apply(document, namespace=namespace)
    ended = cluster.try_kubectl(
        "-n", namespace, "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"
    )
    logs = cluster.try_kubectl("-n", namespace, "logs", name)
    assert ended.returncode == 0, f"{ended.stderr}{logs.stdout}{logs.stderr}"
    return logs.stdout


def test_control_plane_validates_strictly(control_plane: clusters.Kubernetes) -> None:
    good = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}}
    bad = {**good, "dta": {}}
    arguments = ("create", "--dry-run=server", "--validate=strict", "-f", "-")
    control_plane.kubectl(*arguments, stdin=json.dumps(good))
    refused = control_plane.try_kubectl(*arguments, stdin=json.dumps(bad))
    assert refused.returncode != 0
    assert 'unknown field "dta"' in refused.stderr


def test_pod_runs_and_its_service_answers_by_name(cluster: clusters.Cluster, namespace: str) -> None:
    server = pod(
        "web",
        "import http.server as h; h.test(h.SimpleHTTPRequestHandler, port=8080)",
        restartPolicy="Always",
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    cluster.apply(server, service, namespace=namespace)
    cluster.kubectl("-n", namespace, "wait", "pod/web", "--for=condition=Ready", "--timeout=60s")
    address = cluster.kubectl("-n", namespace, "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
    code = f"""
import socket, time, urllib.request
for attempt in range(50):
    try:
        found = socket.gethostbyname("web.{namespace}.svc.cluster.local")
        print(found, socket.gethostbyname("web"), urllib.request.urlopen("http://web/").status)
        break
    except OSError:
        time.sleep(0.2)
"""
    assert run_to_end(cluster, namespace, pod("ask", code)).split() == [address, address, "200"]
    # The machine itself reaches Services too, so that a test's clients need no pod.
    with urllib.request.urlopen(f"http://{address}/", timeout=10) as answer:
        assert answer.status == 200
    assert "GET /" in cluster.kubectl("-n", namespace, "logs", "web")
    assert cluster.kubectl("-n", namespace, "exec", "web", "--", "id", "-u").strip() == "10001"


def test_volume_binds_and_keeps_its_data(cluster: clusters.Cluster, namespace: str) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    cluster.apply(claim, namespace=namespace)
    volume: dict[str, Any] = {
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
        "container": {"volumeMounts": [{"name": "data", "mountPath": "/data"}]},
    }
    write = "open('/data/word', 'w').write('kept'); print('written')"
    assert run_to_end(cluster, namespace, pod("write", write, **volume)) == "written\n"
    assert cluster.kubectl("-n", namespace, "get", "pvc", "data", "-o", "jsonpath={.status.phase}") == "Bound"
    read = pod("read", "print(open('/data/word').read())", **{**volume, "container": {**volume["container"]}})
    assert run_to_end(cluster, namespace, read) == "kept\n"


def test_restricted_namespace_refuses_a_privileged_pod(cluster: clusters.Cluster, namespace: str) -> None:
    cluster.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    assert run_to_end(cluster, namespace, pod("modest", "print('runs')")) == "runs\n"
    privileged = pod("greedy", "pass", container={"securityContext": {"privileged": True}})
    refused = cluster.try_kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(privileged))
    assert refused.returncode != 0
    assert 'violates PodSecurity "restricted' in refused.stderr


def test_down_leaves_nothing_behind() -> None:
    with clusters.one_node_cluster("second") as second:  # beside the session's own, if that runs
        second.apply(
            pod(
                "waits",
                "import time; time.sleep(1000)",
                container={"image": "localhost/pause:1", "command": ["/pause"]},
            )
        )
        second.kubectl("wait", "pod/waits", "--for=condition=Ready", "--timeout=60s")
        name = (second.folder / "run/name").read_text().strip()
        outer = int((second.folder / "run/outer").read_text().split()[0])
        started = descendants(outer)
        commands = {Path(f"/proc/{pid}/comm").read_text().strip() for pid in started}
        assert {"etcd", "kube-apiserver", "kubelet", "containerd", "pause"} <= commands
        assert name in interfaces()
        assert cgroups(name)
        again = clusters.script("up", environment={"CLUSTER_DIR": str(second.folder)})
        assert Path(again.strip()) == second.kubeconfig
    assert [pid for pid, start in started.items() if alive(pid, start)] == []
    assert name not in interfaces()
    assert cgroups(name) == []
    assert str(second.folder) not in Path("/proc/mounts").read_text()
    rules = subprocess.run(
        [clusters.program("iptables-save", package="iptables")], capture_output=True, text=True, check=True
    ).stdout
    assert not re.search("KUBE-|CNI-", rules)
    assert not second.folder.exists()


def test_up_says_which_packages_are_missing(tmp_path: Path) -> None:
    path = bare_path(tmp_path)
    done = subprocess.run(
        [str(clusters.HERE / "up")],
        env={"PATH": path, "HOME": str(tmp_path), "CLUSTER_DIR": str(tmp_path / "c")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert (
        "apt-get install --no-install-recommends containerd runc conntrack iptables iproute2" in done.stderr
    )
    assert not (tmp_path / "c").exists()


def test_build_binaries_refuses_what_it_cannot_build(tmp_path: Path) -> None:
    def message(argument: str, **environment: str) -> str:
        with pytest.raises(clusters.Missing) as caught:
            clusters.script(
                "build-binaries", argument, environment={"KUBE_CACHE": str(tmp_path), **environment}
            )
        return str(caught.value)

    assert "'everything' is neither control-plane nor node" in message("everything")
    assert "KUBE_VERSION is 'latest', expected something like 1.34.4" in message(
        "node", KUBE_VERSION="latest"
    )
    assert "needs Go" in message("node", PATH=bare_path(tmp_path))


def bare_path(folder: Path) -> str:
    """A PATH with the few programs that every machine has."""
    path = folder / "bin"
    path.mkdir()
    for program in ("bash", "env", "dirname", "uname", "id", "cat", "mkdir"):
        (path / program).symlink_to(clusters.program(program, package="coreutils"))
    return str(path)


def start_time(pid: int) -> str | None:
    """When a process started, in clock ticks since boot (field 22 of /proc/PID/stat); None if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else fields[19]


def alive(pid: int, start: str) -> bool:
    return start_time(pid) == start


def descendants(pid: int) -> dict[int, str]:
    """All processes below this one and when each started."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            parent = re.search(r"^PPid:\s+(\d+)$", status.read_text(), re.MULTILINE)
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert parent is not None
        children.setdefault(int(parent[1]), []).append(int(status.parent.name))
    found: dict[int, str] = {}
    waiting = [pid]
    while waiting:
        current = waiting.pop()
        if (start := start_time(current)) is not None:
            found[current] = start
        waiting += children.get(current, [])
    return found


def interfaces() -> set[str]:
    return {p.name for p in Path("/sys/class/net").iterdir()}


def cgroups(name: str) -> list[Path]:
    return [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if f"/{name}" in folder]
