"""Retention runs that kill themselves with SIGKILL at their n-th step.

    python -m tests.faults.dying_retention

reads lines of JSON: {"point": N, "policies": [...], "database": URI, "store": {...}}, carries each out in a
process forked for it, with a store whose clock is past the grace of orphans, and answers with
{"code": C, "steps": [names]}. One program for all of them: to start it costs seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any

import boto3  # noqa: F401 - loaded once, before the forks
import psycopg  # noqa: F401 - likewise

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import Roots
from tests.retention.conftest import Later


def carry_out(order: dict[str, Any], answer: int) -> None:
    """In the forked process: one run, its steps written to `answer` as they come."""
    left = order["point"]

    def step(name: str) -> None:
        nonlocal left
        os.write(answer, f"{name}\n".encode())
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    store = Later(order["store"]["uri"], S3Login(**order["store"]["login"]))
    policies = [RetentionPolicy.model_validate(p) for p in order["policies"]]
    report = Engine(Database(order["database"]), Roots(store), step=step).run(policies)
    if report.problems:
        raise SystemExit("; ".join(report.problems))


def main(carry_out: Callable[[dict[str, Any], int], None] = carry_out) -> None:
    for line in sys.stdin:
        order = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            try:
                carry_out(order, writing)
            except BaseException:  # noqa: BLE001 - told, and the process ends
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as stream:
            steps = stream.read().splitlines()
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        print(json.dumps({"code": code, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
