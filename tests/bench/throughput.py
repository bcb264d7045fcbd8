"""Requests a second of a server as the chart runs it, against `mlflow server` with its defaults and logins.

Both run on this machine on the same Postgres and S3, one after the other, the default one first, on the
emptier database. Clients are threads of one process with a kept connection each. What differs is how the
server runs:

- default: `mlflow server --app-name basic-auth`, nothing set but addresses, keys and no telemetry: 4 workers,
  no cache of logins, background jobs on. (uvicorn finds uvloop here, which a plain `pip install mlflow` does
  not bring; without it each request of the default takes 40 ms longer: Kludex/uvicorn#3149.)
- ours: command and variables of the container as the chart renders them, in one process, as one pod is.

Memory is the proportional set size (PSS) of all their processes: shared pages are counted once.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import urllib3

from mlflow_platform.chart import Manifest, find_chart
from mlflow_platform.local import Stack
from tests.bench.bare import Bare
from tests.bench.scale import report
from tests.served import environment_of, free_port

#: Seconds that each kind of request is sent, on so many connections at a time.
SECONDS = 5.0
CONNECTIONS = (1, 8)
#: Runs in the experiment that is searched, each with a metric and a parameter.
RUNS = 20
#: What is promised: times the default's rate, and its memory divided by that.
LEAST_RATIO, LEAST_MEMORY_RATIO = 5.0, 5.0


@dataclass(frozen=True)
class Measured:
    """One kind of request: how many a second, and milliseconds that half and 99 % of them took at most."""

    rate: float
    p50: float
    p99: float


@dataclass(frozen=True)
class Server:
    """Running servers of one sort: where they are and the environment of their clients."""

    processes: list[subprocess.Popen[bytes]]
    addresses: list[str]
    environment: dict[str, str]

    def _all(self) -> Iterator[psutil.Process]:
        for process in self.processes:
            root = psutil.Process(process.pid)
            yield from (root, *root.children(recursive=True))

    def memory(self) -> float:
        """MiB, PSS of all its processes (proc(5), smaps_rollup)."""
        return sum(_pss(p.pid) for p in self._all())

    def measure(self, kind: str, connections: int, experiment: str) -> Measured:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "tests.bench.throughput",
                kind,
                str(connections),
                experiment,
                *self.addresses,
            ],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{kind}: {done.stderr[-2000:]}")
        return Measured(*json.loads(done.stdout))


def main(stack: Stack, scratch: Path) -> bool:
    """Measure both on this stack's Postgres and S3; whether the promise held."""
    results, memory = {}, {}
    for name, start in (("default", default), ("ours", ours)):
        folder = scratch / name
        folder.mkdir()
        with start(stack, folder) as server:
            os.environ.update(server.environment)
            (bare,) = _clients(server.addresses[:1])
            experiment = _experiment(bare, f"throughput-{name}-{time.time_ns()}")
            idle = server.memory()
            results[name] = {
                (kind, connections): server.measure(kind, connections, experiment)
                for kind in KINDS
                for connections in CONNECTIONS
            }
            memory[name] = server.memory()
        print(f"{name}: {idle:.0f} MiB idle, {memory[name]:.0f} MiB after the load", flush=True)
    good = True
    print(
        f"  {'':<14} {'conn.':>5} {'default/s':>10} {'p50 ms':>7} {'p99':>6} "
        f"{'ours/s':>8} {'p50':>6} {'p99':>6}"
    )
    for (kind, connections), mine in results["ours"].items():
        theirs = results["default"][kind, connections]
        print(
            f"  {kind:<14} {connections:>5} {theirs.rate:>10.1f} {theirs.p50:>7.0f} {theirs.p99:>6.0f} "
            f"{mine.rate:>8.1f} {mine.p50:>6.1f} {mine.p99:>6.0f}"
        )
    for (kind, connections), mine in results["ours"].items():
        ratio = mine.rate / results["default"][kind, connections].rate
        name = f"{kind}, {connections} connections: ours / default"
        good &= report(name, ratio, ratio >= LEAST_RATIO, f">= {LEAST_RATIO:.0f}")
    ratio = memory["default"] / memory["ours"]
    return good & report(
        "memory: default / ours", ratio, ratio >= LEAST_MEMORY_RATIO, f">= {LEAST_MEMORY_RATIO:.0f}"
    )


@contextmanager
def default(stack: Stack, folder: Path) -> Iterator[Server]:
    """`mlflow server` as its documentation starts it with logins."""
    endpoints = stack.endpoints()
    database = endpoints.auth_database_uri.replace("%", "%%")  # read with interpolation
    (folder / "auth.ini").write_text(f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\n")
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--port", "{port}"),
        *(
            "--backend-store-uri",
            endpoints.database_uri,
            "--artifacts-destination",
            f"s3://{endpoints.s3_bucket}",
        ),
    ]
    keys = {k: v for k, v in _keys(stack, folder).items() if "MLFLOW" not in k or k in NEEDED}
    with _running(stack, folder, command, keys) as server:
        yield server


@contextmanager
def ours(stack: Stack, folder: Path) -> Iterator[Server]:
    """The chart's container on this machine: other addresses and keys, nothing else."""
    manifests = find_chart().render(find_chart().values())
    container = _named(manifests, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    config = _named(manifests, "ConfigMap")["data"]["auth.ini"]
    endpoints = stack.endpoints()
    database = urllib3.util.parse_url(endpoints.database_uri)
    (folder / "auth.ini").write_text(config.replace("///mlflow?", "///mlflow_auth?"))
    user, password = (database.auth or "").split(":", 1)
    environment = {
        **{e["name"]: e["value"] for e in container["env"] if "value" in e},
        **_keys(stack, folder),
        "PGHOST": database.host or "",
        "PGPORT": str(database.port),
        "PGUSER": user,
        "PGPASSWORD": password,
        "MLFLOW_EXPOSE_PROMETHEUS": str(folder / "metrics"),
    }
    command = [sys.executable, *container["command"][1:]]
    command[command.index("--port") + 1] = "{port}"
    with _running(stack, folder, command, environment) as server:
        yield server


#: What even a default server cannot start without; it reports to its makers unless it is told not to.
NEEDED = {
    "MLFLOW_AUTH_CONFIG_PATH",
    "MLFLOW_AUTH_ADMIN_USERNAME",
    "MLFLOW_AUTH_ADMIN_PASSWORD",
    "MLFLOW_FLASK_SERVER_SECRET_KEY",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_DISABLE_TELEMETRY",
}


def _keys(stack: Stack, folder: Path) -> dict[str, str]:
    """Addresses and secrets, which the chart takes from Secrets: those of the stack's own server."""
    secret = re.compile(r"^(AWS_|MLFLOW_(AUTH_ADMIN|FLASK|CRYPTO|WEBHOOK_SECRET|S3_|DISABLE_TELEMETRY))")
    return {
        **{name: value for name, value in environment_of(stack).items() if secret.match(name)},
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "TMPDIR": str(folder),
    }


@contextmanager
def _running(stack: Stack, folder: Path, command: list[str], environment: dict[str, str]) -> Iterator[Server]:
    base = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
    processes, addresses = [], []
    try:
        port = free_port()
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [part.format(port=port) for part in command],
                cwd=folder,
                env={**base, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        processes.append(process)
        addresses.append(f"http://127.0.0.1:{port}")
        _wait(process, addresses[-1], folder)
        yield Server(processes, addresses, {**os.environ, **stack.endpoints().environment()})
    finally:
        for process in processes:
            for left in psutil.Process(process.pid).children(recursive=True):
                left.kill()
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(process: subprocess.Popen[bytes], address: str, folder: Path) -> None:
    """Until it serves and its processes have come to rest: job consumers start later than the server."""
    deadline = time.monotonic() + 180
    while True:
        try:
            if urllib3.request("GET", f"{address}/health", retries=False, timeout=2).status == 200:
                break
        except urllib3.exceptions.HTTPError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start: {(folder / 'log').read_text()[-2000:]}")
        time.sleep(0.2)
    time.sleep(15 if len(psutil.Process(process.pid).children()) > 1 else 0)


def _named(manifests: list[Manifest], kind: str) -> Any:
    (found,) = (m.object for m in manifests if m.kind == kind and m.name == "mlflow-server")
    return found


def _pss(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _clients(addresses: list[str]) -> list[Bare]:
    """A connection to each address, with the login of this process' environment."""
    found = []
    for address in addresses:
        os.environ["MLFLOW_TRACKING_URI"] = address
        found.append(Bare())
    return found


def _post(bare: Bare, path: str, **body: object) -> dict[str, Any]:
    return bare.send("POST", path, json.dumps(body).encode())


def _experiment(bare: Bare, name: str) -> str:
    """An experiment with runs to search and to log to."""
    found = str(_post(bare, "experiments/create", name=name)["experiment_id"])
    for i in range(RUNS):
        run = _run(bare, found)
        metric = {"key": "m", "value": i, "timestamp": i, "step": 0}
        _post(bare, "runs/log-batch", run_id=run, metrics=[metric], params=[{"key": "p", "value": str(i)}])
    return found


def _run(bare: Bare, experiment: str) -> str:
    return str(_post(bare, "runs/create", experiment_id=experiment)["run"]["info"]["run_id"])


def _log_metric(bare: Bare, experiment: str, run: str, i: int) -> None:
    _post(bare, "runs/log-metric", run_id=run, key="loss", value=1 / (1 + i), timestamp=i, step=i)


def _log_batch(bare: Bare, experiment: str, run: str, i: int) -> None:
    metrics = [{"key": f"m{k}", "value": k / 7, "timestamp": i, "step": i} for k in range(100)]
    _post(bare, "runs/log-batch", run_id=run, metrics=metrics)


def _create_run(bare: Bare, experiment: str, run: str, i: int) -> None:
    _run(bare, "0")  # not into the experiment that is searched


def _search_runs(bare: Bare, experiment: str, run: str, i: int) -> None:
    found = _post(bare, "runs/search", experiment_ids=[experiment], filter="metrics.m >= 0", max_results=10)
    if len(found["runs"]) != 10:
        raise SystemExit(f"{len(found['runs'])} runs found, not 10")


KINDS = {
    "log-metric": _log_metric,
    "log-batch(100)": _log_batch,
    "create-run": _create_run,
    "search-runs": _search_runs,
}


def send(kind: str, connections: int, experiment: str, addresses: list[str]) -> tuple[float, float, float]:
    """Send one kind of request on so many connections for `SECONDS`: rate, p50 and p99 in ms. Connections
    are dealt out to the addresses in turn, as a Service does."""
    took: list[float] = []

    def work(bare: Bare) -> None:
        run = _run(bare, "0")
        ready.wait()
        i, end = 0, time.perf_counter() + SECONDS
        while (began := time.perf_counter()) < end:
            KINDS[kind](bare, experiment, run, i)
            took.append(time.perf_counter() - began)
            i += 1

    ready = threading.Barrier(connections + 1)
    bares = _clients([addresses[i % len(addresses)] for i in range(connections)])
    threads = [threading.Thread(target=work, args=(bare,)) for bare in bares]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - began
    took.sort()
    return len(took) / elapsed, 1000 * took[len(took) // 2], 1000 * took[int(len(took) * 0.99)]


if __name__ == "__main__":
    print(json.dumps(send(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4:])))
