"""MLflow's own server, that knows nothing of us."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

#: Hides our entry points from MLflow, as on a machine where we are not installed.
_WITHOUT_US = """
import importlib.metadata as metadata
every = metadata.entry_points
metadata.entry_points = lambda **k: metadata.EntryPoints(
    e for e in every(**k) if not e.value.startswith("mlflow_platform")
)
"""


class StockServer:
    """A server on a database file in `folder`, at the same address after each start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "site").mkdir()
        (folder / "site" / "sitecustomize.py").write_text(_WITHOUT_US)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        """Start it if it does not run, and wait until it answers."""
        if self._process is None:
            self._process = self._start()
        deadline = time.monotonic() + 180
        log = self._folder / "stock.log"
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2).close()
                return
            except OSError:
                assert self._process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

    def _start(self) -> subprocess.Popen[bytes]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_"))}
        path = os.pathsep.join(filter(None, (str(self._folder / "site"), os.environ.get("PYTHONPATH"))))
        with (self._folder / "stock.log").open("ab") as log:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "mlflow", "server", f"--port={self._port}", "--workers=1"),
                    "--uvicorn-opts=--loop uvloop",
                    f"--backend-store-uri=sqlite:///{self._folder / 'stock.db'}",
                    f"--artifacts-destination={self._folder / 'artifacts'}",
                ],
                env={**kept, "PYTHONPATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9, with all of its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
