"""`MLflowTracker`: one parent run a job, one nested run a stage, and nothing that can break either."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any

from mlflow_platform.client.config import MLflowConfig
from mlflow_platform.client.events import EventLog
from mlflow_platform.client.run import NO_RUN, Recorder, Run
from mlflow_platform.client.session import Session


class MLflowTracker(Recorder):
    """Logs to the run that is open here: in this thread or task, else in the only job there is.

    `tracking_uri` and `experiment_name` are laid over the environment's; `config` is taken as it is.
    `tags` are set on every run. `events` names a JSONL file that gets every event as a line too, also
    where MLflow is off, away or not installed. Switched off (`MLFLOW_ENABLE_TRACKING=false`) and without
    `events`, calls return at once and MLflow is not imported.
    """

    def __init__(
        self,
        config: MLflowConfig | None = None,
        *,
        tracking_uri: str | None = None,
        experiment_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        events: str | os.PathLike[str] | None = None,
    ) -> None:
        self.session = Session(config, tracking_uri=tracking_uri, experiment_name=experiment_name)
        self.guard = self.session.guard
        self.tags = dict(tags or {})
        self._events = EventLog(events) if events else None
        self._idle = not self.session.tracking and self._events is None
        self._here: ContextVar[Run | None] = ContextVar("run", default=None)
        self._lock = threading.Lock()
        self._jobs: list[Run] = []

    def start_run(self, run_name: str | None = None, *, tags: Mapping[str, Any] | None = None) -> Run:
        """A run of its own, or nested in the one that is open here."""
        if self._idle:
            return NO_RUN
        return Run(self, run_name, {**self.tags, **(tags or {})})

    def start_job_run(
        self, job_id: str, *, run_name: str | None = None, tags: Mapping[str, Any] | None = None
    ) -> Run:
        """The run of a job, named after it, with the tag `job_id`. If nobody sets the tag `outcome` it is
        `success`, or `error` after an exception. `latency_seconds` is the time from entry to exit."""
        if self._idle:
            return NO_RUN
        job = {**self.tags, "job_id": job_id, **(tags or {})}
        return Run(self, run_name or f"job-{job_id}", job, kind="job")

    def start_nested_run(self, stage: str, *, tags: Mapping[str, Any] | None = None) -> Run:
        """The run of a stage of the current run, with the tag `stage`; times itself as `latency_seconds`."""
        if self._idle:
            return NO_RUN
        return Run(self, stage, {**self.tags, "stage": stage, **(tags or {})}, kind="stage")

    def current(self) -> Run | None:
        """The run that is open here. A thread that opened none logs to the job, if there is one only."""
        here = self.here()
        if here is None and len(self._jobs) == 1:
            return self._jobs[0]
        return here

    def here(self) -> Run | None:
        """The run that was opened in this thread or task."""
        return self._here.get()

    @property
    def run_id(self) -> str | None:
        """The id of the current run, if it is tracked."""
        run = self.current()
        return run.run_id if run else None

    def push(self, run: Run) -> None:
        """Make a run the current one here."""
        if run.parent is None:
            with self._lock:
                self._jobs.append(run)
        run.before = self.here()
        self._here.set(run)

    def pop(self, run: Run) -> None:
        """Back to what was current before."""
        with self._lock:
            if run in self._jobs:
                self._jobs.remove(run)
        self._here.set(run.before)

    def note(self, event: str, **fields: Any) -> None:
        """Write an event's line, where there is a file for it."""
        if self._events is not None:
            self.guard.call("events", self._events.write, event, **fields)

    def _record(self, event: str, detail: dict[str, Any], send: Any) -> None:
        if self._idle:
            return
        run = self.current()
        if run is not None:
            run._record(event, detail, send)
            return
        self.note(event, run_id=None, **detail)
        if self.session.tracking:
            self.guard.failed(event, LookupError("no run is open here; open one with start_run"))
