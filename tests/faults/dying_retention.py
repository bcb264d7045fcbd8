"""Retention runs for `tests.faults.dying_runs`: {"policies": [...], "database": URI, "store": {...}}, with a
store whose clock is past the grace of orphans."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3  # noqa: F401 - loaded once, before the forks
import psycopg  # noqa: F401 - likewise

from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import Roots
from tests.faults.dying_runs import serve
from tests.retention.conftest import Later


def carry_out(order: dict[str, Any], step: Callable[[str], None]) -> None:
    store = Later(order["store"]["uri"], S3Login(**order["store"]["login"]))
    policies = [RetentionPolicy.model_validate(p) for p in order["policies"]]
    report = Engine(Database(order["database"]), Roots(store), step=step).run(policies)
    if report.problems:
        raise SystemExit("; ".join(report.problems))


if __name__ == "__main__":
    serve(carry_out)
