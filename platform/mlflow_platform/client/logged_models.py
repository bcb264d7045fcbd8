"""Logged models through the spool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import _validate_logged_model_name

from mlflow_platform.client.ids import new_model
from mlflow_platform.client.sending import Sender, logs


class LoggedModels(Sender):
    """Their part of the store."""

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Sequence[Any] | None = None,
        params: Sequence[Any] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
        if self.strict:
            _validate_logged_model_name(name)
        model_id = new_model()
        name = name or _generate_random_name()
        now = get_current_time_millis()
        self._send(
            "create_model",
            model=model_id,
            experiment=str(experiment_id),
            name=name,
            run=source_run_id,
            tags=[[t.key, t.value] for t in tags or ()],
            params=[[p.key, p.value] for p in params or ()],
            type=model_type,
        )
        # What is not there is an empty text where it comes over HTTP.
        absent = "" if self.server.remote else None
        model = LoggedModel(
            experiment_id=str(experiment_id),
            model_id=model_id,
            name=name,
            artifact_location=f"{self._location(str(experiment_id))}/models/{model_id}/artifacts",
            creation_timestamp=now,
            last_updated_timestamp=now,
            model_type=model_type or absent,
            source_run_id=source_run_id or absent,
            status=LoggedModelStatus.PENDING,
            status_message=absent,
            tags=list(tags or ()),
            params=list(params or ()),
            metrics=[],
        )
        self.shadows.add_model(model)
        return model

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> LoggedModel:
        # MLflow looks a model up before it logs to it: one of this process is not asked for.
        if (shadow := self.shadows.model(model_id)) is not None:
            return shadow
        return self.server.call("get_logged_model", (model_id,), {"allow_deleted": allow_deleted})

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        self._send("finalize_model", model=model_id, status=LoggedModelStatus(status).value)
        shadow = self.shadows.model(model_id)
        if shadow is None:
            return self.get_logged_model(model_id)
        return self._change_model(shadow, status=LoggedModelStatus(status))

    @logs
    def set_logged_model_tags(self, model_id: str, tags: Sequence[Any]) -> None:
        self._send("set_model_tags", model=model_id, tags=[[t.key, t.value] for t in tags])
        if (shadow := self.shadows.model(model_id)) is not None:
            self._change_model(shadow, tags={**shadow.tags, **{t.key: t.value for t in tags}})

    @logs
    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        self._send("delete_model_tag", model=model_id, key=key)
        if (shadow := self.shadows.model(model_id)) is not None:
            self._change_model(shadow, tags={k: v for k, v in shadow.tags.items() if k != key})

    @logs
    def log_logged_model_params(self, model_id: str, params: Sequence[Any]) -> None:
        self._send("log_model_params", model=model_id, params=[[p.key, p.value] for p in params])
        if (shadow := self.shadows.model(model_id)) is not None:
            self._change_model(shadow, params={**shadow.params, **{p.key: p.value for p in params}})

    def _change_model(self, model: LoggedModel, **values: Any) -> LoggedModel:
        changed = LoggedModel(
            **{
                "experiment_id": model.experiment_id,
                "model_id": model.model_id,
                "name": model.name,
                "artifact_location": model.artifact_location,
                "creation_timestamp": model.creation_timestamp,
                "last_updated_timestamp": get_current_time_millis(),
                "model_type": model.model_type,
                "source_run_id": model.source_run_id,
                "status": model.status,
                "status_message": model.status_message,
                "tags": model.tags,
                "params": model.params,
                "metrics": model.metrics,
                **values,
            }
        )
        self.shadows.add_model(changed)
        return changed
