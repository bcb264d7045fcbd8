"""Programs of the workloads: each runs once, in a process of its own; a test a row looks at what it left."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_platform.local import Stack
from tests.client.programs import Logging

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


@dataclass
class Workload:
    """What a program logged, as MLflow's own client sees it on the server."""

    client: Any
    experiment: str
    folder: Path
    printed: dict[str, Any] = field(default_factory=dict)
    output: str = ""
    warnings: str = ""

    @property
    def experiment_id(self) -> str:
        return str(self.client.get_experiment_by_name(self.experiment).experiment_id)

    def runs(self, filter_string: str = "") -> list[Any]:
        return list(self.client.search_runs([self.experiment_id], filter_string, max_results=1000))

    def run(self, filter_string: str) -> Any:
        (found,) = self.runs(filter_string)
        return found

    def traces(self) -> list[Any]:
        return list(self.client.search_traces(locations=[self.experiment_id], max_results=500))

    def artifact(self, run: Any, path: str) -> str:
        target = self.folder / "read" / run.info.run_id
        target.mkdir(parents=True, exist_ok=True)
        return Path(self.client.download_artifacts(run.info.run_id, path, str(target))).read_text("utf-8")


@dataclass
class Workloads:
    """Runs programs against the stack, each with a spool of its own."""

    stack: Stack
    folder: Path
    client: Any
    spools: list[Logging] = field(default_factory=list)

    def run(self, program: str | Path, *arguments: str, **variables: str) -> Workload:
        """Run a program to its end and deliver what it logged. Its last line of output may be JSON."""
        where = self.stack.endpoints().environment()
        experiment = variables.pop("MLFLOW_EXPERIMENT_NAME", f"workloads/{secrets.token_hex(4)}")
        folder = self.folder / secrets.token_hex(4)
        folder.mkdir()
        logging = Logging(where.pop("MLFLOW_TRACKING_URI"), {}, folder / "spool", where)
        self.spools.append(logging)
        settings = {
            "MLFLOW_TRACKING_URI": logging.uri,
            "MLFLOW_EXPERIMENT_NAME": experiment,
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, EXAMPLES))),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "MPLBACKEND": "agg",
            **variables,
        }
        done = subprocess.run(
            [sys.executable, str(PROGRAMS / program), *arguments],
            env=logging.variables(**settings),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        delivered = logging.sync()
        assert delivered.returncode == 0, delivered.stdout + delivered.stderr
        lines = done.stdout.strip().splitlines()
        printed = json.loads(lines[-1]) if lines and lines[-1].startswith('{"') else {}
        return Workload(self.client, experiment, folder, printed, done.stdout, done.stderr)

    def run_plain(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """A program that logs to no server of ours; $MLFLOW_TRACKING_URI is not set."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_"))}
        kept["MLPLATFORM_SPOOL"] = str(self.folder / "none")
        return subprocess.run(
            command, env={**kept, **variables}, cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def stop(self) -> None:
        for logging in self.spools:
            logging.stop_shipper()
