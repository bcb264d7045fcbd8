"""Idempotent creation on the platform's servers: a run or logged model has the id that its client made up.

Clients send it as the tag `mlplatform.id`. A create that is repeated, because its answer was lost, returns
what is there. Registered as MLflow's tracking store for `postgresql` and `sqlite` (entry point group
`mlflow.tracking_store`), so it is in force wherever this package is installed beside `mlflow server`; a
create without the tag is MLflow's own. The same class writes metrics faster (metrics.py).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from functools import cache
from typing import Any

#: The tag with the client's id; it is not stored. `client/ids.py` has the same: neither imports the other.
ID_TAG = "mlplatform.id"
#: Set by `mlflow server` (mlflow/server/constants.py, READ_REPLICA_BACKEND_STORE_URI_ENV_VAR; importing that
#: imports the whole server).
_READ_REPLICA = "_MLFLOW_SERVER_READ_REPLICA_BACKEND_STORE"
_HEX = re.compile(r"[0-9a-f]{32}")
#: The id that MLflow's next uuid4() of this context is to be.
_given: ContextVar[uuid.UUID | None] = ContextVar("_given", default=None)


class _Uuids:
    """The module `uuid` as MLflow's SQL store sees it. It makes up ids in the middle of `create_run` and
    `create_logged_model`, which take none."""

    def __getattr__(self, name: str) -> Any:
        return getattr(uuid, name)

    @staticmethod
    def uuid4() -> uuid.UUID:
        given = _given.get()
        _given.set(None)
        return given or uuid.uuid4()


def tracking_store(store_uri: str, artifact_uri: str | None = None) -> Any:
    """MLflow's SQL store, workspace-aware where workspaces are on, that takes clients' ids."""
    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.store.tracking import DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH
    from mlflow.tracking._tracking_service.utils import _SERVER_ARTIFACT_ROOT_ENV_VAR

    # As both of MLflow's own factories do (tracking/_tracking_service/utils.py, server/handlers.py).
    if artifact_uri is None:
        artifact_uri = os.environ.get(_SERVER_ARTIFACT_ROOT_ENV_VAR, DEFAULT_LOCAL_FILE_AND_ARTIFACT_PATH)
    replica = os.environ.get(_READ_REPLICA)
    options = {"read_db_uri": replica} if replica else {}  # an older MLflow does not know it
    return _store_class(MLFLOW_ENABLE_WORKSPACES.get())(store_uri, artifact_uri, **options)


@cache
def _store_class(workspaces: bool) -> Any:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS
    from mlflow.store.db.db_types import POSTGRES
    from mlflow.store.tracking import sqlalchemy_store

    from mlflow_platform.server.metrics import write

    if workspaces:
        from mlflow.store.tracking.sqlalchemy_workspace_store import WorkspaceAwareSqlAlchemyStore as Store
    else:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as Store
    sqlalchemy_store.uuid = _Uuids()

    class PlatformStore(Store):  # type: ignore[misc] # MLflow has no types
        def _log_metrics_once(self, run_id: str, metrics: Sequence[Any]) -> None:
            if self.db_type == POSTGRES:
                write(self, run_id, metrics)
            else:
                super()._log_metrics_once(run_id, metrics)

        def create_run(
            self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[Any], run_name: str
        ) -> Any:
            own, tags = _split(tags)
            return self._once(
                own,
                lambda: super(PlatformStore, self).create_run(
                    experiment_id, user_id, start_time, tags, run_name
                ),
                lambda: self.get_run(str(own)),
                lambda run: run.info.experiment_id,
                experiment_id,
            )

        def create_logged_model(
            self,
            experiment_id: str,
            name: str | None = None,
            source_run_id: str | None = None,
            tags: Sequence[Any] | None = None,
            params: Sequence[Any] | None = None,
            model_type: str | None = None,
        ) -> Any:
            own, tags = _split(tags or ())
            create = super().create_logged_model
            return self._once(
                own.removeprefix("m-") if own else None,
                lambda: create(experiment_id, name, source_run_id, tags, params, model_type),
                lambda: self.get_logged_model(str(own), allow_deleted=True),
                lambda model: model.experiment_id,
                experiment_id,
            )

        def _once(
            self,
            own: str | None,
            create: Callable[[], Any],
            find: Callable[[], Any],
            experiment_of: Callable[[Any], str],
            experiment_id: str,
        ) -> Any:
            if own is None:
                return create()
            if not _HEX.fullmatch(own):
                raise MlflowException.invalid_parameter_value(f"{ID_TAG} is not an id: {own[:40]!r}")
            _given.set(uuid.UUID(hex=own))
            try:
                return create()
            except MlflowException as error:
                try:
                    found = find()
                except MlflowException:
                    raise error from None
                # Whoever may create in one experiment may not look into another by naming what is in it.
                if str(experiment_of(found)) != str(experiment_id):
                    raise MlflowException(f"the id {own} is taken", RESOURCE_ALREADY_EXISTS) from None
                return found
            finally:
                _given.set(None)

    return PlatformStore


def _split(tags: Sequence[Any]) -> tuple[str | None, list[Any]]:
    """The client's id, and the tags without it."""
    own = next((t.value for t in tags if t.key == ID_TAG), None)
    return own, [t for t in tags if t.key != ID_TAG]
