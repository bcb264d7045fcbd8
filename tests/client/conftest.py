"""Programs that log through durable URIs, each in a process of its own with a spool of its own."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mlflow_platform.client.spool import Spool, spools
from mlflow_platform.local import Stack
from tests.faults.proxy import Proxy

#: At the start of every program: warnings are visible, MLflow's own notes are not.
_BEGIN = """
import json, logging, os, sys, time, warnings
logging.basicConfig(format="%(name)s: %(message)s")
import mlflow
client = mlflow.MlflowClient()
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
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, program: str, *arguments: str, **more: str) -> str:
        """What a program that ends well prints; its warnings are in `self.warnings`."""
        process = self.start(program, *arguments, **more)
        out, self.warnings = process.communicate(timeout=300)
        assert process.returncode == 0, self.warnings
        return out.strip()

    def sync(self, *, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
        return self.mlplatform("sync", "--timeout", str(timeout))

    def mlplatform(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "mlflow_platform.cli", *arguments],
            env=self.variables(),
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
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"mlflow_platform.client.shipper" in command and str(self.base).encode() in command:
                os.kill(int(entry.name), 9)


@pytest.fixture
def logging_to(stack: Stack, tmp_path: Path) -> Iterator[Logging]:
    """The shared stack, by a durable URI; programs find an experiment's name of their own in $EXPERIMENT."""
    where = stack.endpoints().environment()
    experiment = {"EXPERIMENT": f"durable/{secrets.token_hex(4)}"}
    made = Logging(where.pop("MLFLOW_TRACKING_URI"), experiment, tmp_path / "spool", where)
    yield made
    made.stop_shipper()


@pytest.fixture
def proxied(logging_to: Logging, stack: Stack) -> Iterator[tuple[Logging, Proxy]]:
    """The same, by way of a proxy that does what networks do."""
    host, _, port = logging_to.uri.removeprefix("http://").rpartition(":")
    with Proxy((host, int(port))) as proxy:
        logging_to.uri = proxy.uri
        yield logging_to, proxy
        logging_to.stop_shipper()


@pytest.fixture
def plain(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
    """MLflow's own client, to see what is on the server."""
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    import mlflow

    return mlflow.MlflowClient(stack.endpoints().tracking_uri)
