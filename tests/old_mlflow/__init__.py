"""An older MLflow beside the present one: its real code on the present one's dependencies."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlplatform-old-mlflow"


def installed(version: str) -> Path:
    """A folder that holds this version of MLflow and nothing else; made once, outside the repository."""
    CACHE.mkdir(parents=True, exist_ok=True)
    folder = CACHE / version
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = CACHE / f"{version}.half"
            packages = [f"{name}=={version}" for name in ("mlflow", "mlflow-skinny", "mlflow-tracing")]
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run(
                [*command, "--no-deps", "--upgrade", "--target", str(half), *packages],
                check=True,
                timeout=600,
            )
            half.rename(folder)
    return folder


def environment(version: str, more: Mapping[str, str]) -> dict[str, str]:
    """In which `python` finds this version; nothing of this shell's MLflow settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return {**kept, "PYTHONPATH": str(installed(version)), "PYTHONWARNINGS": "ignore", **more}


def populate(version: str, more: Mapping[str, str]) -> None:
    """Its schemas in the database of libpq's variables, with rows in many of its tables."""
    subprocess.run(
        [sys.executable, str(HERE / "populate.py")],
        env=environment(version, more),
        check=True,
        capture_output=True,
        timeout=300,
    )
