"""Reading a spool in order, and remembering what of it is done.

Segments are merged by time; within one the writer's order holds whatever its clock did. Records are
acknowledged in any order: one run that waits does not hold up the others, and the cursor knows both how far
everything is done and what is done after that.
"""

from __future__ import annotations

import contextlib
import heapq
import json
from collections import deque
from collections.abc import Iterator
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
    end: int
    record: Record
    done: bool = False


@dataclass(slots=True, eq=False)
class Track:
    """One segment: what was read of it and how far it is done."""

    path: Path
    name: str
    offset: int
    skip: list[tuple[int, int]]
    read_to: int = 0
    clock: int = 0
    complete: bool = False
    finished: bool = False
    ready: deque[tuple[int, Frame | Damage]] = field(default_factory=deque)
    order: deque[Pending] = field(default_factory=deque)

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
        if isinstance(item, Damage):
            self.cursor.lost += item.end - item.start
            sequence = 0
        else:
            sequence = item.sequence
            if sequence > self.cursor.told.get(track.name, 0):
                self.cursor.told[track.name] = sequence
                self.lines.append(item.payload)
            if not track.skip or not any(a <= sequence <= b for a, b in track.skip):
                try:
                    record = _decode(item.payload.decode())[0]
                except ValueError:
                    self.cursor.lost += len(item.payload)
        pending = Pending(track, sequence, item.end, record or {}, done=record is None)
        track.order.append(pending)
        if record is None:
            self._advance(track)
            return None
        self.pending += 1
        return pending

    def done(self, items: list[Pending]) -> None:
        """These need not be read again."""
        for item in items:
            item.done = True
            item.record = {}
        for track in {id(i.track): i.track for i in items}.values():
            self._advance(track)
        self.pending -= len(items)
        self.cursor.delivered += len(items)

    def _advance(self, track: Track) -> None:
        order = track.order
        while order and order[0].done:
            track.offset = order.popleft().end
        self.cursor.offsets[track.name] = track.offset
        ranges: list[tuple[int, int]] = []
        for item in order:
            if not item.done or not item.sequence:
                continue
            if ranges and ranges[-1][1] == item.sequence - 1:
                ranges[-1] = (ranges[-1][0], item.sequence)
            else:
                ranges.append((item.sequence, item.sequence))
        if ranges:
            self.cursor.done[track.name] = ranges
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
                skip = self.cursor.done.get(path.name, [])
                self._tracks[path.name] = Track(path, path.name, offset, skip, read_to=offset)


def waiting(spool: Spool) -> Iterator[Record]:
    """Every record of a spool that is not delivered, in order; nothing is changed."""
    reader = Reader(spool)
    while True:
        items = list(reader.records(10_000))
        yield from (item.record for item in items)
        reader.done(items)
        if not items:
            return
