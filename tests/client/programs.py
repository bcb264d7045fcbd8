"""Programs that log through durable URIs, each in a process of its own with a spool of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_platform.client.spool import Spool, spools

_REPOSITORY = Path(__file__).parents[2]
#: At the start of every program: warnings are visible, MLflow's own notes are not.
_BEGIN = """
import json, logging, os, sys, time, warnings
logging.basicConfig(format="%(name)s: %(message)s")
import mlflow
client = mlflow.MlflowClient()
"""


#: Logs a model, then what belongs to it; prints the ids, and with the argument `load` what it predicts.
LOG_MODEL = """
import mlflow.pyfunc
class Double(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[float]) -> list[float]:
        return [2 * x for x in model_input]
mlflow.set_experiment(os.environ["EXPERIMENT"])
with mlflow.start_run() as run:
    info = mlflow.pyfunc.log_model(
        name="double", python_model=Double(), pip_requirements=[], params={"depth": 3}
    )
    mlflow.log_metric("accuracy", 0.9, model_id=info.model_id)
    mlflow.set_logged_model_tags(info.model_id, {"stage": "draft"})
print(json.dumps({"run": run.info.run_id, "model": info.model_id, "uri": info.model_uri}))
if "load" in sys.argv:
    print(mlflow.pyfunc.load_model(info.model_uri).predict([1.0, 2.0]))
"""


@dataclass
class Logging:
    """Where durable programs of one test log to, and the spool they share."""

    uri: str
    environment: dict[str, str]
    base: Path
    login: dict[str, str] = field(default_factory=dict)

    def variables(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_"))}
        return {
            **kept,
            "MLFLOW_TRACKING_URI": f"durable+{self.uri}",
            "MLPLATFORM_SPOOL": str(self.base),
            "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.login,
            **self.environment,
            **more,
        }

    def start(self, program: str, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", _BEGIN + program, *arguments],
            env=self.variables(**more),
            cwd=self.base.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: str, **more: str) -> str:
        """What a program that ends well prints; its warnings are in `self.warnings`."""
        return self._ended(self.start(program, *arguments, **more))

    def run_module(self, name: str, *arguments: str, **more: str) -> str:
        """What a module of the tests prints that ends well."""
        process = subprocess.Popen(
            [sys.executable, "-m", name, *arguments],
            env=self.variables(**more),
            cwd=_REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        return self._ended(process)

    def _ended(self, process: subprocess.Popen[str]) -> str:
        out, self.warnings = process.communicate(timeout=300)
        assert process.returncode == 0, self.warnings
        return out.strip()

    def sync(self, *, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return self.mlplatform("sync", "--timeout", str(timeout))

    def start_mlplatform(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "mlflow_platform.cli", *arguments],
            env=self.variables(),
            cwd=self.base.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def mlplatform(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlflow_platform.cli", *arguments],
            env=self.variables(),
            cwd=self.base.parent,
            capture_output=True,
            text=True,
            timeout=300,
        )

    @property
    def spool(self) -> Spool:
        (found,) = spools(self.base)
        return found

    def stop_shipper(self) -> None:
        """End this spool's shipper, as a reboot would."""
        stop_shippers(self.base)


def stop_shippers(base: Path) -> None:
    """kill -9 for the shippers of all spools below a folder."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if b"mlflow_platform.client.shipper" in command and str(base).encode() in command:
            os.kill(int(entry.name), 9)
