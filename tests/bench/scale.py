"""10,000 experiments and 1,000 models: a no-op plan against a bare listing, creating against a bare loop."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.config.transfer import as_yaml
from mlflow_platform.model.base import API_VERSION

EXPERIMENTS, MODELS = 10_000, 1_000
ROUNDS = 5
TAGS = {"team": "search", "tier": "gold", "cost-centre": "4711", "stage": "dev", "contact": "ml@example.com"}

#: What is promised of a no-op plan, and of creating.
MOST_NO_OP, LEAST_CREATE, MOST_REQUESTS, MOST_MEMORY_MB = 1.5, 0.9, 40, 300


@dataclass(frozen=True)
class Ran:
    """One process: seconds of wall time, the most memory in MB, what it printed, its exit code."""

    seconds: float
    memory: float
    output: str
    code: int


def run(arguments: list[str], environment: dict[str, str], *expected: int) -> Ran:
    """Run a command alone and measure it; end the benchmark when it fails."""
    start = time.perf_counter()
    process = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - start
    if process.returncode not in (expected or (0,)):
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}:\n{output[-2000:]}")
    return Ran(seconds, usage.ru_maxrss / 1024, output, process.returncode)


def documents(prefix: str) -> list[dict[str, object]]:
    """The declared objects; names start with `prefix`."""
    found: list[dict[str, object]] = []
    for kind, count in (("Experiment", EXPERIMENTS), ("RegisteredModel", MODELS)):
        for i in range(count):
            metadata = {"name": f"{prefix}-{kind.lower()}-{i:05}"}
            spec = {"description": f"Number {i} of the benchmark.", "tags": TAGS}
            found.append({"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec})
    return found


def write_folder(folder: Path, declared: list[dict[str, object]]) -> None:
    """A configuration of files with 1,000 documents each."""
    folder.mkdir()
    (folder / "mlplatform.toml").write_text('project = "bench"\n')
    for start in range(0, len(declared), 1000):
        (folder / f"part-{start:05}.yaml").write_text(as_yaml(declared[start : start + 1000]))


def bare_bodies(prefix: str, share: slice) -> list[str]:
    """Lines for `tests.bench.bare create`: the same objects, with a mark as long as ours."""
    mark = json.dumps({"owner": "project:bare!", "object": "X" * 52, "deletion": "Retain", "paths": "x" * 53})
    lines = []
    for declared in documents(prefix)[share]:
        metadata, spec = declared["metadata"], declared["spec"]
        assert isinstance(metadata, dict)
        assert isinstance(spec, dict)
        tags = [{"key": k, "value": v} for k, v in {**spec["tags"], "mlplatform.io/mark": mark}.items()]
        body = {"name": metadata["name"], "tags": tags}
        if declared["kind"] == "Experiment":
            tags.append({"key": "mlflow.note.content", "value": spec["description"]})
            lines.append(json.dumps(["experiments/create", body]))
        else:
            lines.append(
                json.dumps(["registered-models/create", {**body, "description": spec["description"]}])
            )
    return lines


def main(environment: dict[str, str], scratch: Path) -> bool:
    """Run it against the server of `environment`; whether every promise held."""
    total = EXPERIMENTS + MODELS
    command = [sys.executable, "-m", "mlflow_platform.cli"]
    folder = scratch / "documents"
    write_folder(folder, documents("ours"))
    halves = [scratch / "bare-1", scratch / "bare-2"]
    for file, share in zip(halves, (slice(0, None, 2), slice(1, None, 2)), strict=True):
        file.write_text("\n".join(bare_bodies("bare", share)))

    def bare_create(file: Path) -> float:
        return float(run([sys.executable, "-m", "tests.bench.bare", "create", str(file)], environment).output)

    # Half of the bare loop before and half after ours, so that what slows the machine slows both.
    bare = bare_create(halves[0])
    ours = run([*command, "apply", str(folder), "--json"], environment)
    bare += bare_create(halves[1])
    ratio = bare / ours.seconds
    print(
        f"create {total:,} objects: bare loop {total / bare:.0f}/s, "
        f"whole `mlplatform apply` {total / ours.seconds:.0f}/s ({ours.memory:.0f} MB)"
    )
    good = report("create, share of the bare loop's rate", ratio, ratio >= LEAST_CREATE, f">= {LEAST_CREATE}")

    listings, plans = [], []
    for _ in range(ROUNDS):
        listings.append(run([sys.executable, "-m", "tests.bench.bare", "list"], environment))
        plans.append(run([*command, "plan", str(folder), "--json"], environment))
    requests = json.loads(plans[-1].output)["servers"][0]["requests"]
    listing = statistics.median(r.seconds for r in listings)
    plan = statistics.median(r.seconds for r in plans)
    print(
        f"no-op over {total:,} declared and {2 * total:,} existing objects: "
        f"bare listing {listing:.2f} s, whole `mlplatform plan` {plan:.2f} s (medians of {ROUNDS})"
    )
    good &= report(
        "no-op plan / bare listing", plan / listing, plan / listing <= MOST_NO_OP, f"<= {MOST_NO_OP}"
    )
    sent = requests["reads"] + requests["writes"]
    good &= report("requests of a no-op plan", sent, sent <= MOST_REQUESTS, f"<= {MOST_REQUESTS}")
    good &= report("writes of a no-op plan", requests["writes"], requests["writes"] == 0, "0")
    memory = max(r.memory for r in plans)
    return good & report("memory of a no-op plan, MB", memory, memory < MOST_MEMORY_MB, f"< {MOST_MEMORY_MB}")


def report(name: str, value: float, held: bool, bar: str) -> bool:
    """Print one figure beside its bar; `held` again."""
    print(f"  {name:<40} {value:8.2f}   {bar:<8} {'ok' if held else 'NOT MET'}", flush=True)
    return held
