"""What a load was told is written, against what the server holds afterwards; and the load's figures."""

from __future__ import annotations

import base64
import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import urllib3

from tests.cluster.logging_load import Record


@dataclass
class Server:
    """MLflow's API as its administrator sees it, over a Service's address."""

    address: str
    host: str
    login: tuple[str, str]

    def __post_init__(self) -> None:
        self._pool = urllib3.PoolManager(timeout=60, retries=False)
        token = base64.b64encode(":".join(self.login).encode()).decode()
        self._headers = {"host": self.host, "authorization": f"Basic {token}"}

    def ask(self, method: str, path: str, **body: Any) -> Any:
        """The JSON of an API call; parameters of a GET go into the address."""
        extra: dict[str, Any] = {"fields": body} if method == "GET" else {"json": body}
        answer = self._pool.request(
            method,
            f"http://{self.address}:5000/api/2.0/mlflow/{path}",
            headers=dict(self._headers),
            **extra,
        )
        assert answer.status == 200, f"{path}: HTTP {answer.status} {answer.data[:300]!r}"
        return answer.json()

    def artifact(self, experiment: str, run: str, name: str) -> bytes | None:
        path = f"/api/2.0/mlflow-artifacts/artifacts/{experiment}/{run}/artifacts/{name}"
        answer = self._pool.request("GET", f"http://{self.address}:5000{path}", headers=self._headers)
        return answer.data if answer.status == 200 else None

    def runs(self, experiment: str) -> list[dict[str, Any]]:
        """Every run with its tags and params."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = self.ask(
                "POST", "runs/search", experiment_ids=[experiment], max_results=1000, page_token=token
            )
            found += page.get("runs", [])
            token = page.get("next_page_token", "")
            if not token:
                return found

    def history(self, run: str, key: str) -> list[tuple[int, float]]:
        """(step, value) of each point of a metric."""
        found = self.ask("GET", "metrics/get-history", run_id=run, metric_key=key, max_results=25000)
        return [(int(m["step"]), float(m["value"])) for m in found.get("metrics", [])]


@dataclass
class Written:
    """What one run was sent: acknowledged (`sure`), or perhaps there (`open`)."""

    metrics: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    open_metrics: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    status: str | None = None


def differences(records: Iterable[Record], server: Server, experiment: str, *, retried: bool) -> list[str]:
    """What was acknowledged and is not there, or is there twice, or was never sent; empty if all is well.

    A create that was not acknowledged may have made its run; where clients send a request again after that
    (`retried`), more than one.
    """
    sure, names, unsure = _expected(records)
    problems: list[str] = []
    held: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in server.runs(experiment):
        held[run["info"]["run_name"]].append(run)
    for name, runs in held.items():
        if name not in names and name not in unsure:
            problems.append(f"{name}: nobody made it")
        if len(runs) > 1 and not (retried and name in unsure):
            problems.append(f"{name}: there {len(runs)} times")
    by_id = {run["info"]["run_id"]: run for runs in held.values() for run in runs}
    for name, identity in names.items():
        if identity not in by_id:
            problems.append(f"{name}: run {identity} is lost")
        else:
            wanted = sure.get(identity, Written())
            problems += [
                f"{name}: {p}" for p in _run_differences(wanted, by_id[identity], server, experiment)
            ]
    return problems


def _expected(records: Iterable[Record]) -> tuple[dict[str, Written], dict[str, str], set[str]]:
    """Writes by run, ids of acknowledged runs by name, names of those not acknowledged."""
    runs: dict[str, Written] = defaultdict(Written)
    names: dict[str, str] = {}
    unsure: set[str] = set()
    for record in records:
        wrote, acknowledged = record["wrote"], "error" not in record
        if record["call"] == "create":
            if acknowledged:
                names[wrote["name"]] = wrote["run"]
            else:
                unsure.add(wrote["name"])
            continue
        run = runs[wrote["run"]]
        for key, step, value in wrote.get("metrics", []):
            (run.metrics if acknowledged else run.open_metrics)[key][step] = value
        if acknowledged:
            run.params |= wrote.get("params", {})
            run.tags |= wrote.get("tags", {})
            run.status = wrote.get("status", run.status)
            if "artifact" in wrote:
                run.artifacts[wrote["artifact"]] = wrote["sha256"]
    return runs, names, unsure


def _run_differences(
    wanted: Written, found: dict[str, Any], server: Server, experiment: str
) -> Iterable[str]:
    run, data = found["info"]["run_id"], found["data"]
    for what, sent in (("params", wanted.params), ("tags", wanted.tags)):
        there = {entry["key"]: entry["value"] for entry in data.get(what, [])}
        yield from (
            f"{what[:-1]} {k} is {there.get(k)!r}, not {v!r}" for k, v in sent.items() if there.get(k) != v
        )
    if wanted.status is not None and found["info"]["status"] != wanted.status:
        yield f"status is {found['info']['status']}, not {wanted.status}"
    for key in wanted.metrics.keys() | wanted.open_metrics.keys():
        points = server.history(run, key)
        there_steps = dict(points)
        if len(there_steps) != len(points):
            yield f"metric {key}: {len(points) - len(there_steps)} steps are there twice"
        yield from (
            f"metric {key}: step {step} is {there_steps.get(step)!r}, not {value!r}"
            for step, value in wanted.metrics[key].items()
            if there_steps.get(step) != value
        )
        unsent = there_steps.keys() - wanted.metrics[key].keys() - wanted.open_metrics[key].keys()
        yield from (f"metric {key}: step {step} was never sent" for step in unsent)
    for name, digest in wanted.artifacts.items():
        content = server.artifact(experiment, run, name)
        if content is None:
            yield f"artifact {name} is lost"
        elif hashlib.sha256(content).hexdigest() != digest:
            yield f"artifact {name} has another content ({len(content)} bytes)"


def failures(records: Iterable[Record]) -> list[str]:
    return [
        f"client {r['client']}, {r['call']} at {r['at']:.2f}: {r['error']}" for r in records if "error" in r
    ]


def figures(records: list[Record]) -> str:
    """Requests, failed ones, and the acknowledged ones' p50 and p99 in milliseconds, in a line."""
    took = sorted(r["took"] * 1000 for r in records if "error" not in r)
    if not took:
        return f"{len(records)} requests, none answered"
    p50, p99 = (took[min(len(took) - 1, math.ceil(len(took) * q) - 1)] for q in (0.5, 0.99))
    return f"{len(records)} requests, {len(records) - len(took)} failed, p50 {p50:.0f} ms, p99 {p99:.0f} ms"
