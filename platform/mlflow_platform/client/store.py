"""MLflow's tracking store for `durable+<scheme>` URIs: what logs is appended to a spool and returns.

- Logging (metrics, params, tags, runs, inputs, models, traces, artifacts) never waits for the server and
  never raises; with `MLPLATFORM_STRICT` it raises what MLflow's own checks raise.
- Reading waits, at most ten seconds: for what this process logged to be delivered, then for the answer.
- Everything else (changes of assessments, datasets, scorers, deleting experiments and traces, ...) is called
  on the server at once, as by MLflow itself, and raises when the server is away: it is not kept.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from mlflow.entities import Experiment, LifecycleStage, Run, RunInfo, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.tracking import fluent
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.name_utils import _generate_random_name
from mlflow.utils.validation import (
    _validate_batch_log_data,
    _validate_dataset_inputs,
    _validate_experiment_tag,
    _validate_metric,
    _validate_param,
    _validate_tag,
)

from mlflow_platform.client.batches import whole
from mlflow_platform.client.courier import Courier
from mlflow_platform.client.ids import is_placeholder, new_run, placeholder
from mlflow_platform.client.logged_models import LoggedModels
from mlflow_platform.client.segments import Position
from mlflow_platform.client.sending import Sender, logs
from mlflow_platform.client.server import Away
from mlflow_platform.client.shadow import RunShadow, keep, new_info
from mlflow_platform.client.traces import Traces

_RUN_NAME = "mlflow.runName"  # mlflow/utils/mlflow_tags.py
#: MLflow's calls that look up the run which they are given (mlflow/tracking/fluent.py), and how far above the
#: store they can be: two clients, and what records their use.
_LOGGING = {inspect.unwrap(call).__code__ for call in (fluent.log_metric, fluent.log_metrics)}
_DEPTH = 8
#: Seconds that `flush_async_logging` waits.
_FLUSH = 10.0


class DurableStore(LoggedModels, Traces):
    """The whole store: runs and experiments here, what they are joined by in its parts."""

    def __init__(self, uri: str, courier: Courier) -> None:
        super().__init__(uri, courier)
        self._looked_at: OrderedDict[str, Run] = OrderedDict()
        #: Names of experiments that were asked for and not found, for want of an answer or of the experiment.
        self._missed: set[str] = set()

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
        if self.strict:
            values = {tag.key: tag.value for tag in (_validate_tag(*pair) for pair in values.items())}
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
        if _is_asked_by_logging():
            return self._run_to_log_to(run_id)
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

    def _run_to_log_to(self, run_id: str) -> Run:
        """A run that MLflow looks at, for its models and datasets, each time it logs to it by its id. One of
        this machine that has not ended is not asked for, any other is once; without an answer it is bare."""
        if (known := self._looked_at.get(run_id)) is None:
            shadow = self.shadows.run(run_id) or self.shadows.run_of_another(run_id)
            try:
                known = shadow.entity() if shadow else self.server.call("get_run", (run_id,), {})
            except MlflowException:
                if self.strict:
                    raise
                known = RunShadow(new_info(run_id, "", "", 0, "", ""), {}).entity()
            keep(self._looked_at, run_id, known)
        return known

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

    @logs
    def log_metric(self, run_id: str, metric: Any) -> None:
        if self.strict:
            self._check_active(run_id)
            _validate_metric(metric.key, metric.value, metric.timestamp, metric.step)
            _check_numbers((metric,))
        shadow = self._logged(run_id, self._send("log", run=run_id, m=[_metric(metric)]))
        if shadow is not None:
            shadow.log((metric,), (), ())
        if metric.model_id:
            self.shadows.log_to_models(run_id, (metric,))

    @logs
    def log_param(self, run_id: str, param: Any) -> None:
        if self.strict:
            self._check_active(run_id)
            param = _validate_param(param.key, param.value)
            self._check_params(run_id, [param])
        shadow = self._logged(run_id, self._send("log", run=run_id, p=[[param.key, param.value]]))
        if shadow is not None:
            shadow.log((), (param,), ())

    @logs
    def set_tag(self, run_id: str, tag: Any) -> None:
        if self.strict:
            self._check_active(run_id)
            tag = _validate_tag(tag.key, tag.value)
        shadow = self._logged(run_id, self._send("log", run=run_id, t=[[tag.key, tag.value]]))
        if shadow is not None:
            shadow.log((), (), (tag,))

    @logs
    def log_batch(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> None:
        if self.strict:
            self._check_active(run_id)
            metrics, params, tags = _validate_batch_log_data(metrics, params, tags)
            _check_numbers(metrics)
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
        self.shadows.log_to_models(run_id, metrics)

    def _check_active(self, run_id: str) -> None:
        shadow = self.shadows.run(run_id)
        if shadow is not None and shadow.info.lifecycle_stage != LifecycleStage.ACTIVE:
            raise MlflowException.invalid_parameter_value(
                f"The run {run_id} must be in the 'active' state. Current state is "
                f"{shadow.info.lifecycle_stage}."
            )

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

    @logs
    def delete_tag(self, run_id: str, key: str) -> None:
        shadow = self._logged(run_id, self._send("delete_tag", run=run_id, key=key))
        if shadow is not None:
            shadow.tags.pop(key, None)

    @logs
    def delete_run(self, run_id: str) -> None:
        shadow = self._logged(run_id, self._send("delete_run", run=run_id))
        if shadow is not None:
            shadow.stage("deleted")

    @logs
    def restore_run(self, run_id: str) -> None:
        shadow = self._logged(run_id, self._send("restore_run", run=run_id))
        if shadow is not None:
            shadow.stage("active")

    @logs
    def log_inputs(
        self, run_id: str, datasets: Sequence[Any] | None = None, models: Sequence[Any] | None = None
    ) -> None:
        if self.strict:
            _validate_dataset_inputs(datasets or ())
        position = self._send(
            "log_inputs",
            run=run_id,
            datasets=[d.to_dictionary() for d in datasets or ()],
            models=[m.model_id for m in models or ()],
        )
        shadow = self._logged(run_id, position)
        if shadow is not None:
            shadow.add_inputs(datasets or (), models or ())

    @logs
    def log_outputs(self, run_id: str, models: Sequence[Any]) -> None:
        position = self._send("log_outputs", run=run_id, models=[[m.model_id, m.step] for m in models])
        shadow = self._logged(run_id, position)
        if shadow is not None:
            shadow.output_models += models

    @logs
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
        self._missed.add(experiment_name)
        try:
            found = self.server.call("get_experiment_by_name", (experiment_name,), {})
        except Away:
            return known
        if found is not None:
            self._missed.discard(experiment_name)
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
        except MlflowException as error:
            # There all the time, while no answer came to whether it was; or since then, by another process.
            lost = name in self._missed and error.error_code == "RESOURCE_ALREADY_EXISTS"
            if self.strict or not lost or (there := self.get_experiment_by_name(name)) is None:
                raise
            return str(there.experiment_id)
        self._missed.discard(name)
        return created

    @logs
    def set_experiment_tag(self, experiment_id: str, tag: Any) -> None:
        if self.strict:
            _validate_experiment_tag(tag.key, tag.value)
        self._send("set_experiment_tag", experiment=str(experiment_id), key=tag.key, value=tag.value)


def _is_asked_by_logging() -> bool:
    """Whether it is `mlflow.log_metric(run_id=...)` that is under way, or `log_metrics`."""
    frame = sys._getframe(2)
    for _ in range(_DEPTH):
        if frame.f_code in _LOGGING:
            return True
        if frame.f_back is None:
            return False
        frame = frame.f_back
    return False


def _check_numbers(metrics: Sequence[Any]) -> None:
    """What the server could not be sent: MLflow's client fails at it only when it makes protobuf of it."""
    for metric in metrics:
        for name in ("step", "timestamp"):
            try:
                whole(getattr(metric, name))
            except (TypeError, OverflowError) as error:
                raise MlflowException.invalid_parameter_value(
                    f"Invalid {name} of the metric {metric.key!r}: {error}"
                ) from error


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


_OWN = {name for part in DurableStore.__mro__ if issubclass(part, Sender) for name in vars(part)}
for _name in dir(AbstractStore):
    _own = _name in _OWN or _name.startswith(("__", "_abc", "_async"))
    if not _own and callable(getattr(AbstractStore, _name)):
        setattr(DurableStore, _name, _pass_on(_name))
