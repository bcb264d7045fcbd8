"""Folders for the time of a command, which go with it however it ends.

Who is killed cannot tidy up: the next command of the same sort does it. Its folders are told from those of
living processes by a lock (flock(2)), which the kernel takes away from a dead one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

_LOCK, _UNLOCKED = ".lock", ".unlocked"


@contextlib.contextmanager
def folder(sort: str) -> Iterator[Path]:
    """A new folder `mlplatform-<sort>-...` among the temporary files (TMPDIR)."""
    prefix = f"mlplatform-{sort}-"
    _sweep(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        path = Path(name)
        # Under its name only when it is locked: whoever sweeps takes an unlocked one for a dead process's.
        with (path / _UNLOCKED).open("xb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (path / _UNLOCKED).rename(path / _LOCK)
            yield path


def _sweep(prefix: str) -> None:
    """Delete this user's folders of processes that are gone."""
    for path in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with contextlib.suppress(OSError):  # another user's, or gone meanwhile, or somebody is alive
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            with (path / _LOCK).open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
