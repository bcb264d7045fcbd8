"""Which processes are ours, proved by the kernel and never by name; and how they are stopped.

Every process of a stack inherits the variable `MLPLATFORM_STACK=<id>`, which /proc shows for as long
as it lives. Postgres' workers overwrite that memory with their title, but a postgres keeps its data
folder as working directory. A pid alone proves nothing: it may have been given to another process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

MARK = "MLPLATFORM_STACK"
#: `pid:started` of the process that a stack must not outlive.
OWNER = "MLPLATFORM_OWNER"


@dataclass(frozen=True, slots=True)
class Process:
    """A process for good: its pid and when it started, in clock ticks since boot (proc(5), field 22)."""

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        return look(self.pid) == self


def look(pid: int) -> Process | None:
    """The living process with this pid; None if there is none, or only a zombie.

    A killed process whose first thread is a zombie already still holds its files, and so its locks and
    ports, until its last thread has ended (proc(5), field 20): it counts as living.
    """
    try:
        # The command name, field 2, may hold spaces and parentheses: fields count from its last one.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    ended = fields[0] in "ZX" and int(fields[17]) <= 1
    return None if ended else Process(pid, int(fields[19]))


def belongs(pid: int, stack_id: str, postgres_data: Path | None = None) -> bool:
    """Whether the process carries the stack's mark, or is a postgres at work in `postgres_data`."""
    proc = Path(f"/proc/{pid}")
    try:
        if f"{MARK}={stack_id}".encode() in (proc / "environ").read_bytes().split(b"\0"):
            return True
    except OSError:
        return False  # gone, or another user's
    return postgres_data is not None and _is_postgres_in(pid, postgres_data)


def ours(stack_id: str, postgres_data: Path | None = None, *, but: Iterable[int] = ()) -> Iterator[Process]:
    """Every living process of the stack, apart from the pids in `but` and the caller."""
    excluded = {os.getpid(), *but}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (pid := int(entry.name)) not in excluded:
            process = look(pid)
            if process is not None and belongs(pid, stack_id, postgres_data):
                yield process


def stop_session(session: int, stack_id: str) -> None:
    """Kill what a server of the stack left behind: ours, in the session that the server led."""
    for process in ours(stack_id):
        try:
            same = os.getsid(process.pid) == session
        except ProcessLookupError:
            continue
        if same:
            send(process, signal.SIGKILL)


def postgres_in(data: Path) -> list[Process]:
    """The living postgres processes at work in a data folder."""
    pids = (int(e.name) for e in os.scandir("/proc") if e.name.isdigit())
    return [p for pid in pids if _is_postgres_in(pid, data) and (p := look(pid)) is not None]


def stop_all(stack_id: str, postgres_data: Path | None, *, grace: float = 10.0) -> int:
    """End every process of the stack: SIGINT to postgres (fast shutdown), SIGTERM to the rest, SIGKILL
    to what is left after `grace` seconds. Returns how many there were."""
    found = list(ours(stack_id, postgres_data))
    for process in found:
        send(process, signal.SIGINT if _is_postgres(process.pid) else signal.SIGTERM)
    if not wait_gone(found, grace):
        for process in ours(stack_id, postgres_data):
            send(process, signal.SIGKILL)
        wait_gone(list(ours(stack_id, postgres_data)), 5.0)
    return len(found)


def send(process: Process, number: signal.Signals) -> None:
    """Signal that very process, or nothing if it has ended."""
    if process.alive:
        try:
            os.kill(process.pid, number)
        except ProcessLookupError:
            return


def wait_gone(processes: Iterable[Process], timeout: float) -> bool:
    """Wait until all have ended; False if some live on after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    left = list(processes)
    while left := [p for p in left if p.alive]:
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def _is_postgres(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").readlink().name == "postgres"
    except OSError:
        return False


def _is_postgres_in(pid: int, data: Path) -> bool:
    try:
        return _is_postgres(pid) and Path(f"/proc/{pid}/cwd").readlink() == data.resolve()
    except OSError:
        return False
