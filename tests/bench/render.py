"""Rendering the production profile, validation included, beside `helm template` of a chart as large.

`tests/bench/helm-chart` is a plain Helm chart that makes the same kinds of objects in about the same
number and size, with a values schema, so that both programs do the same work.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from tests.bench.scale import report, run
from tests.tools import go

ROUNDS = 15
#: Seconds that the whole command may take, and how far the two outputs may differ in size.
MOST, MOST_DIFFERENCE = 0.5, 0.15
SETTINGS = (
    "store.bucket=artifacts",
    "gateway={enabled: true, host: mlflow.example.com, parentRefs: [{name: public}]}",
)


def main(environment: dict[str, str]) -> bool:
    """Alternate the two commands; whether the promise held."""
    settings = (word for setting in SETTINGS for word in ("--set", setting))
    mlplatform = str(Path(sys.executable).with_name("mlplatform"))
    ours = [mlplatform, "render", "--profile", "production", *settings]
    plain = Path(__file__).with_name("helm-chart")
    helm = [
        str(go.program("helm")),
        "template",
        "mlflow",
        str(plain),
        "-n",
        "mlflow",
        "--kube-version",
        "1.34",
    ]
    took: dict[str, list[float]] = {"ours": [], "helm": []}
    output: dict[str, str] = {}
    for _ in range(ROUNDS):
        for name, command in (("ours", ours), ("helm", helm)):
            ran = run(command, environment)
            took[name].append(ran.seconds)
            output[name] = ran.output
    per_object = {}
    for name, command in (("mlplatform render", "ours"), ("helm template", "helm")):
        objects = output[command].count("\nkind: ")
        middle = statistics.median(took[command])
        per_object[command] = 1000 * middle / objects
        print(
            f"{name}: {objects} objects, {len(output[command]):,} bytes, least {min(took[command]):.3f} s, "
            f"median {middle:.3f} s of {ROUNDS}, {per_object[command]:.1f} ms an object"
        )
    difference = abs(len(output["ours"]) / len(output["helm"]) - 1)
    good = report(
        "size of the two outputs, difference",
        difference,
        difference <= MOST_DIFFERENCE,
        f"<= {MOST_DIFFERENCE}",
    )
    median = statistics.median(took["ours"])
    good &= report("whole `mlplatform render`, seconds", median, median <= MOST, f"<= {MOST}")
    print(f"  ms an object, ours / helm's                {per_object['ours'] / per_object['helm']:8.2f}")
    return good
