"""How long the command line takes to start, against Python itself."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from tests.bench.scale import report, run

ROUNDS = 25
MOST = 4.0


def main(environment: dict[str, str]) -> bool:
    """Alternate the two commands; whether the promise held."""
    mlplatform = str(Path(sys.executable).with_name("mlplatform"))
    python, ours = [], []
    for _ in range(ROUNDS):
        python.append(run([sys.executable, "-c", "pass"], environment).seconds)
        ours.append(run([mlplatform, "--version"], environment).seconds)
    one, other = statistics.median(python), statistics.median(ours)
    print(
        f"python -c pass {1000 * one:.1f} ms, mlplatform --version {1000 * other:.1f} ms "
        f"(medians of {ROUNDS})"
    )
    return report("--version / python -c pass", other / one, other / one <= MOST, f"<= {MOST}")
