"""The embedded stack: Postgres and S3 from wheels, MLflow with basic authentication.

`Stack` starts, stops and describes it. One detached supervisor process (`supervisor`) owns the
servers; everything they write is in one folder (`folder`), which survives crashes and reboots.
"""

from mlflow_platform.local.stack import Endpoints, Stack, Status

__all__ = ["Endpoints", "Stack", "Status"]
