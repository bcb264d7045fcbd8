"""The application that servers run: MLflow's with logins, behind the drain."""

from __future__ import annotations

from mlflow_platform.server.auth import accept_previous_password
from mlflow_platform.server.draining import Application, wrap


def create_app() -> Application:
    """For uvicorn, by the entry point `mlflow.app`."""
    from mlflow.server.auth import create_app as create_mlflow_app

    accept_previous_password()
    return wrap(create_mlflow_app())
