"""Runs the application in this process: `python -m mlflow_platform.server.serve --host 0.0.0.0 --port 5000`.

`mlflow server` is two processes: one reads options, then starts uvicorn as another, and stays, with all of
MLflow in its memory a second time. It would also start the job runner, which the platform has in one place
only (chart: server.yaml.j2). So what it does is done here: MLflow's public variables become the private ones
that its application reads, its stores are opened, and this process becomes uvicorn.

Arguments are uvicorn's own, after those of the variable MLFLOW_UVICORN_OPTS. Where a variable is missing or
MLflow cannot start, one line says so and the exit code is 1.
"""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from pathlib import Path

from mlflow_platform.errors import BadInput, PlatformError
from mlflow_platform.server.probes import connect_arguments

#: Public variable (mlflow/utils/cli_args.py, options of `mlflow server`) -> the private one that the
#: application reads (mlflow/server/constants.py).
PRIVATE = {
    "MLFLOW_BACKEND_STORE_URI": "_MLFLOW_SERVER_FILE_STORE",
    "MLFLOW_READ_REPLICA_BACKEND_STORE_URI": "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE",
    "MLFLOW_REGISTRY_STORE_URI": "_MLFLOW_SERVER_REGISTRY_STORE",
    "MLFLOW_DEFAULT_ARTIFACT_ROOT": "_MLFLOW_SERVER_ARTIFACT_ROOT",
    "MLFLOW_ARTIFACTS_DESTINATION": "_MLFLOW_SERVER_ARTIFACT_DESTINATION",
    "MLFLOW_STATIC_PREFIX": "_MLFLOW_STATIC_PREFIX",
    "MLFLOW_EXPOSE_PROMETHEUS": "prometheus_multiproc_dir",
}
#: What `mlflow server` sets whatever it is told (mlflow/server/__init__.py, `_run_server`), and what it
#: takes where nothing is said (mlflow/store/tracking/__init__.py, DEFAULT_ARTIFACTS_URI).
FIXED = {
    "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
    "_MLFLOW_SGI_NAME": "uvicorn",
    "_MLFLOW_IN_JOB_EXECUTOR": "false",
}
DEFAULT_ARTIFACT_ROOT = "mlflow-artifacts:/"

APPLICATION = "mlflow_platform.server.app:create_app"


def main(arguments: list[str]) -> None:
    """Serve until told to stop. `arguments` are uvicorn's."""
    os.environ.update(private_environment())
    # Only now: MLflow reads many of these while it is imported.
    import uvicorn.main
    from mlflow import server
    from mlflow.exceptions import MlflowException
    from mlflow.server.handlers import initialize_backend_stores

    environment = os.environ
    try:
        initialize_backend_stores(
            environment[PRIVATE["MLFLOW_BACKEND_STORE_URI"]],
            environment.get(PRIVATE["MLFLOW_REGISTRY_STORE_URI"]),
            environment[PRIVATE["MLFLOW_DEFAULT_ARTIFACT_ROOT"]],
            workspace_store_uri=environment.get("MLFLOW_WORKSPACE_STORE_URI"),
            read_replica_backend_store_uri=environment.get(PRIVATE["MLFLOW_READ_REPLICA_BACKEND_STORE_URI"]),
        )
    except MlflowException as error:
        raise BadInput(f"MLflow cannot open its stores: {error.message}") from error
    log_config = Path(server.__file__).with_name("uvicorn_log_config.yaml")
    options = ["--loop", "uvloop", "--log-config", str(log_config)]
    options += shlex.split(environment.get("MLFLOW_UVICORN_OPTS", ""))
    uvicorn.main.main([*options, *arguments, "--factory", APPLICATION])


def private_environment() -> dict[str, str]:
    """The variables that MLflow's application reads, from those of this process."""
    found = {private: os.environ[public] for public, private in PRIVATE.items() if os.environ.get(public)}
    if "_MLFLOW_SERVER_FILE_STORE" not in found:
        raise BadInput(
            "MLFLOW_BACKEND_STORE_URI is not set",
            remedy="name the tracking database: postgresql+psycopg://HOST/DATABASE",
        )
    connect_arguments(found["_MLFLOW_SERVER_FILE_STORE"])
    found.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", DEFAULT_ARTIFACT_ROOT)
    return {**found, **FIXED, "_MLFLOW_SERVER_BOOT_ID": uuid.uuid4().hex}


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except PlatformError as error:
        sys.exit(f"error: {error}")
