"""Two experiments compared into a report: a page with a table, best first, and a picture.

python examples/compare_experiments.py examples/retrieval examples/agent
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path

from mlflow_platform.client import MLflowTracker
from mlflow_platform.client.pictures import Kpi, kpi_dashboard, number


def main(names: list[str], report: Path = Path("report.html")) -> None:
    tracker = MLflowTracker(experiment_name="examples/reports")
    client = tracker.session.need().client
    rows, cards = [], []
    for name in names:
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise SystemExit(f"there is no experiment {name!r}: run its example first")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
        seconds = [r.data.metrics["latency_seconds"] for r in runs if "latency_seconds" in r.data.metrics]
        cards.append(Kpi(f"latency of {name}", seconds, "s", lower_is_better=True))
        for run in runs:
            score = run.data.metrics.get("accuracy", run.data.metrics.get("answered"))
            if score is not None:
                rows.append(
                    (score, name, run.info.run_name, run.data.metrics.get("latency_seconds", float("nan")))
                )
    rows.sort(key=lambda row: -row[0])
    table = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(run)}</td><td>{score:.0%}</td><td>{number(took)} s</td></tr>"
        for score, name, run, took in rows
    )
    head = "<tr><th>experiment</th><th>run</th><th>score</th><th>latency</th></tr>"
    page = kpi_dashboard(cards, title="Experiments compared")
    report.write_text(page.replace("</main>", f"</main><table cellpadding=6>{head}{table}</table>"), "utf-8")
    with tracker.start_run("report") as run:
        tracker.log_params({"experiments": ", ".join(names), "runs": len(rows)})
        tracker.log_artifact(report)
    print(f"{len(rows)} runs compared; best: {rows[0][2]} of {rows[0][1]}")
    print(f"{report}, and with run {run.run_id}")


if __name__ == "__main__":
    main(sys.argv[1:] or ["examples/retrieval", "examples/agent"])
