"""Temporary folders go with their process, or with the next one of the same sort."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mlflow_platform.adapters import temporary

_WAITING = """
import sys
from mlflow_platform.adapters import temporary
with temporary.folder("tried") as path:
    (path / "file").write_text("x")
    print(path, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_goes_with_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", _WAITING],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    killed, living = [Path(p.stdout.readline().strip()) for p in programs if p.stdout]
    programs[0].send_signal(signal.SIGKILL)
    programs[0].wait()
    others = tmp_path / "mlplatform-tried-of-an-older-version"
    others.mkdir()
    assert (killed / "file").exists()
    with temporary.folder("other"):
        assert killed.exists(), "only those of its sort are swept"
    with temporary.folder("tried") as mine, temporary.folder("tried") as too:
        assert {p.name for p in tmp_path.iterdir()} == {p.name for p in (living, mine, too, others)}
    programs[1].communicate("")
    programs[0].communicate()
    assert [p.name for p in tmp_path.iterdir()] == [others.name]
