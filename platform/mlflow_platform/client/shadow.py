"""What this process knows of its runs, models and experiments without asking the server.

MLflow looks a run up before it logs to it by id, so logging must not wait for that. A run's shadow holds
what this process logged to it, nothing of what others did.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
import time
from collections import OrderedDict
from typing import Any

from mlflow.entities import (
    Experiment,
    ExperimentTag,
    LifecycleStage,
    LoggedModel,
    Metric,
    Param,
    Run,
    RunData,
    RunInfo,
    RunInputs,
    RunOutputs,
    RunStatus,
    RunTag,
)

from mlflow_platform.client.segments import Position
from mlflow_platform.client.spool import Spool, replace

#: Runs and models that are kept in memory.
_MOST = 1000


class RunShadow:
    """One run as this process made it."""

    def __init__(self, info: RunInfo, tags: dict[str, str]) -> None:
        self.info = info
        self.tags = tags
        self.params: dict[str, str] = {}
        self.metrics: dict[str, Metric] = {}
        self.inputs: list[Any] = []
        self.input_models: list[Any] = []
        self.output_models: list[Any] = []
        #: Where its last record ends.
        self.position: Position | None = None

    def log(self, metrics: Any, params: Any, tags: Any) -> None:
        for metric in metrics:
            held = self.metrics.get(metric.key)
            # As MLflow's SQL store decides which is the latest (_update_latest_metrics_if_necessary).
            if held is None or _order(metric) >= _order(held):
                self.metrics[metric.key] = metric
        for param in params:
            self.params.setdefault(param.key, param.value)
        for tag in tags:
            self.tags[tag.key] = tag.value

    def add_inputs(self, datasets: Any, models: Any) -> None:
        """Add what the run read; a second time it is the same input."""
        known = {(d.dataset.name, d.dataset.digest) for d in self.inputs}
        self.inputs += [d for d in datasets if (d.dataset.name, d.dataset.digest) not in known]
        self.input_models += [m for m in models if m not in self.input_models]

    def update(self, status: int | None, end_time: int | None, name: str | None) -> RunInfo:
        values: dict[str, Any] = {}
        if status is not None:
            values["status"] = RunStatus.to_string(status)
        if end_time is not None:
            values["end_time"] = end_time
        if name:
            values["run_name"] = self.tags["mlflow.runName"] = name
        self.info = _changed(self.info, **values)
        return self.info

    def stage(self, stage: str) -> None:
        self.info = _changed(self.info, lifecycle_stage=stage)

    @property
    def running(self) -> bool:
        return bool(self.info.status == RunStatus.to_string(RunStatus.RUNNING))

    def entity(self) -> Run:
        data = RunData(
            metrics=[_stored(m) for m in self.metrics.values()],
            params=[Param(k, v) for k, v in list(self.params.items())],
            tags=[RunTag(k, v) for k, v in list(self.tags.items())],
        )
        return Run(
            self.info,
            data,
            RunInputs(dataset_inputs=list(self.inputs), model_inputs=list(self.input_models)),
            RunOutputs(model_outputs=list(self.output_models)),
        )


class Shadows:
    """Runs and models that this process made, the latest thousand of each."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._runs: OrderedDict[str, RunShadow] = OrderedDict()
        self._models: OrderedDict[str, LoggedModel] = OrderedDict()

    def add_run(self, shadow: RunShadow) -> None:
        """Keep a new run, and tell the other processes of this machine."""
        run_id = shadow.info.run_id
        keep(self._runs, run_id, shadow)
        with contextlib.suppress(OSError):
            (self._spool.runs / f"{run_id}.json").write_text(
                json.dumps({"info": dict(shadow.info), "tags": shadow.tags})
            )

    def run(self, run_id: str) -> RunShadow | None:
        """A run of this process."""
        return self._runs.get(run_id)

    def run_of_another(self, run_id: str) -> RunShadow | None:
        """A run that another process of this machine made and that has not ended on the server."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            values = json.loads((self._spool.runs / f"{run_id}.json").read_text())
            return RunShadow(RunInfo(**values["info"]), values["tags"])
        return None

    def add_model(self, model: LoggedModel) -> None:
        keep(self._models, model.model_id, model)

    def log_to_models(self, run_id: str, metrics: Any) -> None:
        """Note metrics that belong to models of this process, the latest of each key and dataset."""
        for metric in metrics:
            if (model := self._models.get(metric.model_id)) is not None:
                others = [m for m in model.metrics if (m.key, m.dataset_name) != _of(metric)]
                model.metrics = [*others, _with(metric, run_id=run_id)]

    def model(self, model_id: str) -> LoggedModel | None:
        return self._models.get(model_id)


class Experiments:
    """Experiments by name and id, kept in the spool for when the server is away."""

    def __init__(self, spool: Spool) -> None:
        self._path = spool.experiments

    def remember(self, experiment: Experiment) -> None:
        """Keep what the server said last."""
        known = self._load()
        entry = {
            "id": experiment.experiment_id,
            "location": experiment.artifact_location,
            "stage": experiment.lifecycle_stage,
            "tags": dict(experiment.tags),
        }
        if known.get(experiment.name) != entry:
            # Two processes at once: the later file stands, and the other's entry is asked for again.
            with contextlib.suppress(OSError):
                replace(self._path, json.dumps({**known, experiment.name: entry}))

    def by_name(self, name: str) -> Experiment | None:
        entry = self._load().get(name)
        return self._entity(name, entry) if entry else None

    def by_id(self, experiment_id: str) -> Experiment | None:
        for name, entry in self._load().items():
            if entry["id"] == experiment_id:
                return self._entity(name, entry)
        return None

    def _entity(self, name: str, entry: dict[str, Any]) -> Experiment:
        now = int(time.time() * 1000)
        tags = [ExperimentTag(k, v) for k, v in entry["tags"].items()]
        return Experiment(entry["id"], name, entry["location"], entry["stage"], tags, now, now)

    def _load(self) -> dict[str, dict[str, Any]]:
        with contextlib.suppress(OSError, ValueError):
            found: dict[str, dict[str, Any]] = json.loads(self._path.read_text(encoding="utf-8"))
            return found
        return {}


def new_info(
    run_id: str, experiment_id: str, user: str, start_time: int, artifact_uri: str, name: str
) -> RunInfo:
    return RunInfo(
        run_id=run_id,
        experiment_id=experiment_id,
        user_id=user,
        status=RunStatus.to_string(RunStatus.RUNNING),
        start_time=start_time,
        end_time=None,
        lifecycle_stage=LifecycleStage.ACTIVE,
        artifact_uri=artifact_uri,
        run_name=name,
    )


def _changed(info: RunInfo, **values: Any) -> RunInfo:
    return RunInfo(**{**dict(info), **values})


def _stored(metric: Metric) -> Metric:
    """A metric as MLflow's databases show it: infinities are the largest numbers (SqlAlchemyStore,
    sanitize_metric_value)."""
    if not isinstance(metric.value, float) or not math.isinf(metric.value):
        return metric
    return _with(metric, value=math.copysign(sys.float_info.max, metric.value))


def _with(metric: Metric, **values: Any) -> Metric:
    return Metric(**{**dict(metric), **values})


def _order(metric: Metric) -> tuple[int, int, float]:
    return metric.step, metric.timestamp, metric.value


def _of(metric: Metric) -> tuple[str, str | None]:
    return metric.key, metric.dataset_name


def keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    """Remember something, and forget what was remembered a thousand ago."""
    kept[key] = value
    while len(kept) > _MOST:
        kept.popitem(last=False)
