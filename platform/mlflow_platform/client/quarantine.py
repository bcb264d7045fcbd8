"""What becomes of records that the server refuses: kept, tried again, or deleted."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

from mlflow_platform.client.segments import Writer
from mlflow_platform.client.spool import Spool, encode, limit, read_lines, replace

#: Seconds after which a copy that no record names is nobody's: a program copies before it records.
_ORPHANED = 3600.0


def retry(spool: Spool) -> int:
    """Put every record of the quarantine back into the spool; how many. A retry that is killed is finished by
    the next one; records may then be delivered twice, which has no effect."""
    taken = spool.root / "quarantine.retried.jsonl"
    if not taken.exists() and spool.quarantine.exists():
        spool.quarantine.rename(taken)
    writer = Writer(spool.root, limit=2 * limit())
    count = 0
    for entry in read_lines(taken):
        writer.append(encode(entry["record"]))
        count += 1
    writer.close()
    taken.unlink(missing_ok=True)
    return count


def drop(spool: Spool) -> None:
    """Delete the quarantine with its artifacts, and take note of what was refused or damaged until now."""
    for entry in spool.quarantined():
        if blob := entry["record"].get("blob"):
            shutil.rmtree((spool.blobs / blob).parent, ignore_errors=True)
    spool.quarantine.unlink(missing_ok=True)
    cursor = spool.cursor()
    replace(spool.acknowledged, json.dumps({"refused": spool.refused(cursor), "lost": cursor.lost}))


def sweep(spool: Spool) -> None:
    """Delete copies of artifacts whose program was killed before it had logged them: nothing names them.
    To be called when nothing waits to be delivered."""
    named = {Path(e["record"]["blob"]).parent.name for e in spool.quarantined() if "blob" in e["record"]}
    for folder in spool.blobs.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if folder.name not in named and time.time() - folder.stat().st_mtime > _ORPHANED:
                shutil.rmtree(folder, ignore_errors=True)


def acknowledged(spool: Spool) -> dict[str, int]:
    """How many refused records and damaged bytes were taken note of."""
    return next(read_lines(spool.acknowledged), {"refused": 0, "lost": 0})
