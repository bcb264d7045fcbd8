"""W4.5 and W1.8: the examples and notebooks, run as a reader would, against the stack."""

from __future__ import annotations

from typing import Any

import pytest

from tests.workloads.ran import EXAMPLES, Workload, Workloads

pytest_plugins = ("tests.workloads.fixtures",)

#: Runs one notebook from top to bottom in a kernel of its own, and prints what its cells print.
_NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        print(output.get("text") or output.get("data", {}).get("text/plain", ""))
"""


def seen(ran: Workload, experiment: str) -> Workload:
    """What an example logged to an experiment that it names itself."""
    return Workload(ran.client, experiment, ran.folder)


def traces_of(ran: Workload, *runs: Any) -> list[Any]:
    ids = {run.info.run_id for run in runs}
    return [t for t in ran.traces() if t.info.trace_metadata.get("mlflow.sourceRun") in ids]


def test_w4_5_an_agent(workloads: Workloads) -> None:
    ran = workloads.run(EXAMPLES / "agent.py", "What is an ontology about people?", "Why?")
    assert "FOAF is an ontology about people and whom they know." in ran.output
    run = seen(ran, "examples/agent").runs("tags.agent_brand = 'aurora' AND metrics.answered = 0.5")[0]
    assert "<svg" in ran.artifact(run, "pictures/agents.svg")
    assert len(traces_of(seen(ran, "examples/agent"), run)) == 2


def test_w4_5_a_retrieval_pipeline_compares_strategies_and_experiments_become_a_report(
    workloads: Workloads,
) -> None:
    ran = workloads.run(EXAMPLES / "retrieval_strategies.py")
    assert "best: best" in ran.output
    of = seen(ran, "examples/retrieval")
    parent = of.runs("tags.best_strategy = 'best'")[0]  # the newest
    strategies = of.runs(f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    accuracy = {r.data.params["strategy"]: r.data.metrics["accuracy"] for r in strategies}
    assert accuracy == {"first": 0.2, "longest": 0.6, "best": 0.8}
    assert len(traces_of(of, *strategies)) == 15
    compared = workloads.run(EXAMPLES / "compare_experiments.py", "examples/retrieval")
    assert "best: best of examples/retrieval" in compared.output
    report = seen(compared, "examples/reports").runs("params.experiments = 'examples/retrieval'")[0]
    page = compared.artifact(report, "report.html")
    assert page.count("<tr>") == 1 + len(of.runs("metrics.accuracy >= 0"))
    assert "80%" in page


def test_w4_5_versions_of_a_prompt_and_an_a_b_test(workloads: Workloads) -> None:
    ran = workloads.run(EXAMPLES / "prompt_versions.py")
    assert "McNemar's exact test: p = 0.500; candidate: version 2" in ran.output
    again = workloads.run(EXAMPLES / "prompt_versions.py")
    assert "candidate: version 2" in again.output, "the same texts made other versions"


@pytest.mark.parametrize(
    ("name", "printed", "experiment"),
    [
        ("comparing_approaches", "best approach: ", "notebooks/approaches"),
        ("analysing_traces", "40% failed", "notebooks/traces"),
    ],
)
def test_w1_8_notebooks_run_from_top_to_bottom(
    workloads: Workloads, name: str, printed: str, experiment: str
) -> None:
    runner = workloads.folder / "notebook.py"
    runner.write_text(_NOTEBOOK, "utf-8")
    ran = workloads.run(runner, str(EXAMPLES / "notebooks" / f"{name}.ipynb"))
    assert printed in ran.output
    assert seen(ran, experiment).runs() != []
    assert list(ran.folder.glob("*.png")) != []
