"""Rendering the production profile, validation included, beside `helm template` of a chart as large.

`tests/bench/helm-chart` is a plain Helm chart that makes the same kinds of objects in about the same
number and size, with a values schema, so that both programs do the same work. The bar holds the least of
the rounds, which is disturbed least by what else the machine does.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from mlflow_platform.chart import find_chart
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
    with tempfile.TemporaryDirectory(prefix="mlplatform-bench-") as scratch:
        return compare(environment, Path(scratch))


def compare(environment: dict[str, str], scratch: Path) -> bool:
    """Alternate the two commands; whether the promise held."""
    settings = (word for setting in SETTINGS for word in ("--set", setting))
    mlplatform = str(Path(sys.executable).with_name("mlplatform"))
    ours = [mlplatform, "render", "--profile", "production", *settings]
    plain = scratch / "helm-chart"
    shutil.copytree(Path(__file__).with_name("helm-chart"), plain)
    shutil.copytree(find_chart().folder / "files", plain / "files")
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
        per_object[command] = 1000 * min(took[command]) / objects
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
    least = min(took["ours"])
    good &= report("whole `mlplatform render`, least seconds", least, least <= MOST, f"<= {MOST}")
    print(f"  ms an object, ours / helm's                {per_object['ours'] / per_object['helm']:8.2f}")
    return good
