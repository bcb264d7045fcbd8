"""Proves a tracking server from a user's side: login, run, metric, artifact there and back, model.

    python -m mlflow_platform.server.smoke

reads MLFLOW_TRACKING_URI, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, as any client of MLflow.
It asks by plain HTTP, because to import MLflow takes longer than the whole test. What it made it removes,
apart from the experiment, which the next one uses again. Exit codes: 0 all passed, 1 one failed.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_platform.errors import BadInput, PlatformError, Rejected, Transient

#: Name of the experiment, and start of the model's name.
NAME = "mlplatform-smoke-test"
#: How long to go on when nobody answers, in seconds: a Service's rules come a moment after its pods.
PATIENCE = 60.0


def main() -> int:
    try:
        server = Server.of_environment()
        run_all(server)
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code
    return 0


@dataclass(frozen=True)
class Server:
    """A tracking server and a login."""

    uri: str
    authorization: str
    pool: Any

    @classmethod
    def of_environment(cls) -> Server:
        import urllib3

        try:
            uri, user, password = (
                os.environ[f"MLFLOW_TRACKING_{n}"] for n in ("URI", "USERNAME", "PASSWORD")
            )
        except KeyError as error:
            raise BadInput(f"{error.args[0]} is not set") from error
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        return cls(uri.rstrip("/"), f"Basic {token}", urllib3.PoolManager(timeout=30, retries=False))

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """An answer's JSON. `Rejected` has MLflow's error code."""
        data = self.send(method, f"/api/2.0/{path}", None if body is None else json.dumps(body).encode())
        return json.loads(data) if data else {}

    def send(self, method: str, path: str, data: bytes | None = None) -> bytes:
        from urllib3.exceptions import HTTPError

        headers = {"authorization": self.authorization, "content-type": "application/json"}
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                answer = self.pool.request(method, f"{self.uri}{path}", body=data, headers=headers)
            except HTTPError as error:
                reason = str(error).split(": ", 1)[-1]
            else:
                if answer.status < 300:
                    return bytes(answer.data)
                reason, code = _words(answer)
                if answer.status not in (429, 503):
                    raise Rejected(f"{method} {path}: HTTP {answer.status}: {reason}", code=code)
            if time.monotonic() > deadline:
                raise Transient(f"{self.uri} does not answer: {reason}")
            time.sleep(0.5)


def run_all(server: Server) -> None:
    """Every step in turn; one line each. The first that fails ends it."""
    began = time.monotonic()

    def passed(what: str) -> None:
        print(f"{what}: passed at {time.monotonic() - began:.2f} s", flush=True)

    server.ask("GET", "mlflow/users/current")
    passed("login")
    experiment = _experiment(server)
    name = f"{NAME}-{secrets.token_hex(4)}"
    started = server.ask(
        "POST",
        "mlflow/runs/create",
        {"experiment_id": experiment, "run_name": name, "start_time": time.time_ns() // 10**6},
    )
    run = started["run"]["info"]
    passed("run")
    try:
        _metric(server, run["run_id"])
        passed("metric")
        _artifact(server, run)
        passed("artifact written and read back")
        _model(server, name, run)
        passed("model registered")
    finally:
        server.ask("POST", "mlflow/runs/delete", {"run_id": run["run_id"]})


def _experiment(server: Server) -> str:
    try:
        return str(server.ask("POST", "mlflow/experiments/create", {"name": NAME})["experiment_id"])
    except Rejected as error:
        if error.code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = server.ask("GET", f"mlflow/experiments/get-by-name?experiment_name={NAME}")["experiment"]
    if found["lifecycle_stage"] == "deleted":
        server.ask("POST", "mlflow/experiments/restore", {"experiment_id": found["experiment_id"]})
    return str(found["experiment_id"])


def _metric(server: Server, run: str) -> None:
    value = secrets.randbelow(10**6) / 8  # exact as a float
    logged = {"run_id": run, "key": "smoke", "value": value, "timestamp": time.time_ns() // 10**6, "step": 0}
    server.ask("POST", "mlflow/runs/log-metric", logged)
    found = server.ask("GET", f"mlflow/runs/get?run_id={run}")["run"]["data"]["metrics"]
    _same("the metric", [m["value"] for m in found], [value])


def _artifact(server: Server, run: Mapping[str, Any]) -> None:
    scheme, colon, folder = run["artifact_uri"].partition(":/")
    if f"{scheme}{colon}" != "mlflow-artifacts:/":
        raise Rejected(f"artifacts are at {run['artifact_uri']}, not behind the server (mlflow-artifacts:/)")
    path = f"/api/2.0/mlflow-artifacts/artifacts/{folder.lstrip('/')}/smoke.bin"
    content = secrets.token_bytes(64 * 1024)
    server.send("PUT", path, content)
    _same("the artifact", server.send("GET", path), content)
    server.send("DELETE", path)


def _model(server: Server, name: str, run: Mapping[str, Any]) -> None:
    server.ask("POST", "mlflow/registered-models/create", {"name": name})
    try:
        version = {"name": name, "source": run["artifact_uri"], "run_id": run["run_id"]}
        server.ask("POST", "mlflow/model-versions/create", version)
        found = server.ask("GET", f"mlflow/model-versions/get?name={name}&version=1")["model_version"]
        _same("the model's version", [found["run_id"], found["status"]], [run["run_id"], "READY"])
    finally:
        server.ask("DELETE", "mlflow/registered-models/delete", {"name": name})


def _same(what: str, found: object, written: object) -> None:
    if found != written:
        raise Rejected(f"{what} was not read back as it was written")


def _words(answer: Any) -> tuple[str, str]:
    """Message and error code of MLflow's answer."""
    try:
        found = json.loads(answer.data)
        return str(found["message"]), str(found["error_code"])
    except (ValueError, KeyError, TypeError):
        return answer.data.decode(errors="replace")[:200].strip(), ""


if __name__ == "__main__":
    sys.exit(main())
