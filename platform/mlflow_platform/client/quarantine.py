"""What becomes of records that the server refuses: kept, tried again, or deleted."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from pathlib import Path

from mlflow_platform.client.segments import SpoolFull, Writer, segments
from mlflow_platform.client.spool import LIMIT_VARIABLE, Spool, encode, limit, read_lines, replace
from mlflow_platform.errors import PlatformError

#: Seconds after which a copy that no record names is nobody's: a program copies before it records.
_ORPHANED = 3600.0


def retry(spool: Spool) -> int:
    """Put every record of the quarantine back into the spool; how many. A retry that is killed is finished by
    the next one; records may then be delivered twice, which has no effect. Raises `PlatformError`."""
    writer = Writer(spool.root, limit=2 * limit())
    count = 0
    for leftover in (True, False):
        if not leftover and spool.quarantine.exists():
            spool.quarantine.rename(spool.retried)
        for entry in read_lines(spool.retried):
            try:
                writer.append(encode(entry["record"]))
            except SpoolFull as full:
                raise PlatformError(
                    f"the spool {spool.root} takes no more records: {full}",
                    remedy=f"make room on its disk, or raise {LIMIT_VARIABLE}, and try again: all that was "
                    "in quarantine still is",
                ) from full
            count += 1
        spool.retried.unlink(missing_ok=True)
    writer.close()
    return count


def drop(spool: Spool) -> None:
    """Delete the quarantine with its artifacts, and take note of what was refused or damaged until now."""
    for entry in spool.quarantined():
        if blob := entry["record"].get("blob"):
            shutil.rmtree((spool.blobs / blob).parent, ignore_errors=True)
    spool.quarantine.unlink(missing_ok=True)
    spool.retried.unlink(missing_ok=True)
    cursor = spool.cursor()
    replace(spool.acknowledged, json.dumps({"refused": spool.refused(cursor), "lost": cursor.lost}))


def sweep(spool: Spool) -> None:
    """Delete copies of artifacts whose program was killed before it had logged them: nothing names them.
    To be called when nothing waits to be delivered."""
    named = {Path(e["record"]["blob"]).parent.name for e in spool.quarantined() if "blob" in e["record"]}
    if segments(spool.root):
        return  # put back in this moment, by a retry: what they name is no longer in quarantine
    for folder in spool.blobs.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if folder.name not in named and time.time() - folder.stat().st_mtime > _ORPHANED:
                shutil.rmtree(folder, ignore_errors=True)


def acknowledged(spool: Spool) -> dict[str, int]:
    """How many refused records and damaged bytes were taken note of."""
    return next(read_lines(spool.acknowledged), {"refused": 0, "lost": 0})
