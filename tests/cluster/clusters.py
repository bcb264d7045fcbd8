"""Real Kubernetes for tests: an API server alone, or a whole cluster of one node.

Both are built from source by `build-binaries`; the scripts of this folder do the work.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
#: Each test session's own state; the name ends in the session's pid, so that what a killed one left is known.
STATE = Path("/var/lib")
STATE_PREFIX = "mlplatform-test-"
#: What the chart names by default (values image.repository and Chart.yaml's appVersion).
PLATFORM_IMAGE = "docker.io/library/mlflow-platform:3.17.2"


class Missing(RuntimeError):
    """Something these tests need is not on this machine; the message says what to install."""


@dataclass(frozen=True)
class Kubernetes:
    """A running API server, spoken to with its own kubectl."""

    kubeconfig: Path
    kubectl_path: Path

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 330) -> str:
        """Standard output of a kubectl command; AssertionError with kubectl's own words if it fails."""
        done = self.try_kubectl(*arguments, stdin=stdin, timeout=timeout)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr.strip()}"
        return done.stdout

    def try_kubectl(
        self, *arguments: str, stdin: str | None = None, timeout: float = 330
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.kubectl_path), "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def apply(self, *objects: dict[str, Any], namespace: str = "default") -> None:
        self.kubectl("--namespace", namespace, "apply", "-f", "-", stdin=yaml.safe_dump_all(objects))


@dataclass(frozen=True)
class ControlPlane(Kubernetes):
    """kube-apiserver and etcd, each of which can be killed and started again on its data and port."""

    folder: Path
    etcd: str
    """The address of etcd's HTTP gateway."""
    commands: Mapping[str, Sequence[str | Path]]
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def kill(self, name: str) -> None:
        """SIGKILL to `etcd` or `kube-apiserver`."""
        self.running[name].kill()
        self.running[name].wait()

    def start(self, name: str) -> None:
        """Start one; it ends with the thread that calls this, however that ends."""
        with (self.folder / f"{name}.log").open("ab") as out:
            self.running[name] = subprocess.Popen(
                [program("setpriv", package="util-linux"), "--pdeathsig", "KILL", *self.commands[name]],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
            )

    def stop(self) -> None:
        """Stop both at once: to end in order takes an API server ten seconds, and nobody reads its data."""
        for name in self.running:
            self.kill(name)

    def log(self, name: str, characters: int = 2000) -> str:
        """The last that one wrote."""
        return (self.folder / f"{name}.log").read_text(errors="replace")[-characters:]

    @property
    def answers(self) -> bool:
        return self.try_kubectl("get", "--raw", "/readyz").returncode == 0


@dataclass(frozen=True)
class Cluster(Kubernetes):
    """A one-node cluster: pods really run."""

    folder: Path

    def load(self, image: str) -> None:
        """Build the named image of this folder's `image` script and put it into the cluster."""
        archive = script("image", image).strip()
        script("load", archive, environment={"CLUSTER_DIR": str(self.folder)})

    def all_deleted(self) -> None:
        """Returns when every namespace that was deleted is gone, with its finalizers and its pods' drains.

        Tests do not wait for it: that takes most of a minute each, in which nothing is at work.
        """
        phases = "jsonpath={.items[?(@.status.phase=='Terminating')].metadata.name}"
        deadline = time.monotonic() + 300
        while left := self.kubectl("get", "namespaces", "-o", phases):
            assert time.monotonic() < deadline, f"still being deleted: {left}"
            time.sleep(1)

    def load_platform(self) -> None:
        """Build the platform's image of this tree and put it into the cluster."""
        script("load", platform_archive(), environment={"CLUSTER_DIR": str(self.folder)})


def platform_archive() -> str:
    """The platform's image of this tree, built where it is not there already."""
    root = HERE.parent.parent
    recipe = str(root / "platform" / "Dockerfile")
    return script("image", "build", str(root), PLATFORM_IMAGE, "-f", recipe).strip()


def script(
    name: str, *arguments: str, environment: dict[str, str] | None = None, timeout: float = 1800
) -> str:
    """Standard output of a script of this folder; `Missing` with its own message if it fails.

    A script may leave processes behind that hold its standard error: so that goes to a file.
    """
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(tempfile.TemporaryFile("w+", encoding="utf-8"))
        done = subprocess.run(
            [str(HERE / name), *arguments],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=timeout,
            check=False,
        )
        errors.seek(0)
        if done.returncode != 0:
            raise Missing(f"tests/cluster/{name} {' '.join(arguments)}: {errors.read().strip()}")
    return done.stdout


def program(name: str, *, package: str) -> str:
    """Path of a program of this machine."""
    found = shutil.which(name)
    if found is None:
        raise Missing(f"needs the program {name}: apt-get install {package}")
    return found


@contextlib.contextmanager
def control_plane(folder: Path) -> Iterator[ControlPlane]:
    """kube-apiserver and etcd on free ports of the loopback, as any user; nothing runs pods.

    `folder` holds data, keys and logs. The processes end with this one, even if it is killed.
    """
    binaries = Path(script("build-binaries", "control-plane").strip())
    openssl = program("openssl", package="openssl")
    folder.mkdir(parents=True, exist_ok=True)
    token = secrets.token_hex(16)
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    key = folder / "service-accounts.key"
    subprocess.run([openssl, "genrsa", "-out", key, "2048"], check=True, capture_output=True)
    with _free_ports(3) as ports:
        etcd_port, peer_port, api_port = ports
    etcd, peer = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    certificates = folder / "certificates"
    commands: dict[str, tuple[str | Path, ...]] = {
        "etcd": (
            *(binaries / "etcd", "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--log-level", "warn"),
            *("--listen-client-urls", etcd, "--advertise-client-urls", etcd),
            *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
            *("--initial-cluster", f"default={peer}"),
        ),
        "kube-apiserver": (
            *(binaries / "kube-apiserver", "--etcd-servers", etcd, "--cert-dir", certificates),
            *("--bind-address", "127.0.0.1", "--secure-port", str(api_port), "--token-auth-file", tokens),
            *("--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.0.0.0/24"),
            *("--service-account-key-file", key, "--service-account-signing-key-file", key),
            *("--service-account-issuer", "https://kubernetes.default.svc"),
            # No controller makes service accounts here, and pods would wait for them.
            *("--disable-admission-plugins", "ServiceAccount"),
        ),
    }
    server = ControlPlane(folder / "admin.kubeconfig", binaries / "kubectl", folder, etcd, commands)
    try:
        for name in commands:
            server.start(name)
        deadline = time.monotonic() + 60
        while not (server.kubeconfig.exists() and server.answers):
            authority = certificates / "apiserver.crt"
            if authority.exists() and not server.kubeconfig.exists():
                _write_kubeconfig(server.kubeconfig, f"https://127.0.0.1:{api_port}", authority, token)
            said = server.log("kube-apiserver")
            assert server.running["kube-apiserver"].poll() is None, f"kube-apiserver stopped: {said}"
            assert time.monotonic() < deadline, f"no API after 60 s: {said}"
            time.sleep(0.2)
        yield server
    finally:
        server.stop()


@contextlib.contextmanager
def one_node_cluster(name: str = "") -> Iterator[Cluster]:
    """A whole cluster of this session's own; needs root. Stopped, with all its state, on the way out."""
    for left in STATE.glob(f"{STATE_PREFIX}*"):
        pid = left.name.removeprefix(STATE_PREFIX).split("-")[0]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            script("down", environment={"CLUSTER_DIR": str(left)})
            shutil.rmtree(left)
    folder = STATE / f"{STATE_PREFIX}{os.getpid()}{name and '-' + name}"
    environment = {"CLUSTER_DIR": str(folder)}
    try:
        kubeconfig = Path(script("up", environment=environment).strip())
        binaries = Path(script("build-binaries", "node").strip())
        yield Cluster(kubeconfig, binaries / "kubectl", folder)
        script("down", environment=environment)
        shutil.rmtree(folder)
    finally:
        if folder.exists():
            script("down", environment=environment)  # its logs stay: they say what went wrong


@contextlib.contextmanager
def _free_ports(count: int) -> Iterator[list[int]]:
    """Ports that nobody listens on, all different because they are held together until found."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for s in held:
            s.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in held]
    yield ports


def _write_kubeconfig(path: Path, server: str, authority: Path, token: str) -> None:
    path.touch(mode=0o600)
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": str(authority)}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
    }
    path.write_text(yaml.safe_dump(content))
