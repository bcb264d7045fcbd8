"""One run, and all that can be logged to it."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from mlflow_platform.client.events import as_json
from mlflow_platform.client.guard import Guard

if TYPE_CHECKING:
    from mlflow_platform.client.tracker import MLflowTracker


class Recorder(ABC):
    """What a run and a tracker, which stands for its current run, have in common.

    Nothing here raises or returns anything, whatever it is given: see `Guard`.
    """

    guard: Guard
    #: Nothing is logged to anywhere: every call returns at once.
    _idle = False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; those that are None are left out."""
        if self._idle:
            return
        kept = self.guard.call("log_params", _texts, params) or {}

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Param

            client.log_batch(run_id, params=[Param(k, v) for k, v in kept.items()])

        if kept:
            self._record("log_params", {"params": kept}, send)

    def log_metrics(self, metrics: Mapping[str, float | bool | None], step: int | None = None) -> None:
        """Log numbers of now, at a step or epoch if one is given; those that are None are left out."""
        if self._idle:
            return
        now = time.time_ns() // 1_000_000
        kept = self.guard.call("log_metrics", _given, metrics) or {}

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import Metric

            client.log_batch(run_id, [Metric(k, float(v), now, step or 0) for k, v in kept.items()])

        if kept:
            self._record("log_metrics", {"metrics": kept, "step": step}, send)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; those that are None are left out."""
        if self._idle:
            return
        kept = self.guard.call("set_tags", _texts, tags) or {}

        def send(client: Any, run_id: str) -> None:
            from mlflow.entities import RunTag

            client.log_batch(run_id, tags=[RunTag(k, v) for k, v in kept.items()])

        if kept:
            self._record("set_tags", {"tags": kept}, send)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file, in a folder of the run's artifacts if one is given."""
        if self._idle:
            return
        named = {"path": str(path), "folder": folder}
        self._record("log_artifact", named, lambda client, run: client.log_artifact(run, str(path), folder))

    def log_dict_artifact(self, content: Mapping[str, Any] | list[Any], file: str) -> None:
        """Log a JSON (or, by its name, YAML) file; what JSON has no numbers for becomes text."""
        if self._idle:
            return
        # Now, not when it is sent: the program may change it.
        if (plain := self.guard.call("log_dict_artifact", as_json, content)) is not None:
            self._record(
                "log_dict_artifact", {"file": file}, lambda client, run: client.log_dict(run, plain, file)
            )

    def log_text_artifact(self, text: str, file: str) -> None:
        """Log a text file; its name's ending says what it is."""
        if self._idle:
            return
        self._record(
            "log_text_artifact", {"file": file}, lambda client, run: client.log_text(run, text, file)
        )

    @abstractmethod
    def _record(self, event: str, detail: dict[str, Any], send: Any) -> None:
        """Note the event, and let `send` log it to MLflow."""


class Run(Recorder):
    """A run of a tracker, as a context manager: it times what is in it, and tells how that ended.

    Its kind is `run`, `job` or `stage`. `run_id` is None where nothing is tracked. An exception ends the run
    as FAILED, an interrupt as KILLED, and goes on.
    """

    run_id: str | None = None

    def __init__(
        self, tracker: MLflowTracker, name: str | None, tags: Mapping[str, Any], *, kind: str = "run"
    ) -> None:
        self.name = name
        self._tracker = tracker
        self.guard = tracker.guard
        self._tags = self.guard.call("tags of a run", _texts, tags) or {}
        self._kind = kind
        self._began = 0.0
        self._attached = False
        self._outcome_given = "outcome" in self._tags
        self.parent: Run | None = None
        self.before: Run | None = None

    def __enter__(self) -> Self:
        self.open(attach=not _in_event_loop())
        self._tracker.push(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tracker.pop(self)
        self.close(error)

    def open(self, *, attach: bool) -> None:
        """Create the run. Attached, it is also the active run of MLflow in this thread, which autologging
        and traces then belong to."""
        self._began = time.perf_counter()
        if self.parent is None:
            self.parent = self._tracker.current() if self._kind == "stage" else self._tracker.here()
        session = self._tracker.session
        if session.tracking:
            self.guard.call("start of a run", self._create, attach)
        detail = {
            "name": self.name,
            "tags": self._tags,
            "parent": self.parent.run_id if self.parent else None,
        }
        self._tracker.note("start_run", run_id=self.run_id, **detail)

    def _create(self, attach: bool) -> None:
        connection = self._tracker.session.open()
        if connection is None:
            return
        mlflow = connection.mlflow
        tags = dict(self._tags)
        attach = attach and connection.is_global()
        around = mlflow.active_run() if attach else None
        if self.parent is not None and self.parent.run_id:
            tags["mlflow.parentRunId"] = self.parent.run_id
        elif around is not None:
            tags["mlflow.parentRunId"] = around.info.run_id
        from mlflow.tracking.context.registry import resolve_tags

        run = connection.client.create_run(
            connection.experiment_id, tags=resolve_tags(tags), run_name=self.name
        )
        self.run_id, self.name = run.info.run_id, run.info.run_name
        if attach:
            mlflow.start_run(run_id=self.run_id, nested=True)
            self._attached = True

    def close(self, error: BaseException | None, timed: str = "latency_seconds") -> None:
        """End the run: FINISHED without an error, KILLED by an interrupt, else FAILED. `timed` names the
        metric of the seconds since it began."""
        self.log_metrics({timed: time.perf_counter() - self._began})
        if self._kind == "job" and not self._outcome_given:
            self.set_tags({"outcome": "error" if error else "success"})
        self.end("FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED")

    def end(self, status: str) -> None:
        """End the run with a status of MLflow's: FINISHED, FAILED or KILLED."""
        self._tracker.note("end_run", run_id=self.run_id, status=status)
        if self.run_id:
            self.guard.call("end of a run", self._end, status)

    def _end(self, status: str) -> None:
        connection = self._tracker.session.open()
        if connection is None:
            return
        active = connection.mlflow.active_run() if self._attached else None
        if active is not None and active.info.run_id == self.run_id:
            connection.mlflow.end_run(status)
        else:
            connection.client.set_terminated(self.run_id, status)

    def _record(self, event: str, detail: dict[str, Any], send: Any) -> None:
        self._outcome_given |= "outcome" in detail.get("tags", ())
        self._tracker.note(event, run_id=self.run_id, **detail)
        session = self._tracker.session
        if self.run_id and (connection := session.open()):
            self.guard.call(event, send, connection.client, self.run_id)


class NoRun(Run):
    """Stands for every run where tracking is off."""

    _idle = True

    def __init__(self) -> None:
        self.name = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def open(self, *, attach: bool) -> None:
        pass

    def close(self, error: BaseException | None, timed: str = "latency_seconds") -> None:
        pass

    def end(self, status: str) -> None:
        pass


NO_RUN = NoRun()


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in values.items() if v is not None}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {k: str(v) for k, v in _given(values).items()}


def _in_event_loop() -> bool:
    """Whether tasks may take turns in this thread: MLflow's stack of active runs, one a thread, would be
    mixed up by them."""
    import asyncio

    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False
