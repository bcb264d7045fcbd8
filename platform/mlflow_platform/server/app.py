"""The application that servers run: MLflow's with logins, behind the probes and the drain."""

from __future__ import annotations

import os

from mlflow_platform.server import concurrency, draining
from mlflow_platform.server.auth import accept_previous_password
from mlflow_platform.server.draining import Application
from mlflow_platform.server.probes import DatabaseProbe, with_probes


def create_app() -> Application:
    """For uvicorn, by the entry point `mlflow.app`; `mlflow server --app-name mlplatform` runs it too."""
    from mlflow.server.auth import create_app as create_mlflow_app
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR

    accept_previous_password()
    database = DatabaseProbe(os.environ.get(BACKEND_STORE_URI_ENV_VAR, ""))
    return draining.wrap(concurrency.limit(with_probes(create_mlflow_app(), database)))
