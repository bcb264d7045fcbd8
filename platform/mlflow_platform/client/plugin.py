"""MLflow's entry points: what MLflow calls for a `durable+...` URI. Nothing is imported before it does."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow_platform.client.store import DurableStore

PREFIX = "durable+"
_OF_DATABRICKS = re.compile(r"mlflow\.tracking\..*\.databricks_")


def tracking_store(
    store_uri: str,
    artifact_uri: str | None = None,  # noqa: ARG001 - MLflow's signature
) -> DurableStore:
    """The tracking store for a durable URI (entry point group `mlflow.tracking_store`)."""
    # Before the trace exporter reads it: its queue drops what is beyond 1,000 tasks and hides failures.
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = "false"
    from mlflow_platform.client.artifacts import wrap_registry
    from mlflow_platform.client.courier import Courier
    from mlflow_platform.client.spool import Spool
    from mlflow_platform.client.store import DurableStore

    wrap_registry()
    _ask_spark_only_where_it_runs()
    _ask_databricks_only_there()
    uri = plain(store_uri)
    spool, user = Spool.of(uri), os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    return DurableStore(uri, Courier(spool, lambda: spool.describe(uri, user)))


def _ask_spark_only_where_it_runs() -> None:
    """Each fluent call of MLflow imports pyspark, to ask a Spark session for the registry. Where it is not
    installed the import fails anew each time: 190 of the 250 microseconds of a `log_metric`, under a lock of
    Python's that a child forked meanwhile never gets. A program that has not imported it has no session."""
    from mlflow.tracking._model_registry import utils

    _ask_where_imported("pyspark", utils, "_get_registry_uri_from_spark_session", lambda: None)


def _ask_where_imported(package: str, module: Any, name: str, otherwise: Callable[[], Any]) -> None:
    """Have `otherwise` in place of a function of MLflow's that imports a package, until the program has."""
    original = getattr(module, name)
    if original.__module__ == __name__:
        return

    def asked() -> Any:
        return original() if package in sys.modules else otherwise()

    setattr(module, name, asked)


def _ask_databricks_only_there() -> None:
    """Each start of a run asks Databricks' notebook, job, cluster, command and repository for tags, and first
    tries nine times to import what only its runtime has: three quarters of `start_run`, under that lock. And
    twice IPython, for Databricks' `dbutils` and a notebook's name: what runs in it has imported it."""
    from mlflow.tracking.context import jupyter_notebook_context
    from mlflow.tracking.context import registry as contexts
    from mlflow.tracking.default_experiment import registry as experiments
    from mlflow.tracking.request_header import registry as headers
    from mlflow.utils import databricks_utils

    if databricks_utils.is_in_databricks_runtime():
        return

    def no_dbutils() -> None:
        raise databricks_utils._NoDbutilsError

    _ask_where_imported("IPython", databricks_utils, "_get_dbutils", no_dbutils)
    notebooks = (jupyter_notebook_context, "is_running_in_ipython_environment")
    _ask_where_imported("IPython", *notebooks, lambda: False)
    for registry in (
        contexts._run_context_provider_registry,
        experiments._default_experiment_provider_registry,
        headers._request_header_provider_registry,
    ):
        # MLflow's own only: other packages may have theirs.
        registry._registry[:] = [
            p for p in registry._registry if not _OF_DATABRICKS.match(type(p).__module__)
        ]


def registry_store(store_uri: str, **_: Any) -> Any:
    """The model registry for a durable URI (entry point group `mlflow.model_registry_store`): the server's,
    once what this process logged is there."""
    from mlflow.tracking._tracking_service.utils import _get_store

    from mlflow_platform.client.registry import DurableRegistry

    return DurableRegistry(_get_store(store_uri).server)


def workspace_store(workspace_uri: str) -> Any:
    """Workspaces for a durable URI (entry point group `mlflow.workspace_provider`): the server's own store.
    They are not logging: what is called raises when the server is away."""
    from mlflow.tracking._workspace.registry import get_workspace_store

    return get_workspace_store(plain(workspace_uri))


def plain(uri: str) -> str:
    """A durable URI as MLflow knows it. Paths become absolute: the shipper runs in another folder."""
    uri = uri.removeprefix(PREFIX)
    scheme, _, path = uri.partition(":")
    if scheme.startswith("sqlite") and path.startswith("///") and not path.startswith("////"):
        return f"{scheme}:///{Path(path[3:]).absolute()}"
    if scheme == "file" and not path.startswith("//"):
        return Path(path).absolute().as_uri()
    return uri.rstrip("/") if scheme in ("http", "https") else uri
