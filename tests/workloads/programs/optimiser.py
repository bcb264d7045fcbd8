"""W2: one optimisation of a program, from an event loop."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys
from pathlib import Path

from mlflow_platform.client import AsyncMLflowTracker, MLflowConfig
from mlflow_platform.client.improvement import Samples
from mlflow_platform.errors import BadInput, Rejected

BEFORE = Samples(
    success=[True] * 4 + [False] * 16,
    cost=[0.02] * 20,
    latency_ms=[120.0] * 20,
    quality=[0.5] * 20,
)
AFTER = Samples(
    success=[True] * 16 + [False] * 4,
    cost=[0.015] * 20,
    latency_ms=[90.0] * 20,
    quality=[0.75] * 20,
)


class Evil:
    """A pickle that does something when it is opened."""

    def __reduce__(self) -> object:
        return print, ("opened",)


async def main() -> None:
    tracker = AsyncMLflowTracker(MLflowConfig.from_environment(), environment="test", version="1.2")
    async with tracker.start_run("prompt", "it's/42") as run:
        metrics = await tracker.log_optimization(BEFORE, AFTER, iterations=7)
        await tracker.log_training_data([{"question": "q", "answer": "a"}])
        await tracker.log_key_improvements(["shorter prompt", "two demonstrations"])
        await tracker.log_algorithm_parameters({"optimizer": "MIPROv2", "trials": 7})
        await tracker.save_model({"weights": [1, 2]}, "best", {"score": 0.8})
        await tracker.save_model(lambda: 0, "unpicklable")
    async with tracker.start_run("prompt", "worse") as worse:
        await tracker.log_metrics({"optimized_success_rate": 0.1})

    # A model whose pickle was exchanged after it was saved.
    async with tracker.start_run("prompt", "tampered") as tampered:
        await tracker.save_model([1], "best")
        evil = Path("best.pkl")
        evil.write_bytes(pickle.dumps(Evil()))
        await tracker.log_artifact(evil, "models")

    if "read" in sys.argv:
        model, about = await tracker.load_model(run.run_id or "", "best")
        assert (model, about["score"]) == ({"weights": [1, 2]}, 0.8)
        for refused in (
            tracker.load_model(tampered.run_id or "", "best"),
            tracker.load_model(run.run_id or "", "best", sha256="0" * 64),
            tracker.load_model(run.run_id or "", "absent"),
        ):
            try:
                await refused
            except Rejected as error:
                print(f"refused: {error}")
            else:
                raise SystemExit("a model was opened that should not have been")
        best = await tracker.get_best_run("optimized_success_rate")
        assert best
        assert best.id == run.run_id
        lowest = await tracker.get_best_run("optimized_success_rate", "ASC")
        assert lowest
        assert lowest.id == worse.run_id
        assert await tracker.get_best_run("nobody has it") is None
        found = await tracker.search_runs("tags.target_type = 'prompt'", 2)
        assert len(found) == 2
        assert found[0].tags["environment"] == "test"
        try:
            await tracker.search_runs("tags.target_type = ")
        except BadInput as error:
            print(f"refused filter: {error}")
    print(
        json.dumps(
            {"run": run.run_id, "metrics": metrics, "failures": tracker.tracker.session.guard.failures}
        )
    )


asyncio.run(main())
