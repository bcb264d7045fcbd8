"""More requests at a time than a server has database connections."""

from __future__ import annotations

import threading
import uuid
from typing import Any

import pytest
import urllib3

from mlflow_platform.local import Stack
from mlflow_platform.server.concurrency import threads


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 14),
        ({"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "4", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "2"}, 5),
        ({"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "0"}, 10),
        ({"MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "1", "MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW": "1"}, 1),
    ],
)
def test_one_fewer_than_connections(environment: dict[str, str], expected: int) -> None:
    assert threads(environment) == expected


def test_batches_logged_all_at_once_do_not_wait_for_each_other_for_ever(stack: Stack) -> None:
    """Each holds a connection while it asks for another: without the limit they fail by the dozen."""
    environment = stack.endpoints().environment()
    login = f"{environment['MLFLOW_TRACKING_USERNAME']}:{environment['MLFLOW_TRACKING_PASSWORD']}"
    headers = urllib3.make_headers(basic_auth=login)
    clients, batches = 40, 5

    def post(pool: urllib3.PoolManager, path: str, **body: Any) -> urllib3.BaseHTTPResponse:
        uri = f"{environment['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/{path}"
        return pool.request("POST", uri, json=body, headers=headers, retries=False, timeout=60)

    with urllib3.PoolManager() as pool:
        name = f"concurrency-{uuid.uuid4().hex}"
        experiment = post(pool, "experiments/create", name=name).json()["experiment_id"]
        runs = [
            post(pool, "runs/create", experiment_id=experiment).json()["run"]["info"]["run_id"]
            for _ in range(clients)
        ]
    start = threading.Barrier(clients)
    answers: list[tuple[int, bytes]] = []

    def log(run: str) -> None:
        with urllib3.PoolManager() as own:
            start.wait()
            for step in range(batches):
                metrics = [{"key": f"m{i}", "value": 1, "step": step, "timestamp": step} for i in range(20)]
                answer = post(own, "runs/log-batch", run_id=run, metrics=metrics)
                answers.append((answer.status, answer.data))

    workers = [threading.Thread(target=log, args=[run]) for run in runs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert answers == [(200, b"{}")] * clients * batches
