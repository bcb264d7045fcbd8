"""The program that is measured: `python -m tests.bench.calls COUNT`, through the MLFLOW_TRACKING_URI it has.

`noop://` is a store that does nothing: what MLflow itself costs. Prints, by kind of call, its percentiles in
microseconds as JSON. ASYNC=1: MLflow's own asynchronous calls, where there are. RAISES=1: a call that raises
is measured until it does; without it, it ends the measurement.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

PERCENTILES = (50.0, 99.0, 99.9)
#: Seconds after which no further call of a kind is begun, and the fewest calls there are all the same.
MOST_SECONDS, LEAST = 10.0, 3


def noop(store_uri: str, artifact_uri: str | None = None) -> Any:
    """A tracking store that keeps nothing but the runs' own information, in memory."""
    from mlflow.entities import Run, RunData, RunInfo
    from mlflow.store.tracking.abstract_store import AbstractStore

    runs: dict[str, Any] = {}

    def nothing(*_: object, **__: object) -> None:
        return

    class Nothing(AbstractStore):
        def create_run(self, experiment_id, user_id, start_time, tags, run_name):  # type: ignore[no-untyped-def]
            run_id = f"{len(runs):032x}"
            info = RunInfo(
                run_id, experiment_id, user_id, "RUNNING", start_time, None, "active", "", run_name
            )
            runs[run_id] = Run(info, RunData(tags=tags))
            return runs[run_id]

        def get_run(self, run_id):  # type: ignore[no-untyped-def]
            return runs[run_id]

        def start_trace(self, trace_info):  # type: ignore[no-untyped-def]
            trace_info.tags["mlflow.trace.spansLocation"] = "TRACKING_STORE"
            return trace_info

    for name in ("log_batch", "log_metric", "log_param", "set_tag", "log_spans", "update_run_info"):
        setattr(Nothing, name, nothing)
    return Nothing()


class NoArtifacts:
    """An artifact repository that keeps nothing."""

    def log_artifact(self, *_: object) -> None:
        return


def raised() -> suppress:
    """Where calls may fail, what they raise is dropped."""
    return suppress(*([Exception] if "RAISES" in os.environ else []))


def measure(call: Callable[[int], object], count: int) -> list[float]:
    """Microseconds of each call, sorted."""
    taken: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    while len(taken) < LEAST or (len(taken) < count and time.monotonic() < end):
        began = time.perf_counter_ns()
        with raised():
            call(len(taken))
        taken.append((time.perf_counter_ns() - began) / 1000)
    return sorted(taken)


def begin(mlflow: Any) -> str:
    """The run that is logged to. Where none can be made it is as if the server had died right after that."""
    with raised():
        mlflow.start_run()
    if mlflow.active_run() is None:
        from mlflow.entities import Run, RunData, RunInfo
        from mlflow.tracking import fluent

        info = RunInfo("0" * 32, "0", "", "RUNNING", 0, None, "active", "mlflow-artifacts:/0")
        fluent._active_run_stack.get().append(fluent.ActiveRun(Run(info, RunData())))
    return str(mlflow.active_run().info.run_id)


def main(count: int) -> None:
    """Measure each kind of call; fewer of the dear ones."""
    os.environ["MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"] = os.environ.get("ASYNC", "false")
    import mlflow
    from mlflow.tracking._tracking_service import utils

    utils._register("noop", noop)
    client = mlflow.MlflowClient()
    synchronous = None if "ASYNC" not in os.environ else False
    some, few = count // 4, count // 20
    found: dict[str, list[float]] = {}
    run_id = begin(mlflow)
    found["start_run"] = measure(lambda _: mlflow.start_run(nested=True), few)
    while mlflow.active_run().info.run_id != run_id:
        mlflow.end_run()
    if os.environ["MLFLOW_TRACKING_URI"].startswith("noop"):
        utils._artifact_repos_cache[run_id] = NoArtifacts()
    with raised():
        mlflow.log_metric("warm", 1.0)
    found["log_metric"] = measure(
        lambda i: mlflow.log_metric("m", 0.5, step=i, synchronous=synchronous), count
    )
    found["log_param"] = measure(lambda i: mlflow.log_param(f"p{i}", i, synchronous=synchronous), some)
    found["set_tag"] = measure(lambda i: mlflow.set_tag(f"t{i % 50}", i, synchronous=synchronous), some)
    found["log_params of 100"] = measure(
        lambda i: mlflow.log_params({f"q{i}-{j}": j for j in range(100)}, synchronous=synchronous), few
    )
    with mlflow.start_span("warm"), mlflow.start_span("warm"):
        pass

    roots: list[float] = []
    children: list[float] = []
    end = time.monotonic() + MOST_SECONDS
    while len(roots) < LEAST or (len(roots) < few and time.monotonic() < end):
        root = mlflow.start_span("root")
        span = root.__enter__()
        span.set_inputs({"question": "what is it that costs so much?"})
        for _ in range(5):
            began = time.perf_counter_ns()
            with mlflow.start_span("child") as child:
                child.set_inputs({"query": "x" * 200})
            children.append((time.perf_counter_ns() - began) / 1000)
        began = time.perf_counter_ns()
        root.__exit__(None, None, None)
        roots.append((time.perf_counter_ns() - began) / 1000)
    found["child span"], found["root span"] = sorted(children), sorted(roots)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "note.txt")
        file.write_text("x" * 1000)
        with raised():
            client.log_artifact(run_id, str(file))
        found["log_artifact"] = measure(lambda i: client.log_artifact(run_id, str(file), str(i)), few)
    print(json.dumps({name: [at(values, p) for p in PERCENTILES] for name, values in found.items()}))
    sys.stdout.flush()
    # MLflow's own queues would be waited for.
    os._exit(0)


def at(values: list[float], percentile: float) -> float:
    """The value below which so many per cent lie."""
    return values[min(len(values) - 1, int(len(values) * percentile / 100))]


if __name__ == "__main__":
    main(int(sys.argv[1]))
