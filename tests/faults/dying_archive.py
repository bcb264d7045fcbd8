"""As `dying_retention`, for runs whose policies archive and for restores: {"archives": FOLDER} is where to,
and with {"restore": ID} that archive is restored."""

from __future__ import annotations

import os
import signal
from typing import Any

import pyarrow.parquet  # noqa: F401 - loaded once, before the forks

from mlflow_platform.adapters.files import FileStore
from mlflow_platform.adapters.postgres import Database
from mlflow_platform.adapters.s3 import S3Login, S3Store
from mlflow_platform.archive import manifest
from mlflow_platform.archive.restore import restore
from mlflow_platform.archive.retained import Retained
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.retention.engine import Engine
from mlflow_platform.retention.roots import Roots
from tests.faults.dying_retention import main


def carry_out(order: dict[str, Any], answer: int) -> None:
    """In the forked process."""
    left = order["point"]

    def step(name: str) -> None:
        nonlocal left
        os.write(answer, f"{name}\n".encode())
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

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
    main(carry_out)
