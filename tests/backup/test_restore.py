"""The runbook of docs/backup.md, as it stands there, on a platform under the load of 20 clients."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import urllib3

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import PlatformError
from mlflow_platform.local import Stack

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "backup.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
CLIENTS = 20


@dataclass
class Written:
    """A run that the server has acknowledged with all that is in it, and when."""

    run: str
    artifact: str
    content: bytes
    at: float


@dataclass
class Load:
    """Clients that log runs with params, metrics and an artifact, one after the other."""

    stack: Stack
    experiment: str
    written: list[Written] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    stopped: threading.Event = field(default_factory=threading.Event)

    def client(self, number: int) -> None:
        where = self.stack.endpoints()
        api = MlflowApi(where.tracking_uri, where.username, where.password)
        try:
            for n in range(10_000):
                if self.stopped.is_set():
                    return
                self.written.append(self._write(api, f"{number}-{n}"))
        except PlatformError as error:
            self.errors.append(error)

    def _write(self, api: MlflowApi, name: str) -> Written:
        info = api.call(
            "POST",
            "api/2.0/mlflow/runs/create",
            json={"experiment_id": self.experiment, "run_name": name, "start_time": 1},
        )["run"]["info"]
        metrics = [{"key": "m", "value": float(i), "timestamp": 1, "step": i} for i in range(10)]
        api.call(
            "POST",
            "api/2.0/mlflow/runs/log-batch",
            json={"run_id": info["run_id"], "metrics": metrics, "params": [{"key": "p", "value": name}]},
        )
        key = f"{info['artifact_uri'].removeprefix('mlflow-artifacts:/')}/model.bin"
        content = name.encode() * 500
        put(self.stack, key, content)
        return Written(info["run_id"], key, content, time.monotonic())


def put(stack: Stack, key: str, content: bytes) -> None:
    answer = artifact(stack, "PUT", key, content)
    assert answer.status == 200, answer.data


def artifact(stack: Stack, method: str, key: str, content: bytes | None = None) -> urllib3.BaseHTTPResponse:
    where = stack.endpoints()
    return urllib3.request(
        method,
        f"{where.tracking_uri}/api/2.0/mlflow-artifacts/artifacts/{key}",
        body=content,
        headers=urllib3.make_headers(basic_auth=f"{where.username}:{where.password}"),
        timeout=60,
    )


@contextmanager
def under_load(stack: Stack, experiment: str) -> Iterator[Load]:
    load = Load(stack, experiment)
    threads = [threading.Thread(target=load.client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()


def shell(block: str, folder: Path) -> str:
    """One block of the page, as somebody at a terminal in this folder would run it."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_", "PG"))}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],  # noqa: S607
        cwd=folder,
        env={**clean, "PATH": f"{Path(sys.executable).parent}:{clean['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder with a stack in it, as `mlplatform up` makes it."""
    stack = Stack(tmp_path / ".mlplatform")
    try:
        stack.up(port=0)
        yield tmp_path
    finally:
        stack.reset()


def test_the_runbook_brings_back_every_acknowledged_write(home: Path) -> None:
    stack = Stack(home / ".mlplatform")
    where = stack.endpoints()
    api = MlflowApi(where.tracking_uri, where.username, where.password)
    experiment = api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": "load"})["experiment_id"]
    api.call("POST", "api/2.0/mlflow/users/create", json={"username": "ada", "password": "her own password"})
    api.call(
        "POST",
        "api/3.0/mlflow/users/permissions/grant",
        json={
            "username": "ada",
            "resource_type": "experiment",
            "resource_id": experiment,
            "permission": "READ",
        },
    )
    create, lose, restore = BLOCKS
    with under_load(stack, experiment) as load:
        while len(load.written) < 2 * CLIENTS:
            assert not load.errors
            time.sleep(0.05)
        point = time.monotonic()
        shell(create, home)
        after = len(load.written)
    assert not load.errors
    before = [w for w in load.written if w.at < point]
    assert len(before) >= 2 * CLIENTS
    assert after > len(before)  # it served meanwhile

    shell(lose, home)
    assert "restored" in shell(restore, home)

    new = stack.endpoints()
    assert new.password != where.password
    api = MlflowApi(new.tracking_uri, new.username, new.password)
    for one in before:
        found = api.call("GET", "api/2.0/mlflow/runs/get", params={"run_id": one.run})["run"]
        assert found["info"]["experiment_id"] == experiment
        assert [(m["key"], m["value"], int(m["step"])) for m in found["data"]["metrics"]] == [("m", 9.0, 9)]
        answer = artifact(stack, "GET", one.artifact)
        assert (answer.status, answer.data) == (200, one.content)
    # The administrator is the new platform's; others are as they were, and what was granted is.
    with pytest.raises(PlatformError):
        MlflowApi(new.tracking_uri, where.username, where.password).call(
            "GET", "api/2.0/mlflow/users/current"
        )
    ada = MlflowApi(new.tracking_uri, "ada", "her own password")
    assert ada.call("GET", "api/2.0/mlflow/experiments/get", params={"experiment_id": experiment})
    # It goes on: new runs, in new experiments that nobody has been granted before.
    fresh = api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": "new"})["experiment_id"]
    assert int(fresh) > int(experiment)
    with pytest.raises(PlatformError):
        ada.call("GET", "api/2.0/mlflow/experiments/get", params={"experiment_id": fresh})
