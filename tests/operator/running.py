"""Operators as processes of their own, and what a test asks of the cluster they work for."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import Rejected
from mlflow_platform.local import Stack
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator.process import Settings
from tests.cluster import clusters

Json = dict[str, Any]
T = TypeVar("T")

#: The operator's own namespace, which may declare everything.
OPS = "ops"
#: Seconds between full rounds: drift is corrected within this time.
INTERVAL = 3
PATIENCE = 90.0


def eventually(look: Callable[[], T], what: str, patience: float = PATIENCE) -> T:
    """The first true value that `look` gives; AssertionError with the last one after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"{what}: {found!r}"
        time.sleep(0.1)


@dataclass
class Process:
    """One replica."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        def look() -> int:
            assert self.process.poll() is None, self.log.read_text()
            found = re.search(r"probes and metrics on port (\d+)", self.log.read_text())
            return int(found[1]) if found else 0

        return eventually(look, "the port of the probes")

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, *parts: str) -> float:
        """The sum of a metric over the lines that hold all `parts`."""
        lines = self.ask("/metrics")[1].splitlines()
        mine = [
            x
            for x in lines
            if re.match(rf"mlplatform_operator_{name}[ {{]", x) and all(p in x for p in parts)
        ]
        return sum(float(line.rsplit(" ", 1)[1]) for line in mine)

    @property
    def leading(self) -> bool:
        return self.metric("leading") == 1

    def rounds(self) -> float:
        return self.metric("rounds_total", 'scope="full"', 'result="ok"')

    def another_round(self, count: int = 1) -> None:
        """Wait for full rounds that begin from now on."""
        wanted = self.rounds() + count + 1
        eventually(lambda: self.rounds() >= wanted, "another full round")

    @contextlib.contextmanager
    def always_ready(self) -> Iterator[None]:
        """From when it is ready first until the block ends, `/readyz` says nothing else."""
        eventually(lambda: self.ask("/readyz")[0] == 200, "ready")
        stop, wrong = threading.Event(), []

        def look() -> None:
            while not stop.wait(0.2):
                found = self.ask("/readyz")
                if found != (200, "ok"):
                    wrong.append(found)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        assert not wrong

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        self.process.wait(30)


@dataclass
class Site:
    """A cluster with our kinds and an MLflow with auth."""

    control_plane: clusters.ControlPlane
    cluster: Cluster
    stack: Stack
    folder: Path
    started: list[Process] = field(default_factory=list)
    api: MlflowApi = field(init=False)

    def __post_init__(self) -> None:
        at = self.stack.endpoints()
        self.api = MlflowApi(at.tracking_uri, at.username, at.password)

    def start(
        self,
        *arguments: str,
        module: str = "mlflow_platform.cli",
        interval: float = INTERVAL,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> Process:
        log = self.folder / f"operator-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", module, *arguments, "operator", "run"]
        command += ["--kubeconfig", str(self.control_plane.kubeconfig), "--namespace", OPS]
        command += ["--interval", str(interval), "--port", "0", *options]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env={**os.environ, **(environment or {})}
            )
        self.started.append(Process(process, log))
        return self.started[-1]

    @contextlib.contextmanager
    def running(self, *options: str, interval: float = INTERVAL) -> Iterator[Process]:
        """An operator that leads; ended in every case."""
        started = self.start(interval=interval, options=options)
        try:
            eventually(lambda: started.leading, "leading")
            yield started
        finally:
            started.end()

    def namespace(self, name: str, **labels: str) -> str:
        self.cluster.apply(
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        )
        return name

    def secret(self, namespace: str, name: str, **values: str) -> None:
        data = {k: base64.b64encode(v.encode()).decode() for k, v in values.items()}
        metadata = {"name": name, "namespace": namespace}
        self.cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data})

    def server(self, name: str = "default", **spec: Any) -> None:
        """A TrackingServer document for the stack, whose brake is off unless `spec` says otherwise."""
        at = self.stack.endpoints()
        self.namespace(OPS)
        self.secret(OPS, "mlflow-login", username=at.username, password=at.password)
        wanted = {
            "trackingUri": at.tracking_uri,
            "credentials": {
                "usernameSecretRef": {"name": "mlflow-login", "key": "username"},
                "passwordSecretRef": {"name": "mlflow-login", "key": "password"},
            },
            "brakes": {"maxLossPercent": 100, "minimumOwned": 1},
            **spec,
        }
        self.cluster.apply(document("TrackingServer", name, wanted, namespace=""))

    def apply(self, *documents: Json) -> None:
        for one in documents:
            self.cluster.apply(one)

    def find(self, kind: str, name: str, namespace: str = OPS) -> Json:
        found = self.cluster.get(API_VERSION, kind, namespace, name)
        return dict(found) if found else {}

    def condition(self, kind: str, name: str, namespace: str = OPS, type_: str = "Ready") -> Json:
        """A condition of the document as it is now; empty until the operator has seen it."""
        found = self.find(kind, name, namespace)
        status = found.get("status", {})
        if status.get("observedGeneration") != found.get("metadata", {}).get("generation"):
            return {}
        return next((c for c in status.get("conditions", ()) if c["type"] == type_), {})

    def reach(self, kind: str, name: str, reason: str, namespace: str = OPS) -> Json:
        """Wait until the condition Ready has this reason; the condition."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = self.condition(kind, name, namespace)
            if found.get("reason") == reason:
                return found
            assert time.monotonic() < deadline, f"{kind}/{name} is not {reason}: {found}"
            time.sleep(0.1)

    def gone(self, kind: str, name: str, namespace: str = OPS) -> None:
        eventually(lambda: not self.find(kind, name, namespace), f"{kind}/{name} is still there")

    def delete(self, kind: str, name: str, namespace: str = OPS) -> None:
        self.cluster.delete(API_VERSION, kind, namespace, name)

    def events(self, name: str, namespace: str = OPS) -> list[tuple[str, str]]:
        """(reason, message) of the Events about documents of a name, oldest first."""
        found = self.cluster.find("v1", "Event", namespace)
        mine = [e for e in found if e["involvedObject"]["name"] == name]
        return [(e["reason"], e["message"]) for e in sorted(mine, key=lambda e: e["lastTimestamp"])]

    def event(self, name: str, reason: str, namespace: str = OPS, words: str = "") -> str:
        """The message of the Event of this reason about a document, which comes soon."""
        return eventually(
            lambda: next((m for r, m in self.events(name, namespace) if r == reason and words in m), ""),
            f"an Event {reason} about {name}",
        )

    def experiment(self, name: str) -> Json:
        """As MLflow has it, `tags` as a mapping; empty where there is none."""
        query = {"experiment_name": name}
        try:
            found = self.api.call("GET", "api/2.0/mlflow/experiments/get-by-name", params=query)["experiment"]
        except Rejected as error:
            assert error.code == "RESOURCE_DOES_NOT_EXIST", error  # noqa: PT017 - any other one is a failure
            return {}
        return {**found, "tags": {t["key"]: t["value"] for t in found.get("tags", ())}}

    def set_tag(self, experiment: str, key: str, value: str) -> None:
        """As somebody does by hand."""
        body = {"experiment_id": self.experiment(experiment)["experiment_id"], "key": key, "value": value}
        self.api.call("POST", "api/2.0/mlflow/experiments/set-experiment-tag", json=body)

    def forget_leader(self) -> None:
        """Take the Lease of a process that is known to be dead away, instead of waiting for its end."""
        self.cluster.delete("coordination.k8s.io/v1", "Lease", OPS, Settings().lease)


def document(kind: str, name: str, spec: Json, namespace: str = OPS, **annotations: str) -> Json:
    """As kubectl would send it; `annotations` by their names after `mlplatform.io/`, _ for -."""
    named = {f"mlplatform.io/{k.replace('_', '-')}": v for k, v in annotations.items()}
    metadata: Json = {"name": name, "annotations": named}
    if namespace:
        metadata["namespace"] = namespace
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def experiment(name: str, /, namespace: str = OPS, **spec: Any) -> Json:
    return document("Experiment", name, spec, namespace)
