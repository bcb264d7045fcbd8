"""The user's process's side of a spool: append, see to it that a shipper is at work, wait for it."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import mlflow_platform
from mlflow_platform.client.segments import Position, RecordTooLarge, SpoolFull
from mlflow_platform.client.spool import Record, Spool, encode, has_shipper

_log = logging.getLogger("mlflow_platform.client")

#: Seconds between two looks whether there is a shipper; between two starts of one, the least and the most.
_LOOK = 1.0
_RESTART = (2.0, 60.0)
_POLL = 0.01
#: Seconds that a wait goes on although the shipper says that nothing gets through.
_PATIENCE = 1.0
_LOG_BYTES = 1 << 20
#: Set to any value: no shipper is started; `mlplatform sync` delivers.
OFFLINE = "MLPLATFORM_OFFLINE"


class Courier:
    """Hands records over. Threads and forked children may share it. `describe` makes the file that says whose
    the spool is, where the disk had no room for it at first: without it nobody delivers."""

    def __init__(self, spool: Spool, describe: Callable[[], None]) -> None:
        self.spool = spool
        self._describe = describe
        self._writer = spool.writer()
        self._next_look = 0.0
        self._next_start = 0.0
        self._restart = _RESTART[0]
        self._warned: set[str] = set()
        self._quarantine = _size(spool.quarantine)
        self._child = 0
        _couriers.add(self)

    def send(self, record: Record) -> Position:
        """Append a record. Raises `SpoolFull`, `RecordTooLarge`."""
        position = self._writer.append(encode(record))
        if time.monotonic() >= self._next_look:
            self.look()
        return position

    def reserve(self, size: int) -> None:
        """Count the bytes of an artifact that is about to be copied. Raises `SpoolFull`."""
        self._writer.reserve(size)

    def count_refused(self) -> None:
        """Count what the disk had no room for beside the segments."""
        self._writer.count_refused()

    def look(self) -> None:
        """Start a shipper if there is none, and warn once of records that the server refused."""
        now = time.monotonic()
        self._next_look = now + _LOOK
        if self._child:
            with contextlib.suppress(OSError):
                if os.waitpid(self._child, os.WNOHANG)[0]:
                    self._child = 0
        try:
            if not self.spool.description.exists():
                self._describe()
            if now >= self._next_start and not os.environ.get(OFFLINE) and not has_shipper(self.spool):
                self._next_start = now + self._restart
                self._restart = min(2 * self._restart, _RESTART[1])
                self._start()
        except OSError as error:
            self.warn(f"no process that delivers what is logged could be started: {error}")
        if _size(self.spool.quarantine) > self._quarantine:
            self.warn(
                "the tracking server refuses some of what is logged; "
                f"`mlplatform spool quarantine --spool {self.spool.root}` lists it"
            )

    def warn(self, text: str) -> None:
        """Say something once."""
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s", text)

    def position(self) -> Position | None:
        return self._writer.position()

    def is_delivered(self, position: Position | None) -> bool:
        return position is None or self.spool.is_delivered(position, self.spool.cursor())

    def drain(self, seconds: float) -> bool:
        """Wait until all of this process is delivered, at most so long, and shorter when nothing gets
        through; whether it is."""
        position = self._writer.position()
        if position is None:
            return True
        if os.environ.get(OFFLINE):
            return self.is_delivered(position)
        began = time.monotonic()
        pause = _POLL
        while not self.spool.is_delivered(position, cursor := self.spool.cursor()):
            waited = time.monotonic() - began
            if waited >= seconds or (cursor.problem and waited >= min(_PATIENCE, seconds)):
                return False
            if time.monotonic() >= self._next_look:
                self.look()
            time.sleep(pause)
            pause = min(2 * pause, 0.1)
        return True

    def _start(self) -> None:
        """Start the shipper, detached: it outlives this process, its terminal and its Ctrl-C."""
        log = self.spool.log
        if _size(log) > _LOG_BYTES:
            log.replace(log.with_name("shipper.log.1"))
        # What this program found us by need not be on the path of a new one.
        path = [str(Path(mlflow_platform.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        # Not subprocess: its object would warn when this program ends before its child.
        self._child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", "mlflow_platform.client.shipper", str(self.spool.root)],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
        )


_couriers: weakref.WeakSet[Courier] = weakref.WeakSet()


@atexit.register
def _at_exit() -> None:
    """What was logged since the last look still needs a shipper."""
    for courier in list(_couriers):
        if courier.position() is not None:
            courier.look()


def _in_child() -> None:
    for courier in _couriers:
        courier._child = 0
        courier._next_look = 0.0


os.register_at_fork(after_in_child=_in_child)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


__all__ = ["OFFLINE", "Courier", "RecordTooLarge", "SpoolFull"]
