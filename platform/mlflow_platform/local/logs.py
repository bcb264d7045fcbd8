"""The servers' logs: bounded files that servers append to by themselves.

A server's output goes straight into its file, so that it survives the supervisor. A file that has
grown past the bound is copied to `<file>.1` and emptied; servers append (O_APPEND), so they go on at
the start of the file.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Bytes of one log file; with the older one, a process keeps twice as much.
MAX_BYTES = 10 * 1024 * 1024


def open_for_appending(path: Path) -> int:
    """A file descriptor to hand to a process as stdout and stderr; the file has mode 0600."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def bound(path: Path, *, maximum: int = MAX_BYTES) -> bool:
    """Shorten a log that is larger than `maximum` bytes; whether it was."""
    try:
        if path.stat().st_size <= maximum:
            return False
        older = path.with_name(path.name + ".1")
        shutil.copyfile(path, older)
        older.chmod(0o600)
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, without line ends; none if there is no such file."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            block = b""
            while size > 0 and block.count(b"\n") <= lines:
                step = min(65_536, size)
                size -= step
                file.seek(size)
                block = file.read(step) + block
    except FileNotFoundError:
        return []
    return block.decode(errors="replace").splitlines()[-lines:] if lines else []


def follow(paths: Iterable[Path], *, interval: float = 0.2) -> Iterator[tuple[Path, str]]:
    """Lines as they are written, for ever; starts at the files' ends and notices when one is emptied."""
    positions = {p: p.stat().st_size if p.exists() else 0 for p in paths}
    rest = dict.fromkeys(positions, b"")
    while True:
        quiet = True
        for path, position in positions.items():
            try:
                with path.open("rb") as file:
                    if os.fstat(file.fileno()).st_size < position:
                        position, rest[path] = 0, b""
                    file.seek(position)
                    new = file.read(1 << 20)
                    positions[path] = file.tell()
            except FileNotFoundError:
                continue
            if new:
                quiet = False
                *whole, rest[path] = (rest[path] + new).split(b"\n")
                for line in whole:
                    yield path, line.decode(errors="replace")
        if quiet:
            time.sleep(interval)
