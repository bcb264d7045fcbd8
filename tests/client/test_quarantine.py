"""What the server refused is not lost on its way into quarantine and out of it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlflow_platform.client import quarantine
from mlflow_platform.client.ids import Ids
from mlflow_platform.client.progress import waiting
from mlflow_platform.client.segments import Writer
from mlflow_platform.client.spool import LIMIT_VARIABLE, Record, Spool, append_line, read_lines
from mlflow_platform.errors import PlatformError


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spool:
    monkeypatch.setenv("MLPLATFORM_SPOOL", str(tmp_path))
    return Spool.of("https://mlflow.example.com", {"MLPLATFORM_SPOOL": str(tmp_path)})


def refuse(spool: Spool, *records: Record) -> None:
    for record in records:
        append_line(spool.quarantine, {"time": 0.0, "error": "no", "record": record})


def test_a_line_that_a_full_disk_cuts_is_not_there_and_spoils_no_other(tmp_path: Path) -> None:
    """A file size limit is a disk that takes the first part of a line and no more."""
    program = """
import resource, signal, sys
from pathlib import Path
from mlflow_platform.client.spool import append_line
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
append_line(path, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    append_line(path, "a line that is longer than what is left")
except OSError as error:
    print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
append_line(path, 3)
"""
    path = tmp_path / "lines"
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "No space left on device"
    assert path.read_text() == "1\n3\n"


def test_half_a_line_of_a_killed_shipper_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "ids.jsonl"
    path.write_bytes(b'{"id": "a", "real": "A"}\n{"id": "b", "re')
    seen = Ids(path)
    Ids(path).map("c", "C")
    seen.refresh()
    assert (seen.real("a"), seen.real("c")) == ("A", "C")
    assert Ids(path).real("c") == "C"


def test_a_retry_killed_in_the_middle_is_still_in_quarantine_and_the_next_one_ends_it(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = spool.blobs / "0" / "a.txt"
    blob.parent.mkdir()
    blob.write_text("x")
    long_ago = time.time() - 86_400
    os.utime(blob.parent, (long_ago, long_ago))
    refuse(spool, {"op": "artifact", "blob": "0/a.txt"}, {"op": "log", "run": "1"})
    with monkeypatch.context() as killed:
        killed.setattr(Writer, "append", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quarantine.retry(spool)
    # The server refuses something else meanwhile, and the shipper looks for copies that are nobody's.
    refuse(spool, {"op": "log", "run": "2"})
    quarantine.sweep(spool)
    assert blob.exists()
    assert [e["record"].get("run") for e in spool.quarantined()] == [None, "1", "2"]
    assert quarantine.retry(spool) == 3
    assert [r["op"] for r in waiting(spool)] == ["artifact", "log", "log"]
    assert spool.quarantined() == []
    # Nothing names the copy but the record that was put back.
    quarantine.sweep(spool)
    assert blob.exists()


def test_a_retry_without_room_says_so_and_keeps_everything(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse(spool, {"op": "log", "run": "1"})
    monkeypatch.setenv(LIMIT_VARIABLE, "10")
    with pytest.raises(PlatformError, match="takes no more records") as told:
        quarantine.retry(spool)
    assert LIMIT_VARIABLE in told.value.problem.remedy
    assert len(spool.quarantined()) == 1
    quarantine.drop(spool)
    assert spool.quarantined() == []
    assert json.loads(spool.acknowledged.read_text())["lost"] == 0
    assert list(read_lines(spool.retried)) == []
