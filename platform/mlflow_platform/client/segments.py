"""Segments: append-only files of framed records, each written by one process and read by another.

::

    file   = "mlspool1", refused (u64), frame*
    frame  = magic, length (u32), crc32 (u32), sequence (u64), time in ns since 1970 (u64), payload

A record whose `append` has returned is in the page cache, so it survives `kill -9` of its program; it
does not survive a power cut, as nothing is forced to the disk. The writer of a segment holds an flock
on it for as long as it lives: a segment without the lock is complete, and what its end lacks is lost.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".segment"
#: Bytes after which a writer begins a new segment, so that delivered ones can be deleted.
SEGMENT_BYTES = 8 << 20
#: Most bytes of one record. Larger things are files of their own beside the segments.
MAX_RECORD = 16 << 20
#: Bytes that a writer may add before it looks again how full the folder is: this share of the room that there
#: is, at least and at most so many. A process exceeds the spool's limit by that at most. To look takes it
#: a millisecond for a hundred runs or artifacts that wait.
SHARE, LEAST_STRIDE, MOST_STRIDE = 1 / 256, 1 << 20, 8 << 20
#: Seconds between two looks at a full folder.
_FULL_PAUSE = 1.0
_READ = 4 << 20

_START = b"mlspool1"
_REFUSED_AT = len(_START)
HEADER_BYTES = _REFUSED_AT + 8
_U64 = struct.Struct("<Q")
#: Its first two bytes are not valid in UTF-8: no JSON payload holds it.
_MAGIC = b"\xd5\xffMR"
_HEAD = struct.Struct("<4sIIQQ")
_STAMP = struct.Struct("<QQ")


class SpoolFull(Exception):
    """The record was refused: the spool has reached its limit, or the disk is full or failing."""


class RecordTooLarge(Exception):
    """The record was refused: it is larger than `MAX_RECORD` bytes."""


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record ends: everything up to `offset` of this segment was written before it."""

    segment: str
    offset: int


@dataclass(frozen=True, slots=True)
class Frame:
    """One record; `time` in nanoseconds since 1970 as its writer's clock had it, `end` a byte offset."""

    sequence: int
    time: int
    payload: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes of a segment that are no records."""

    start: int
    end: int


class Writer:
    """Appends records of this process to segments of a folder. Threads may share it; a forked child goes
    on with a segment of its own.

    `limit`: most bytes of all files below `folder`, within `MOST_STRIDE` for each process.
    """

    def __init__(self, folder: Path, *, limit: int, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self._limit = limit
        self._segment_bytes = segment_bytes
        self._clock = 0
        self._begin()
        _writers.add(self)

    def _begin(self) -> None:
        """A fresh state without a segment, as at the start and in a forked child."""
        self._lock = threading.Lock()
        self._fd = -1
        self._name = ""
        self._end = 0
        self._sequence = 0
        self._refused = 0
        self._room = 0
        self._look_again = 0.0

    def append(self, payload: bytes) -> Position:
        """Write one record; where it ends. Raises `SpoolFull`, `RecordTooLarge`."""
        if len(payload) > MAX_RECORD:
            raise RecordTooLarge(f"a record of {len(payload)} bytes; at most {MAX_RECORD} are taken")
        with self._lock:
            size = _HEAD.size + len(payload)
            if self._fd < 0 or self._end + size > self._segment_bytes > HEADER_BYTES + size:
                self._rotate()
            if self._room < size:
                self._look(size)
            sequence, now = self._sequence + 1, self._now()
            checksum = zlib.crc32(payload, zlib.crc32(_STAMP.pack(sequence, now)))
            frame = _HEAD.pack(_MAGIC, len(payload), checksum, sequence, now) + payload
            try:
                written = os.pwrite(self._fd, frame, self._end)
            except OSError as error:
                self._refuse(error.strerror or str(error))
            if written != size:
                # Cut back, or the next record would begin in the middle of half a frame.
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                self._refuse("the disk is full")
            self._sequence = sequence
            self._end += size
            self._room -= size
            return Position(self._name, self._end)

    def reserve(self, size: int) -> None:
        """Count bytes that are about to be written beside the segments. Raises `SpoolFull`."""
        with self._lock:
            if self._room < size:
                self._look(size)
            self._room -= size

    def count_refused(self) -> None:
        """Count what could not be written beside the segments."""
        with self._lock, contextlib.suppress(SpoolFull):
            self._refuse("the disk is full")

    def position(self) -> Position | None:
        """Where the last record of the current segment ends; None before the first."""
        return Position(self._name, self._end) if self._fd >= 0 else None

    def close(self) -> None:
        """End the segment. A later append begins a new one."""
        with self._lock:
            self._leave()

    def _leave(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._refused = 0  # they stand in that segment's header

    def _now(self) -> int:
        """The time, later than any before though the clock went back: segments of one writer are put in order
        by it."""
        self._clock = max(self._clock + 1, time.time_ns())
        return self._clock

    def _rotate(self) -> None:
        self._leave()
        name = f"{self._now():020d}-{os.getpid()}-{secrets.token_hex(3)}{SUFFIX}"
        # Under another name until it is locked: an unlocked segment is a dead process's.
        hidden = self.folder / f".{name}"
        try:
            fd = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            self._refuse(error.strerror or str(error))
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            start = _START + _U64.pack(self._refused)
            if os.pwrite(fd, start, 0) != len(start):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            hidden.rename(self.folder / name)
        except OSError as error:
            os.close(fd)
            hidden.unlink(missing_ok=True)
            self._refuse(error.strerror or str(error))
        self._fd, self._name, self._end, self._sequence = fd, name, HEADER_BYTES, 0

    def _look(self, size: int) -> None:
        """Find out how much may still be written."""
        if time.monotonic() < self._look_again:
            self._refuse("the spool is full")
        used = folder_bytes(self.folder)
        room = self._limit - used
        if size > room:
            self._look_again = time.monotonic() + _FULL_PAUSE
            self._refuse("the spool is full")
        self._room = max(size, min(max(LEAST_STRIDE, int(SHARE * room)), MOST_STRIDE, room))

    def _refuse(self, why: str) -> None:
        self._refused += 1
        if self._fd >= 0:
            # In place, in a block that exists: this succeeds on a full disk.
            with contextlib.suppress(OSError):
                os.pwrite(self._fd, _U64.pack(self._refused), _REFUSED_AT)
        raise SpoolFull(why)


_writers: weakref.WeakSet[Writer] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for writer in _writers:
        if writer._fd >= 0:
            # Only closed: unlocking would end the parent's lock, which is of the same open file.
            with contextlib.suppress(OSError):
                os.close(writer._fd)
        writer._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder, as far as they can be seen."""
    total = 0
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    total += folder_bytes(Path(entry.path))
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def segments(folder: Path) -> list[Path]:
    """The segments of a folder, oldest first by their writers' clocks."""
    try:
        names = sorted(e.name for e in os.scandir(folder) if e.name.endswith(SUFFIX) and e.name[0] != ".")
    except FileNotFoundError:
        return []
    return [folder / name for name in names]


def is_written(path: Path) -> bool:
    """Whether a living process still holds the segment."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def refused_of(path: Path) -> int:
    """How many records the segment's writer had to refuse."""
    with path.open("rb") as file:
        start = file.read(HEADER_BYTES)
    return int(_U64.unpack_from(start, _REFUSED_AT)[0]) if len(start) == HEADER_BYTES else 0


def read(path: Path, offset: int = 0, *, complete: bool) -> Iterator[Frame | Damage]:
    """Records of a segment from a byte offset on (0 or the `end` of one), about 4 MB of them.

    `complete`: its writer is gone, so what cannot be read at its end is damage. Otherwise an unfinished
    end is left for the next call. Damage in the middle is skipped: reading goes on at the next frame whose
    checksum holds.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        offset = max(offset, HEADER_BYTES)
        data = os.pread(fd, _READ, offset)
        whole = len(data) < _READ
        if len(data) >= _HEAD.size:
            length = _HEAD.unpack_from(data)[1]
            if _HEAD.size + length > len(data) and length <= MAX_RECORD:
                data = os.pread(fd, _HEAD.size + length, offset)
                whole = len(data) < _HEAD.size + length
        at = 0
        while at < len(data):
            frame = _frame(data, at, offset)
            if frame is None and at and not whole:
                return  # the rest of it is in the next part
            if frame is None:
                data, offset, at, whole = _around(fd, offset + at), offset + at, 0, True
                frame = _frame(data, 0, offset)
            if frame is not None:
                yield frame
                at = frame.end - offset
                continue
            after = _next(data, offset)
            if after is None:
                if complete:
                    yield Damage(offset, offset + len(data))
                return
            # A living writer may have finished this frame and begun the next while they were read. What
            # stands before a frame that was there earlier is finished: look at it once more.
            data = _around(fd, offset)
            if _frame(data, 0, offset) is None:
                at = _next(data, offset) or after
                yield Damage(offset, offset + at)
    finally:
        os.close(fd)


def _around(fd: int, offset: int) -> bytes:
    """Enough bytes to hold a frame and the next one."""
    return os.pread(fd, 2 * (MAX_RECORD + _HEAD.size), offset)


def _frame(data: bytes, at: int, base: int) -> Frame | None:
    """The frame that begins at `at`, if it is whole and sound."""
    if len(data) - at < _HEAD.size:
        return None
    magic, length, checksum, sequence, when = _HEAD.unpack_from(data, at)
    start = at + _HEAD.size
    if magic != _MAGIC or length > MAX_RECORD or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload, zlib.crc32(_STAMP.pack(sequence, when))) != checksum:
        return None
    return Frame(sequence, when, payload, base + start + length)


def _next(data: bytes, base: int) -> int | None:
    """Where the next sound frame begins after a damaged start."""
    at = data.find(_MAGIC, 1)
    while at > 0:
        if _frame(data, at, base) is not None:
            return at
        at = data.find(_MAGIC, at + 1)
    return None
