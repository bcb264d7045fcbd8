"""Clients that log to a server at a steady pace, and write down what they sent and what was acknowledged.

    MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=... python -m tests.cluster.logging_load \\
        {raw,mlflow} --uri http://mlflow.live.svc:5000 --address 10.96.0.7 --experiment 1 --record FILE

A process of its own, so that a test's work does not slow the clients down. Until SIGTERM each client makes
runs: params, metrics (each step once), tags, a small artifact now and then, the end. `raw` is plain HTTP over
one kept connection a client without any retry; `mlflow` is MLflow's own client with its default settings.

A request fails if its answer is not 2xx, or if its connection cannot be made, breaks, or is silent for
`SILENCE` seconds. One thing is not a failure: that a kept connection was closed while it was idle, seen
before the request's first byte was sent; every client looks before it reuses one. Closed after the first
byte was sent is a failure, although HTTP permits a server to do so.

The record is a JSON object a line, see `Record`.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict

import urllib3

#: Seconds without a byte after which a raw client gives a request up.
SILENCE = 60.0
#: Rounds of a run: each logs a batch, a metric and a tag, every fourth an artifact.
ROUNDS = 8
BATCH_STEPS = 5
ARTIFACT_BYTES = 4096


class Record(TypedDict):
    """One request: when it was sent (Unix time), how long it took (seconds), and what it wrote.

    Acknowledged if it has no `error`. `wrote` names what the server holds then, or may hold otherwise.
    """

    client: int
    call: str
    at: float
    took: float
    wrote: dict[str, Any]
    error: NotRequired[str]


class Failed(Exception):
    """A request that was not acknowledged."""


class Client(Protocol):
    """What a run needs; each method is one request, or `Failed`."""

    def create_run(self, name: str) -> str: ...
    def log_batch(self, run: str, metrics: list[tuple[str, int, float]], params: dict[str, str]) -> None: ...
    def log_metric(self, run: str, key: str, step: int, value: float) -> None: ...
    def set_tag(self, run: str, key: str, value: str) -> None: ...
    def upload(self, run: str, name: str, content: bytes) -> None: ...
    def end(self, run: str) -> None: ...


class Raw:
    """One kept connection, plain HTTP, no retry. The experiment's runs keep artifacts behind the server."""

    def __init__(self, uri: str, experiment: str) -> None:
        parts = urllib.parse.urlsplit(uri)
        user, password = login()
        self._experiment = experiment
        self._headers = urllib3.make_headers(basic_auth=f"{user}:{password}")
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=SILENCE)

    def create_run(self, name: str) -> str:
        tags = [{"key": "mlflow.runName", "value": name}]
        made = self._post(
            "runs/create", experiment_id=self._experiment, start_time=milliseconds(), run_name=name, tags=tags
        )
        return str(made["run"]["info"]["run_id"])

    def log_batch(self, run: str, metrics: list[tuple[str, int, float]], params: dict[str, str]) -> None:
        now = milliseconds()
        self._post(
            "runs/log-batch",
            run_id=run,
            metrics=[{"key": k, "step": s, "value": v, "timestamp": now} for k, s, v in metrics],
            params=[{"key": k, "value": v} for k, v in params.items()],
        )

    def log_metric(self, run: str, key: str, step: int, value: float) -> None:
        self._post("runs/log-metric", run_id=run, key=key, value=value, step=step, timestamp=milliseconds())

    def set_tag(self, run: str, key: str, value: str) -> None:
        self._post("runs/set-tag", run_id=run, key=key, value=value)

    def upload(self, run: str, name: str, content: bytes) -> None:
        path = f"/api/2.0/mlflow-artifacts/artifacts/{self._experiment}/{run}/artifacts/{name}"
        self._send("PUT", path, content, "application/octet-stream")

    def end(self, run: str) -> None:
        self._post("runs/update", run_id=run, status="FINISHED", end_time=milliseconds())

    def _post(self, path: str, **body: Any) -> Any:
        data = self._send("POST", f"/api/2.0/mlflow/{path}", json.dumps(body).encode(), "application/json")
        return json.loads(data)

    def _send(self, method: str, path: str, body: bytes, kind: str) -> bytes:
        connection = self._connection
        if connection.sock is not None and select.select([connection.sock], [], [], 0)[0]:
            connection.close()  # closed while idle
        try:
            connection.request(method, path, body, self._headers | {"Content-Type": kind})
            answer = connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise Failed(f"{type(error).__name__}: {error}") from error
        if not 200 <= answer.status < 300:
            raise Failed(f"HTTP {answer.status}: {data[:200].decode(errors='replace')}")
        return data


class Plain:
    """`MlflowClient` as users have it: default settings, retries and connection pool."""

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self._experiment = experiment
        self._client = MlflowClient(uri)

    def create_run(self, name: str) -> str:
        return str(self._try(lambda: self._client.create_run(self._experiment, run_name=name).info.run_id))

    def log_batch(self, run: str, metrics: list[tuple[str, int, float]], params: dict[str, str]) -> None:
        from mlflow.entities import Metric, Param

        now = milliseconds()
        points = [Metric(k, v, now, s) for k, s, v in metrics]
        self._try(lambda: self._client.log_batch(run, points, [Param(k, v) for k, v in params.items()]))

    def log_metric(self, run: str, key: str, step: int, value: float) -> None:
        self._try(lambda: self._client.log_metric(run, key, value, step=step))

    def set_tag(self, run: str, key: str, value: str) -> None:
        self._try(lambda: self._client.set_tag(run, key, value))

    def upload(self, run: str, name: str, content: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content)
            self._try(lambda: self._client.log_artifact(run, str(path)))

    def end(self, run: str) -> None:
        self._try(lambda: self._client.set_terminated(run))

    def _try(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            raise Failed(f"{type(error).__name__}: {error}") from error


class Logger:
    """One client's runs, one after the other, and the record of them."""

    def __init__(self, number: int, client: Client, period: float, record: Callable[[Record], None]) -> None:
        self._number, self._client, self._period, self._record = number, client, period, record
        self._random = random.Random(number)

    def work(self, stop: threading.Event) -> None:
        runs = 0
        while not stop.wait(self._period * self._random.random()):
            runs += 1
            name = f"client-{self._number}-run-{runs}"
            run = self._call("create", {"name": name}, lambda n=name: self._client.create_run(n))
            if run is not None:
                self._log(str(run), stop)

    def _log(self, run: str, stop: threading.Event) -> None:
        client = self._client
        for i in range(ROUNDS):
            steps = range(i * BATCH_STEPS, (i + 1) * BATCH_STEPS)
            points = [("loss", step, 1 / (step + 1)) for step in steps]
            params = {f"p{i}": f"value {i}"}
            self._pause(stop)
            self._call(
                "log-batch",
                {"run": run, "metrics": points, "params": params},
                lambda p=points, q=params: client.log_batch(run, p, q),
            )
            self._pause(stop)
            self._call(
                "log-metric",
                {"run": run, "metrics": [("kpi", i, i / 2)]},
                lambda i=i: client.log_metric(run, "kpi", i, i / 2),
            )
            self._pause(stop)
            tags = {f"t{i}": f"tag {i}"}
            self._call(
                "set-tag", {"run": run, "tags": tags}, lambda i=i: client.set_tag(run, f"t{i}", f"tag {i}")
            )
            if i % 4 == 0:
                content = self._random.randbytes(ARTIFACT_BYTES)
                artifact = {
                    "run": run,
                    "artifact": f"a{i}.bin",
                    "sha256": hashlib.sha256(content).hexdigest(),
                }
                self._pause(stop)
                self._call("artifact", artifact, lambda i=i, c=content: client.upload(run, f"a{i}.bin", c))
            if stop.is_set():
                break
        self._call("end", {"run": run, "status": "FINISHED"}, lambda: client.end(run))

    def _pause(self, stop: threading.Event) -> None:
        """About `period` seconds, so that clients do not keep step with each other."""
        stop.wait(self._period * (0.5 + self._random.random()))

    def _call(self, call: str, wrote: dict[str, Any], send: Callable[[], object]) -> object:
        began, clock = time.time(), time.monotonic()
        error = None
        answer: object = None
        try:
            answer = send()
        except Failed as failed:
            error = str(failed)
        if call == "create" and answer is not None:
            wrote = wrote | {"run": answer}
        line: Record = {
            "client": self._number,
            "call": call,
            "at": began,
            "took": time.monotonic() - clock,
            "wrote": wrote,
        }
        if error is not None:
            line["error"] = error
        self._record(line)
        return answer


def login() -> tuple[str, str]:
    return os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]


def milliseconds() -> int:
    return int(time.time() * 1000)


def resolve(name: str, address: str) -> None:
    """Let this process find `name` at `address`: a test's machine does not ask the cluster's DNS."""
    ask = socket.getaddrinfo

    def answer(host: Any, *arguments: Any, **options: Any) -> Any:
        return ask(address if host == name else host, *arguments, **options)

    socket.getaddrinfo = answer


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["raw", "mlflow"])
    parser.add_argument("--uri", required=True)
    parser.add_argument("--address", required=True, help="where the URI's host is")
    parser.add_argument("--experiment", required=True, help="its id")
    parser.add_argument("--record", required=True, type=Path)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first client's number")
    parser.add_argument("--period", type=float, default=0.5, help="seconds between a client's requests")
    given = parser.parse_args()
    resolve(urllib.parse.urlsplit(given.uri).hostname or "", given.address)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    lock = threading.Lock()
    client: type[Raw] | type[Plain] = Raw if given.kind == "raw" else Plain
    with given.record.open("w", encoding="utf-8") as out:

        def record(line: Record) -> None:
            with lock:
                out.write(json.dumps(line) + "\n")
                out.flush()

        threads = [
            threading.Thread(
                target=Logger(n, client(given.uri, given.experiment), given.period, record).work, args=[stop]
            )
            for n in range(given.first, given.first + given.clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
