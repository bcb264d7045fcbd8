"""Programs and files of other projects, taken from their Go modules: what our own output is held against.

A module is fetched through the Go module proxy and checked against Go's checksum database, so a version
here is also a hash. Programs are built once and kept.

    python -m tests.tools.go kubeconform helm     builds those that are absent and prints the paths
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

#: Where programs are kept: `<name>-<version>`, beside the Kubernetes that tests/cluster builds.
CACHE = Path(os.environ.get("TOOLS_CACHE") or Path.home() / ".cache" / "mlplatform-tools")
#: Seconds that a build may take on a busy machine.
BUILD_SECONDS = 1500


class Missing(RuntimeError):
    """Go or a module is not to be had; the message says what to do."""


@dataclass(frozen=True)
class Program:
    """A command of a Go module."""

    package: str
    version: str
    tags: str = ""
    """Build tags."""


PROGRAMS = {
    "kubeconform": Program("github.com/yannh/kubeconform/cmd/kubeconform", "v0.7.0"),
    "kube-score": Program("github.com/zegl/kube-score/cmd/kube-score", "v1.20.0"),
    "helm": Program("helm.sh/helm/v3/cmd/helm", "v3.19.5"),
    "jv": Program("github.com/santhosh-tekuri/jsonschema/cmd/jv", "v0.7.0"),
    # Prometheus 3.10. Without the clients of every cloud, which only its service discovery needs.
    "promtool": Program("github.com/prometheus/prometheus/cmd/promtool", "v0.310.0", "remove_all_sd"),
}
#: Modules of which only files are read.
GATEWAY_API = ("sigs.k8s.io/gateway-api", "v1.5.1")
PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
KUBE_STATE_METRICS = ("k8s.io/kube-state-metrics/v2", "v2.15.0")
CYCLONEDX = ("github.com/CycloneDX/cyclonedx-go", "v0.9.3")
CLOUDNATIVE_PG = ("github.com/cloudnative-pg/cloudnative-pg", "v1.27.0")


def program(name: str) -> Path:
    """The program, built at its first use. `Missing` with Go's own words if that fails."""
    wanted = PROGRAMS[name]
    target = CACHE / f"{name}-{wanted.version}"
    if target.exists():
        return target
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _build(wanted, target)
    return target


@functools.cache
def module(path: str, version: str) -> Path:
    """The folder of a module's files, which Go keeps and nobody may write to."""
    return Path(json.loads(_go("mod", "download", "-json", f"{path}@{version}"))["Dir"])


def _build(wanted: Program, target: Path) -> None:
    """Build in a module of its own: `go install` refuses a module that replaces others for its own tests."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "go.mod").write_text("module tools\n")
        _go("get", "-tool", f"{wanted.package}@{wanted.version}", folder=folder)
        built = folder / "built"
        flags = ("-trimpath", "-ldflags=-s -w", f"-tags={wanted.tags}", "-o", str(built))
        _go("build", *flags, wanted.package, folder=folder)
        # Moved only when whole, within one file system: a killed build leaves nothing that looks built.
        shutil.copy2(built, CACHE / ".built")
        (CACHE / ".built").rename(target)


def _go(*arguments: str, folder: Path = Path("/")) -> str:
    compiler = shutil.which("go")
    if compiler is None:
        raise Missing("needs Go 1.25 or later on the PATH (golang-go of a recent distribution, or go.dev/dl)")
    done = subprocess.run(
        [compiler, *arguments],
        cwd=folder,
        env={**os.environ, "GOFLAGS": "-mod=mod -buildvcs=false", "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise Missing(f"go {' '.join(arguments)}: {done.stderr.strip()[-2000:] or done.stdout[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    if not set(sys.argv[1:]) <= set(PROGRAMS):
        sys.exit(f"usage: python -m tests.tools.go [{'|'.join(PROGRAMS)}]...")
    for wanted in sys.argv[1:]:
        print(program(wanted))
