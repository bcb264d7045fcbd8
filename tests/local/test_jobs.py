"""Background jobs with a real Redis: taken by one server, run beside another one."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3

from mlflow_platform.local import Stack
from tests.served import MLFLOW_SERVER, environment_of, free_port, serving, until

#: A scorer as clients send it; the job finds no trace before it would use it.
SCORER = {
    "name": "fluency",
    "mlflow_version": "3.17.2",
    "serialization_version": 1,
    "builtin_scorer_class": "Fluency",
    "builtin_scorer_pydantic_data": {"name": "fluency"},
}
JOB = {
    "job_name": "invoke_scorer",
    "params": {"experiment_id": "0", "serialized_scorer": json.dumps(SCORER), "trace_ids": ["tr-none"]},
}


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """The address of a Redis that asks for a password."""
    program = shutil.which("redis-server")
    assert program, "needs the program redis-server: apt-get install redis-server"
    port = free_port()
    config = f"port {port}\nbind 127.0.0.1\nsave ''\nrequirepass p@ss\n"
    server = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert server.stdin is not None
    with server.stdin as stdin:
        stdin.write(config)
    yield f"redis://:p%40ss@127.0.0.1:{port}/0"
    server.terminate()
    server.wait(10)


@pytest.mark.soak
def test_a_job_that_one_server_takes_is_run_beside_another(stack: Stack, redis: str, tmp_path: Path) -> None:
    environment = {
        **environment_of(stack),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "true",
        "MLFLOW_SERVER_JOB_HUEY_REDIS_URL": redis,
    }
    runner = tmp_path / "runner"
    runner.mkdir()
    with serving(stack, tmp_path, environment) as server:

        def job(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
            status, answer = server.ask(
                method, f"/ajax-api/3.0/jobs/{path}", json.dumps(body) if body else None
            )
            assert status == 200, answer
            found: dict[str, Any] = json.loads(answer)
            return found

        taken = job("POST", "", JOB)
        assert taken["status"] == "PENDING"
        time.sleep(2)
        assert job("GET", taken["job_id"])["status"] == "PENDING"  # nobody runs jobs in this process
        with serving(stack, runner, environment, MLFLOW_SERVER):
            until(lambda: job("GET", taken["job_id"])["status"] not in ("PENDING", "RUNNING"), 180)
        ran = job("GET", taken["job_id"])
    # It ran: the code of the job has looked for the trace in the database.
    assert ran["status"] == "FAILED"
    assert "Traces not found: ['tr-none']" in str(ran["error_message"] or ran["result"])
    assert "p@ss" not in (tmp_path / "log").read_text() + (runner / "log").read_text()


def test_where_jobs_are_off_the_answer_says_so(stack: Stack) -> None:
    endpoints = stack.endpoints()
    answer = urllib3.request(
        "POST",
        f"{endpoints.tracking_uri}/ajax-api/3.0/jobs/",
        json=JOB,
        headers=urllib3.make_headers(basic_auth=f"{endpoints.username}:{endpoints.password}"),
        retries=False,
        timeout=60,  # the server's first request of this kind imports much
    )
    assert answer.status == 500
    assert "job execution feature is not enabled" in answer.json()["detail"]
