"""As `dying_retention`, for runs whose policies archive and for restores: {"archives": FOLDER} is where to,
and with {"restore": ID} that archive is restored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import boto3  # noqa: F401 - loaded once, before the forks
import psycopg  # noqa: F401 - likewise
import pyarrow.parquet  # noqa: F401 - likewise

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.archive import manifest
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.retained import Retained
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import Roots
from tests.faults.dying_runs import serve


def carry_out(order: dict[str, Any], step: Callable[[str], None]) -> None:
    database = Database(order["database"])
    roots = Roots(S3Store(order["store"]["uri"], S3Login(**order["store"]["login"])))
    store = FileStore(order["archives"])
    if "restore" in order:
        restore(database, roots, store, manifest.read(store, order["restore"]), step=step)
        return
    for policy in order["policies"]:
        policy["spec"]["archive"] = {"destination": store.uri}
    policies = [RetentionPolicy.model_validate(p) for p in order["policies"]]
    archiver = Retained(database, roots, {p.metadata.name: store for p in policies}, step=step)
    report = Engine(database, roots, step=step, archiver=archiver).run(policies)
    if report.problems:
        raise SystemExit("; ".join(report.problems))


if __name__ == "__main__":
    serve(carry_out)
