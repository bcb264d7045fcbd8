"""Reading a spool in order, and remembering what of it is done.

Segments are merged by time; within one the writer's order holds whatever its clock did. Records are
acknowledged in any order: one run that waits does not hold up the others, and the cursor knows both how far
everything is done and what is done after that.
"""

from __future__ import annotations

import contextlib
import heapq
import json
from bisect import bisect
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_platform.client.segments import Damage, Frame, is_written, read, refused_of, segments
from mlflow_platform.client.spool import Record, Spool

#: Without the search for blanks around it: a payload has none, and its checksum holds.
_decode = json.JSONDecoder().raw_decode


@dataclass(slots=True, eq=False)
class Pending:
    """A record that was read and is not acknowledged yet."""

    track: Track
    sequence: int
    start: int
    record: Record
    done: bool = False


@dataclass(slots=True, eq=False)
class Track:
    """One segment: what was read of it and how far it is done.

    `order` holds what was taken from it and is not done, oldest first, among some that is: `closed` of them.
    `ranges` are those that are done after the first that is not; `skip` those that were when it was opened.
    """

    path: Path
    name: str
    offset: int
    ranges: list[tuple[int, int]]
    skip: deque[tuple[int, int]] = field(init=False)
    read_to: int = field(init=False)
    taken_to: int = field(init=False)
    last: int = 0
    clock: int = 0
    complete: bool = False
    finished: bool = False
    ready: deque[tuple[int, Frame | Damage]] = field(default_factory=deque)
    order: deque[Pending] = field(default_factory=deque)
    closed: int = 0

    def __post_init__(self) -> None:
        self.skip = deque(self.ranges)
        self.read_to = self.taken_to = self.offset

    def skips(self, sequence: int) -> bool:
        """Whether a record was done before; to be asked in their order."""
        while self.skip and self.skip[0][1] < sequence:
            self.skip.popleft()
        return bool(self.skip) and self.skip[0][0] <= sequence

    def close(self, items: Iterable[Pending]) -> None:
        """Note that these are done. What is long behind a record that is not costs nothing here: a run that
        cannot be delivered must not make the delivery of the others slower and slower."""
        for item in items:
            item.done, item.record = True, {}
            self.closed += 1
            _add(self.ranges, item.sequence)

    def advance(self) -> None:
        """Move up to the first record that is not done."""
        order = self.order
        while order and order[0].done:
            order.popleft()
            self.closed -= 1
        if 2 * self.closed > len(order):
            self.order = order = deque(item for item in order if not item.done)
            self.closed = 0
        self.offset = order[0].start if order else self.taken_to
        before = order[0].sequence if order else self.last + 1
        behind = 0
        while behind < len(self.ranges) and self.ranges[behind][1] < before:
            behind += 1
        del self.ranges[:behind]

    def fill(self) -> None:
        """Read on, if nothing is ready. A clock that went back is held: later records stay later."""
        if self.ready or self.finished:
            return
        # Asked first: what a writer appends between the two is then seen by the read.
        self.complete = self.complete or not is_written(self.path)
        try:
            for item in read(self.path, self.read_to, complete=self.complete):
                if isinstance(item, Frame):
                    self.clock = max(self.clock, item.time)
                self.ready.append((self.clock, item))
                self.read_to = item.end
        except FileNotFoundError:
            # Delivered and deleted since it was listed: by the shipper, where this is a look from outside.
            self.complete = True
        self.finished = self.complete and not self.ready


class Reader:
    """Everything of a spool that is not delivered, in order."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self.cursor = spool.cursor()
        self._tracks: dict[str, Track] = {}
        self.pending = 0
        #: Payloads of records that were read for the first time, as lines for the events file.
        self.lines: list[bytes] = []
        there = {path.name for path in segments(spool.root)}
        for kept in (self.cursor.offsets, self.cursor.done, self.cursor.told):
            for name in kept.keys() - there:
                del kept[name]

    def records(self, most: int) -> Iterator[Pending]:
        """The next records, at most so many; nothing when all was read."""
        self._find()
        heap: list[tuple[int, str]] = []
        for name, track in self._tracks.items():
            track.fill()
            if track.ready:
                heap.append((track.ready[0][0], name))
        heapq.heapify(heap)
        while heap and most > 0:
            _, name = heapq.heappop(heap)
            track = self._tracks[name]
            _, item = track.ready.popleft()
            if (pending := self._take(track, item)) is not None:
                most -= 1
                yield pending
            track.fill()
            if track.ready:
                heapq.heappush(heap, (track.ready[0][0], name))

    def _take(self, track: Track, item: Frame | Damage) -> Pending | None:
        record: Record | None = None
        start, track.taken_to = track.taken_to, item.end
        if isinstance(item, Damage):
            self.cursor.lost += item.end - item.start
        else:
            track.last = sequence = item.sequence
            if sequence > self.cursor.told.get(track.name, 0):
                self.cursor.told[track.name] = sequence
                self.lines.append(item.payload)
            if not track.skips(sequence):
                try:
                    record = _decode(item.payload.decode())[0]
                except ValueError:
                    self.cursor.lost += len(item.payload)
                    _add(track.ranges, sequence)
        if record is None:
            self._note(track)
            return None
        pending = Pending(track, track.last, start, record)
        track.order.append(pending)
        self.pending += 1
        return pending

    def done(self, items: list[Pending]) -> None:
        """These need not be read again."""
        by_track: dict[int, list[Pending]] = {}
        for item in items:
            by_track.setdefault(id(item.track), []).append(item)
        for closed in by_track.values():
            closed[0].track.close(closed)
            self._note(closed[0].track)
        self.pending -= len(items)
        self.cursor.delivered += len(items)

    def _note(self, track: Track) -> None:
        """Tell the cursor how far a segment is done."""
        track.advance()
        self.cursor.offsets[track.name] = track.offset
        if track.ranges:
            self.cursor.done[track.name] = track.ranges
        else:
            self.cursor.done.pop(track.name, None)

    def save(self) -> None:
        """Write the cursor down. A full disk must not stop the delivery that makes room on it."""
        with contextlib.suppress(OSError):
            self._spool.save(self.cursor)

    def sweep(self) -> None:
        """Delete segments that are delivered and whose writer is gone."""
        gone = [name for name, track in self._tracks.items() if track.finished and not track.order]
        for name in gone:
            path = self._tracks.pop(name).path
            with contextlib.suppress(FileNotFoundError):
                self.cursor.refused += refused_of(path)
                # First the file: the other way round, a kill in between would have it delivered again.
                path.unlink()
            for kept in (self.cursor.offsets, self.cursor.done, self.cursor.told):
                kept.pop(name, None)
        if gone:
            self.save()

    @property
    def idle(self) -> bool:
        """Whether all that was written is done, and nobody writes any more."""
        return not segments(self._spool.root)

    def _find(self) -> None:
        for path in segments(self._spool.root):
            if path.name not in self._tracks:
                offset = self.cursor.offsets.get(path.name, 0)
                ranges = self.cursor.done.get(path.name, [])
                self._tracks[path.name] = Track(path, path.name, offset, ranges)


def _add(ranges: list[tuple[int, int]], sequence: int) -> None:
    """Add a number to ranges that are in order and do not touch."""
    at = bisect(ranges, (sequence, sequence))
    first = last = sequence
    if at < len(ranges) and ranges[at][0] == sequence + 1:
        last = ranges.pop(at)[1]
    if at and ranges[at - 1][1] == sequence - 1:
        at -= 1
        first = ranges.pop(at)[0]
    ranges.insert(at, (first, last))


def waiting(spool: Spool) -> Iterator[Record]:
    """Every record of a spool that is not delivered, in order; nothing is changed."""
    reader = Reader(spool)
    while True:
        items = list(reader.records(10_000))
        yield from (item.record for item in items)
        reader.done(items)
        if not items:
            return
