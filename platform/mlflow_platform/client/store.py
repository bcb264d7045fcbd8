"""MLflow's tracking store for `durable+<scheme>` URIs: what logs is appended to a spool and returns.

- Logging (metrics, params, tags, runs, inputs, models, traces, artifacts) never waits for the server and
  never raises; with `MLPLATFORM_STRICT` it raises what MLflow's own checks raise.
- Reading waits, at most ten seconds: for what this process logged to be delivered, then for the answer.
- Everything else (assessments, datasets, scorers, deleting experiments and traces, ...) is called on the
  server at once, as by MLflow itself, and raises when the server is away: it is not kept.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from mlflow.entities import (
    Experiment,
    LoggedModel,
    LoggedModelStatus,
    Run,
    RunInfo,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_metric,
    _validate_param,
    _validate_tag,
)
from mlflow.utils.workspace_context import get_request_workspace

from mlflow_platform.client.courier import Courier, RecordTooLarge, SpoolFull
from mlflow_platform.client.ids import is_placeholder, new_model, new_run, placeholder
from mlflow_platform.client.segments import Position
from mlflow_platform.client.server import Away, Server
from mlflow_platform.client.shadow import Experiments, RunShadow, Shadows, new_info
from mlflow_platform.client.spool import Record

#: Raise what MLflow raises for bad input, and when the spool is full.
STRICT = "MLPLATFORM_STRICT"
_RUN_NAME = "mlflow.runName"  # mlflow/utils/mlflow_tags.py
_SPANS_LOCATION = "mlflow.trace.spansLocation"  # mlflow/tracing/constant.py, TraceTagKey.SPANS_LOCATION
_ARTIFACT_LOCATION = "mlflow.artifactLocation"  # mlflow/utils/mlflow_tags.py
#: Seconds that `flush_async_logging` waits.
_FLUSH = 10.0

F = TypeVar("F", bound=Callable[..., Any])


def _logs(method: F) -> F:
    """A method that logs: an error is a warning, unless strict."""

    @functools.wraps(method)
    def logging(self: DurableStore, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            if self.strict:
                raise
            self.courier.warn(f"{method.__name__} was not logged: {type(error).__name__}: {error}")
            return None

    return logging  # type: ignore[return-value]


class DurableStore(AbstractStore):  # type: ignore[misc]
    """The store; `uri` is without `durable+`."""

    def __init__(self, uri: str, courier: Courier) -> None:
        super().__init__()
        self.courier = courier
        self.server = Server(uri, courier)
        self.strict = os.environ.get(STRICT, "").lower() in ("1", "true", "yes")
        self.shadows = Shadows(courier.spool)
        self.experiments = Experiments(courier.spool)
        #: What this process logged as artifacts: owner and path -> the copy in the spool.
        self.pending_artifacts: dict[str, str] = {}
        #: Where MLflow's file store keeps spans: it has no place for them of their own.
        self._spans_are_artifacts = uri.startswith("file:")

    def _send(self, op: str, **arguments: Any) -> Position | None:
        """Append a record; None where it was refused."""
        record: Record = {"op": op, **arguments}
        if workspace := get_request_workspace():
            record["w"] = workspace
        try:
            return self.courier.send(record)
        except (SpoolFull, RecordTooLarge) as error:
            if self.strict:
                raise MlflowException(f"{op} was not logged: {error}") from error
            self.courier.warn(f"the spool {self.courier.spool.root} takes no more records: {error}")
            return None

    # Runs

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[RunTag], run_name: str | None
    ) -> Run:
        values = {t.key: t.value for t in tags or ()}
        named = values.get(_RUN_NAME)
        if self.strict and run_name and named and run_name != named:
            raise MlflowException.invalid_parameter_value(
                f"run_name={run_name!r} and the tag {_RUN_NAME}={named!r} differ"
            )
        name = run_name or named or _generate_random_name()
        values.setdefault(_RUN_NAME, name)
        experiment_id = str(experiment_id)
        run_id = new_run()
        uri = f"{self._location(experiment_id)}/{run_id}/artifacts"
        info = new_info(run_id, experiment_id, user_id, start_time, uri, name)
        shadow = RunShadow(info, values)
        self.shadows.add_run(shadow)
        shadow.position = self._send(
            "create_run",
            run=run_id,
            experiment=experiment_id,
            user=user_id,
            start=start_time,
            tags=list(values.items()),
            name=name,
        )
        return shadow.entity()

    def get_run(self, run_id: str) -> Run:
        shadow = self.shadows.run(run_id)
        if shadow is not None and (shadow.running or not self.courier.is_delivered(shadow.position)):
            return shadow.entity()
        if shadow is None:
            shadow = self.shadows.run_of_another(run_id)
            if shadow is not None and self.server.away:
                return shadow.entity()
        try:
            return self.server.call("get_run", (run_id,), {})
        except MlflowException:
            # Away, or not there yet: its creation may still be on its way.
            if shadow is None:
                raise
            return shadow.entity()

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> RunInfo:
        position = self._send("update_run", run=run_id, status=run_status, end=end_time, name=run_name)
        shadow = self._logged(run_id, position)
        if shadow is None:
            shadow = self.shadows.run_of_another(run_id)
        if shadow is None:
            # MLflow's own callers do not look at it.
            return new_info(run_id, "", "", 0, "", run_name or "")
        return shadow.update(run_status, end_time, run_name)

    def _logged(self, run_id: str, position: Position | None) -> RunShadow | None:
        shadow = self.shadows.run(run_id)
        if shadow is not None and position is not None:
            shadow.position = position
        return shadow

    @_logs
    def log_metric(self, run_id: str, metric: Any) -> None:
        if self.strict:
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
        shadow = self._logged(run_id, self._send("log", run=run_id, m=[_metric(metric)]))
        if shadow is not None:
            shadow.log((metric,), (), ())
        if metric.model_id:
            self.shadows.log_to_models((metric,))

    @_logs
    def log_param(self, run_id: str, param: Any) -> None:
        if self.strict:
            param = _validate_param(param.key, param.value)
            self._check_params(run_id, [param])
        shadow = self._logged(run_id, self._send("log", run=run_id, p=[[param.key, param.value]]))
        if shadow is not None:
            shadow.log((), (param,), ())

    @_logs
    def set_tag(self, run_id: str, tag: Any) -> None:
        if self.strict:
            tag = _validate_tag(tag.key, tag.value)
        shadow = self._logged(run_id, self._send("log", run=run_id, t=[[tag.key, tag.value]]))
        if shadow is not None:
            shadow.log((), (), (tag,))

    @_logs
    def log_batch(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> None:
        if self.strict:
            metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
            self._check_params(run_id, params)
        parts = {
            "m": [_metric(m) for m in metrics],
            "p": [[p.key, p.value] for p in params],
            "t": [[t.key, t.value] for t in tags],
        }
        position = self._send("log", run=run_id, **{k: v for k, v in parts.items() if v})
        shadow = self._logged(run_id, position)
        if shadow is not None:
            shadow.log(metrics, params, tags)
        self.shadows.log_to_models(metrics)

    def _check_params(self, run_id: str, params: Sequence[Any]) -> None:
        shadow = self.shadows.run(run_id)
        for param in params:
            if shadow is not None and shadow.params.get(param.key, param.value) != param.value:
                raise MlflowException.invalid_parameter_value(
                    f"Changing param values is not allowed. Param with key={param.key!r} was already logged "
                    f"with value={shadow.params[param.key]!r} for run ID={run_id!r}. "
                    f"Attempted logging new value {param.value!r}."
                )

    def log_metric_async(self, run_id: str, metric: Any) -> RunOperations:
        self.log_metric(run_id, metric)
        return RunOperations([])

    def log_param_async(self, run_id: str, param: Any) -> RunOperations:
        self.log_param(run_id, param)
        return RunOperations([])

    def set_tag_async(self, run_id: str, tag: Any) -> RunOperations:
        self.set_tag(run_id, tag)
        return RunOperations([])

    def log_batch_async(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> RunOperations:
        self.log_batch(run_id, metrics, params, tags)
        return RunOperations([])

    def end_async_logging(self) -> None:
        """Nothing: there is no queue in memory."""

    def shut_down_async_logging(self) -> None:
        """Nothing: there is no queue in memory."""

    def flush_async_logging(self) -> None:
        """Wait, at most ten seconds, until everything of this process is delivered."""
        self.courier.drain(_FLUSH)

    @_logs
    def delete_tag(self, run_id: str, key: str) -> None:
        shadow = self._logged(run_id, self._send("delete_tag", run=run_id, key=key))
        if shadow is not None:
            shadow.tags.pop(key, None)

    @_logs
    def delete_run(self, run_id: str) -> None:
        shadow = self._logged(run_id, self._send("delete_run", run=run_id))
        if shadow is not None:
            shadow.stage("deleted")

    @_logs
    def restore_run(self, run_id: str) -> None:
        shadow = self._logged(run_id, self._send("restore_run", run=run_id))
        if shadow is not None:
            shadow.stage("active")

    @_logs
    def log_inputs(
        self, run_id: str, datasets: Sequence[Any] | None = None, models: Sequence[Any] | None = None
    ) -> None:
        position = self._send(
            "log_inputs",
            run=run_id,
            datasets=[d.to_dictionary() for d in datasets or ()],
            models=[m.model_id for m in models or ()],
        )
        shadow = self._logged(run_id, position)
        if shadow is not None:
            shadow.inputs += datasets or ()
            shadow.input_models += models or ()

    @_logs
    def log_outputs(self, run_id: str, models: Sequence[Any]) -> None:
        position = self._send("log_outputs", run=run_id, models=[[m.model_id, m.step] for m in models])
        shadow = self._logged(run_id, position)
        if shadow is not None:
            shadow.output_models += models

    @_logs
    def record_logged_model(self, run_id: str, mlflow_model: Any) -> None:
        self._logged(run_id, self._send("record_model", run=run_id, info=mlflow_model.to_dict()))

    # Experiments

    def get_experiment(self, experiment_id: str) -> Experiment:
        experiment_id = str(experiment_id)
        known = self.experiments.by_id(experiment_id)
        if known is not None and self.server.away:
            return known
        try:
            found = self.server.call("get_experiment", (experiment_id,), {})
        except Away:
            if known is None:
                raise
            return known
        except MlflowException:
            if not is_placeholder(experiment_id) or known is None:
                raise
            return known
        self.experiments.remember(found)
        return found

    def get_experiment_by_name(self, experiment_name: str) -> Experiment | None:
        known = self.experiments.by_name(experiment_name)
        if known is not None and self.server.away:
            return known
        try:
            found = self.server.call("get_experiment_by_name", (experiment_name,), {})
        except Away:
            return known
        if found is not None:
            self.experiments.remember(found)
        return found

    def create_experiment(
        self, name: str, artifact_location: str | None = None, tags: Sequence[Any] | None = None
    ) -> str:
        try:
            created: str = self.server.call("create_experiment", (name, artifact_location, tags), {})
        except Away:
            stand_in = placeholder(name)
            self._send(
                "create_experiment",
                experiment=stand_in,
                name=name,
                location=artifact_location,
                tags=[[t.key, t.value] for t in tags or ()],
            )
            location = artifact_location or f"{self._root}/{stand_in}"
            self.experiments.remember(Experiment(stand_in, name, location, "active", tags=list(tags or ())))
            return stand_in
        return created

    @_logs
    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        self._send("set_experiment_tag", experiment=str(experiment_id), key=tag.key, value=tag.value)

    @property
    def _root(self) -> str:
        """Where a server with proxied artifacts keeps them; what is logged goes where the server says."""
        return "mlflow-artifacts:" if self.server.remote else "mlruns"

    def _location(self, experiment_id: str) -> str:
        known = self.experiments.by_id(experiment_id)
        return known.artifact_location.rstrip("/") if known else f"{self._root}/{experiment_id}"

    # Logged models

    def create_logged_model(
        self,
        experiment_id: str,
        name: str | None = None,
        source_run_id: str | None = None,
        tags: Sequence[Any] | None = None,
        params: Sequence[Any] | None = None,
        model_type: str | None = None,
    ) -> LoggedModel:
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
        model = LoggedModel(
            experiment_id=str(experiment_id),
            model_id=model_id,
            name=name,
            artifact_location=f"{self._location(str(experiment_id))}/models/{model_id}/artifacts",
            creation_timestamp=now,
            last_updated_timestamp=now,
            model_type=model_type,
            source_run_id=source_run_id,
            status=LoggedModelStatus.PENDING,
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

    @_logs
    def set_logged_model_tags(self, model_id: str, tags: Sequence[Any]) -> None:
        self._send("set_model_tags", model=model_id, tags=[[t.key, t.value] for t in tags])
        if (shadow := self.shadows.model(model_id)) is not None:
            self._change_model(shadow, tags={**shadow.tags, **{t.key: t.value for t in tags}})

    @_logs
    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        self._send("delete_model_tag", model=model_id, key=key)
        if (shadow := self.shadows.model(model_id)) is not None:
            self._change_model(shadow, tags={k: v for k, v in shadow.tags.items() if k != key})

    @_logs
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
                "tags": model.tags,
                "params": model.params,
                "metrics": model.metrics,
                **values,
            }
        )
        self.shadows.add_model(changed)
        return changed

    # Traces

    def start_trace(self, trace_info: Any) -> Any:
        self._send("start_trace", trace=trace_info.trace_id, info=trace_info.to_dict())
        if self._spans_are_artifacts:
            location = {}
        else:
            location = {_SPANS_LOCATION: "TRACKING_STORE"}
        root = self._location(str(trace_info.experiment_id))
        location[_ARTIFACT_LOCATION] = f"{root}/traces/{trace_info.trace_id}/artifacts"
        # The exporter asks where spans and attachments go; without it, it would upload the spans.
        trace_info.tags.update({**location, **trace_info.tags})
        return trace_info

    def log_spans(self, location: str, spans: Sequence[Any], tracking_uri: str | None = None) -> Any:  # noqa: ARG002
        if self._spans_are_artifacts:
            raise NotImplementedError
        self._send("log_spans", experiment=str(location), spans=[s.to_dict() for s in spans])
        return spans

    @_logs
    def set_trace_tag(self, trace_id: str, key: str, value: str) -> None:
        self._send("set_trace_tag", trace=trace_id, key=key, value=value)

    @_logs
    def delete_trace_tag(self, trace_id: str, key: str) -> None:
        self._send("delete_trace_tag", trace=trace_id, key=key)

    @_logs
    def link_traces_to_run(self, trace_ids: list[str], run_id: str) -> None:
        self._send("link_traces", traces=list(trace_ids), run=run_id)

    @_logs
    def link_prompts_to_trace(self, trace_id: str, prompt_versions: Sequence[Any]) -> None:
        self._send("link_prompts", trace=trace_id, prompts=[[p.name, p.version] for p in prompt_versions])


def _metric(metric: Any) -> list[Any]:
    row = [metric.key, metric.value, metric.timestamp, metric.step]
    if metric.model_id or metric.dataset_name:
        row += [metric.model_id, metric.dataset_name, metric.dataset_digest]
    return row


def _pass_on(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(AbstractStore, name))
    def passed_on(self: DurableStore, *args: Any, **kwargs: Any) -> Any:
        return self.server.call(name, args, kwargs)

    return passed_on


for _name in dir(AbstractStore):
    _own = _name in vars(DurableStore) or _name.startswith(("__", "_abc", "_async"))
    if not _own and callable(getattr(AbstractStore, _name)):
        setattr(DurableStore, _name, _pass_on(_name))
