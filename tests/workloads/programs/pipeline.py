"""W5: a content pipeline; one job that succeeds, one that a gate stops, one that fails."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from pathlib import Path

from mlflow_platform.client import MLflowTracer, MLflowTracker

tracker = MLflowTracker(tags={"adapter_name": "web"}, events="events.jsonl")
tracer = MLflowTracer(tracker)


def job(number: int, snippets: int) -> None:
    about = {
        "channel_id": "C42",
        "message_ts": f"17000000{number}.5",
        "target_url": "https://example.com/it's",
        "domain": "example.com",
    }
    with tracker.start_job_run(f"job-{number}", tags=about):
        tracker.log_params({"depth": 2, "absent": None})
        with tracker.start_nested_run("retrieve") as stage:
            with tracer.span("pipeline", "CHAIN", inputs={"job": number}) as whole:
                with tracer.trace_retrieval("what changed?", top_k=2, strategy="hybrid") as retrieval:
                    found = [
                        {"id": f"d{i}", "text": f"text {i}", "score": 1 - i / 10} for i in range(snippets)
                    ]
                    retrieval.found(found)
                    retrieval.reranked(found[::-1], model="cross-encoder")
                    retrieval.context("text 1 text 0")
                with tracer.trace_llm_call("fake-1", "Summarise.", temperature=0.2) as call:
                    call.answered("All is well.", prompt_tokens=11, completion_tokens=4)
                with tracer.trace_quality_gates(subject="summary") as gates:
                    gates.gate("length", True, value=12, threshold=5)
                    gates.gate("evidence", snippets > 1, value=snippets, threshold=2)
                whole.set_outputs({"passed": gates.passed})
            stage.log_metrics({"snippet_count": snippets, "tool_call_count": 3})
        thread = threading.Thread(target=tracker.log_metrics, args=({"gate_failures": gates.failures},))
        thread.start()
        thread.join()
        tracker.log_dict_artifact({"snippets": found, "score": float("nan")}, "evidence.json")
        tracker.log_dict_artifact({"summary": "ünïcode"}, "analysis_result.json")
        Path("slack_payload.json").write_text('{"text": "done"}', "utf-8")
        tracker.log_artifact("slack_payload.json")
        tracker.log_text_artifact("# Notes", "notes/summary.md")
        if not gates.passed:
            tracker.set_tags({"outcome": "gate_failed"})
        if number == 3:
            raise ValueError("the third job fails")


async def at_once(name: str) -> None:
    """Two jobs that take turns in one thread."""
    with tracker.start_job_run(name, tags={"domain": "async"}):
        for step in range(3):
            await asyncio.sleep(0)
            tracker.log_metrics({name: step}, step=step)
        with tracker.start_nested_run(f"{name}-stage"):
            await asyncio.sleep(0)
            tracker.log_params({"of": name})


async def both() -> None:
    await asyncio.gather(at_once("left"), at_once("right"))


job(1, 2)
job(2, 1)
with contextlib.suppress(ValueError):
    job(3, 2)
    raise SystemExit("the third job's own error is gone")
asyncio.run(both())
print(json.dumps({"failures": tracker.session.guard.failures}))
