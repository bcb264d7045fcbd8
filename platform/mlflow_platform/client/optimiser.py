"""`AsyncMLflowTracker`: optimisations of programs, tracked from an event loop without holding it up."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from mlflow_platform.client import pickles
from mlflow_platform.client.analysis import reading
from mlflow_platform.client.config import MLflowConfig
from mlflow_platform.client.improvement import Samples, improvement, significance
from mlflow_platform.client.names import run_name
from mlflow_platform.client.run import NO_RUN, Run
from mlflow_platform.client.tracker import MLflowTracker
from mlflow_platform.errors import BadInput, Rejected

P = ParamSpec("P")
T = TypeVar("T")

NAME_PATTERN = "{type}-{id}-{timestamp}"


class AsyncMLflowTracker:
    """Logs to the run that is open in this task.

    Every method gives way to other tasks while MLflow is at work in a thread. Those that log never
    raise; those that read do. `name_pattern` makes the runs' names (see `run_name`) from `type`, `id`,
    `environment`, `version` and `timestamp`; each run has the tags `target_type`, `environment`, `version`.
    """

    def __init__(
        self,
        config: MLflowConfig | None = None,
        *,
        environment: str = "development",
        version: str = "0",
        name_pattern: str = NAME_PATTERN,
        tracker: MLflowTracker | None = None,
    ) -> None:
        self.tracker = tracker or MLflowTracker(config)
        self.name_pattern = name_pattern
        self._about = {"environment": environment, "version": version}
        self._guard = self.tracker.session.guard

    def start_run(
        self, target_type: str, target_id: str, *, tags: Mapping[str, Any] | None = None
    ) -> AsyncRun:
        """The run of one optimisation, as an asynchronous context manager; logs `duration_seconds`."""
        if self.tracker._idle:
            return AsyncRun(self.tracker, NO_RUN)
        fields = {"type": target_type, "id": target_id, **self._about}
        name = self._guard.call("name of a run", lambda: run_name(self.name_pattern, fields))
        about = {"target_type": target_type, "target_id": target_id, **self._about, **(tags or {})}
        return AsyncRun(self.tracker, self.tracker.start_run(name, tags=about))

    async def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters; those that are None are left out."""
        await self._aside(self.tracker.log_params, params)

    async def log_metrics(self, metrics: Mapping[str, float | None], step: int | None = None) -> None:
        """Log numbers of now, at a step if one is given."""
        await self._aside(self.tracker.log_metrics, metrics, step)

    async def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; those that are None are left out."""
        await self._aside(self.tracker.set_tags, tags)

    async def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Log a file."""
        await self._aside(self.tracker.log_artifact, path, folder)

    async def log_optimization(
        self,
        baseline: Samples | Mapping[str, float],
        optimized: Samples | Mapping[str, float],
        *,
        iterations: int,
        paired: bool = True,
    ) -> dict[str, float]:
        """Log `baseline_*`, `optimized_*` and what is computed from them (see `improvement`).

        Given as samples, `statistical_significance` is the p-value of the test named by the tag
        `significance_test`; given as means there is none. Returns the metrics, also where nothing is tracked.
        """
        before = baseline.metrics() if isinstance(baseline, Samples) else dict(baseline)
        after = optimized.metrics() if isinstance(optimized, Samples) else dict(optimized)
        metrics = {
            **{f"baseline_{k}": v for k, v in before.items()},
            **{f"optimized_{k}": v for k, v in after.items()},
            **improvement(before, after),
            "iterations": float(iterations),
        }
        if isinstance(baseline, Samples) and isinstance(optimized, Samples):
            found = await asyncio.to_thread(
                self._guard.call, "significance", lambda: significance(baseline, optimized, paired=paired)
            )
            if found is not None and found.p_value is not None:
                metrics["statistical_significance"] = found.p_value
                await self.set_tags({"significance_test": found.test})
        await self.log_metrics(metrics)
        return metrics

    async def log_training_data(self, examples: Sequence[Mapping[str, Any]]) -> None:
        """`training_data.json`: the examples."""
        await self._json(lambda: [dict(e) for e in examples], "training_data.json")

    async def log_key_improvements(self, improvements: Sequence[str]) -> None:
        """`key_improvements.txt`: one a line."""
        file = "key_improvements.txt"

        def log() -> None:
            self.tracker.log_text_artifact("".join(f"{line}\n" for line in improvements), file)

        await self._aside(self._guard.call, file, log)

    async def log_algorithm_parameters(self, parameters: Mapping[str, Any]) -> None:
        """`algorithm_parameters.json`: the optimiser's settings."""
        await self._json(lambda: dict(parameters), "algorithm_parameters.json")

    async def _aside(self, call: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Log in a thread; a thread costs 50 microseconds, so where nothing is tracked there is none."""
        if not self.tracker._idle:
            await asyncio.to_thread(call, *args, **kwargs)

    async def _json(self, content: Callable[[], Any], file: str) -> None:
        await self._aside(self._guard.call, file, lambda: self.tracker.log_dict_artifact(content(), file))

    async def save_model(self, model: Any, name: str, metadata: Mapping[str, Any] | None = None) -> None:
        """`models/<name>.pkl` and `models/<name>_metadata.json`, with the pickle's SHA-256 in the latter."""

        def saved() -> None:
            with tempfile.TemporaryDirectory() as folder:
                for path in pickles.save(model, name, metadata or {}, Path(folder)):
                    self.tracker.log_artifact(path, "models")

        await self._aside(self._guard.call, "save_model", saved)

    async def load_model(
        self, run_id: str, name: str, *, sha256: str | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """A model that a run saved, and its metadata. Raises `Rejected` where the digest differs, or where
        there is no such model; see `pickles.load` for what the digest is good for."""

        def loaded(client: Any) -> tuple[Any, dict[str, Any]]:
            paths = []
            with tempfile.TemporaryDirectory() as folder:
                for file in pickles.files(name):
                    try:
                        paths.append(Path(client.download_artifacts(run_id, f"models/{file}", folder)))
                    except Exception as error:
                        raise Rejected(f"run {run_id} has no models/{file}: {error}") from error
                return pickles.load(*paths, sha256=sha256)

        return await self.read(loaded)

    async def get_best_run(self, metric: str, order_by: str = "DESC") -> reading.Run | None:
        """The run with the highest (`ASC`: lowest) value of a metric, of equals the first; None where no run
        has one. NaN is never best."""
        if order_by.upper() not in ("ASC", "DESC"):
            raise BadInput(f"{order_by!r} is no order of runs", remedy="give DESC or ASC")

        def found(client: Any) -> reading.Run | None:
            return reading.leader(client, self._experiments(client), metric, least=order_by.upper() == "ASC")

        return await self.read(found)

    async def search_runs(
        self, filter_string: str = "", max_results: int = 100, *, order_by: Sequence[str] = ()
    ) -> list[reading.Run]:
        """The experiment's runs that match a filter of MLflow's language."""

        def found(client: Any) -> list[reading.Run]:
            of = self._experiments(client)
            return list(reading.runs(client, of, where=filter_string, order=order_by, limit=max_results))

        return await self.read(found)

    def _experiments(self, client: Any) -> list[reading.Experiment]:
        """The one that is logged to, as the server has it: what was set up offline has another id there."""
        return [reading.experiment(client, self.tracker.session.need().experiment_id)]

    async def read(self, reading: Callable[[Any], T]) -> T:
        """What `reading` makes of MLflow's client. Raises what that does; `BadInput` with tracking off."""
        return await asyncio.to_thread(lambda: reading(self.tracker.session.need().client))


class AsyncRun:
    """A run of an `AsyncMLflowTracker`."""

    def __init__(self, tracker: MLflowTracker, run: Run) -> None:
        self._tracker = tracker
        self._run = run

    @property
    def run_id(self) -> str | None:
        """None where nothing is tracked."""
        return self._run.run_id

    @property
    def name(self) -> str | None:
        return self._run.name

    async def __aenter__(self) -> Self:
        if self._run is not NO_RUN:
            await asyncio.to_thread(self._run.open, attach=False)
            self._tracker.push(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._run is NO_RUN:
            return
        self._tracker.pop(self._run)
        await asyncio.to_thread(self._run.close, error, "duration_seconds")
