"""The one process of a spool that delivers it: `python -m mlflow_platform.client.shipper FOLDER`.

The store starts it beside the user's program and never waits for it; `mlplatform sync` runs the same code in
the foreground. It ends when nothing is left to deliver and nobody writes any more.

Records of one run, experiment or model are delivered in their order, in a lane of their own: a lane that
fails waits with growing pauses and holds up no other.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from mlflow_platform.client import quarantine
from mlflow_platform.client.faults import Doubtful, Unauthorised
from mlflow_platform.client.lanes import Lane, creates, lane_of, mentions, take
from mlflow_platform.client.progress import Pending, Reader, waiting
from mlflow_platform.client.spool import Record, Spool, elected
from mlflow_platform.errors import PlatformError, Rejected, Transient

#: Seconds: between two looks for new records; without work and writers before it ends.
_POLL = 0.1
_LINGER = 10.0
#: Seconds between two tries of what fails: the first, and the longest.
_BACKOFF = (0.2, 10.0)
#: A doubtful failure is the record's own after so many tries over so many seconds, while others succeed.
_DOUBTS = 5
_DOUBT_SECONDS = 20.0
#: Failures in a row, of whatever lanes, that mean that nothing gets through.
_OUTAGE = 3
#: Seconds of refused logins after which this process ends: a new one may know a newer password.
_UNAUTHORISED = 60.0
#: Records in memory that could be sent now; and at most, with all that waits.
_AHEAD = 5_000
_MOST = 200_000
_EVENTS_BYTES = 64 << 20
#: While there is something to send, at most this share of the time goes into writing down what is done: the
#: cursor grows with what is done behind a run that waits. A killed shipper repeats more then, to no effect.
_SAVING = 0.1


class Target(Protocol):
    """What delivers: see `delivery.Delivery`."""

    def deliver(self, records: list[Record]) -> None: ...

    def put_away(self, record: Record, error: Exception) -> None: ...


class Shipper:
    """Delivers a spool; `step` sends at most one request's worth."""

    def __init__(
        self,
        spool: Spool,
        connect: Callable[[], Target],
        *,
        clock: Callable[[], float] = time.monotonic,
        events: bool = True,
    ) -> None:
        self._spool = spool
        self._connect = connect
        self._target: Target | None = None
        self._clock = clock
        self._events = spool.events if events else None
        self._reader = Reader(spool)
        self._lanes: dict[str, Lane] = {}
        self._creating: Counter[str] = Counter()
        self._succeeded: Counter[str] = Counter()
        self._failures = 0
        self._pause_until = 0.0
        self._read_at = 0.0
        self._unsaved = False
        self._save_at = 0.0
        self._refused_since: float | None = None

    @property
    def problem(self) -> str:
        """Why nothing gets through; empty while something does."""
        return self._reader.cursor.problem

    @property
    def pending(self) -> int:
        """Records read and not delivered."""
        return self._reader.pending

    @property
    def unauthorised(self) -> bool:
        """Whether the server refused the login, and accepted nothing since."""
        return self._refused_since is not None

    def step(self) -> bool:
        """Read what is new, try one delivery. Whether anything was delivered or put away."""
        self._read()
        now = self._clock()
        if now < self._pause_until:
            return False
        for name, lane in list(self._lanes.items()):
            if lane.retry_at > now or not self._may_go(lane.waiting[0]):
                continue
            # The next turn begins with another lane.
            self._lanes[name] = self._lanes.pop(name)
            return self._try(name, lane)
        self._save_what_is_done()
        return False

    def settle(self) -> bool:
        """Delete what is delivered; whether nothing at all is left and nobody writes."""
        self._reader.sweep()
        return not self._reader.pending and self._reader.idle

    def run(self, *, stop: Callable[[], bool], linger: float = _LINGER) -> None:
        """Deliver until `stop`, until nothing is left for `linger` seconds, or until somebody has deleted the
        spool. Raises `Unauthorised` when the server has refused the login for a minute."""
        idle_since: float | None = None
        while not stop() and self._spool.root.exists():
            if self.step():
                idle_since = None
                continue
            if self._refused_since is not None and self._clock() - self._refused_since > _UNAUTHORISED:
                raise Unauthorised(self.problem)
            if not self.settle():
                idle_since = None
            elif idle_since is None:
                idle_since = self._clock()
            if idle_since is not None and self._clock() - idle_since >= linger:
                quarantine.sweep(self._spool)
                return
            time.sleep(_POLL)
        self._save_what_is_done()

    def _read(self) -> None:
        """Take in what is new."""
        now = self._clock()
        sendable = sum(len(lane.waiting) for lane in self._lanes.values() if lane.retry_at <= now)
        most = min(_AHEAD - sendable, _MOST - self._reader.pending)
        if most <= 0 or (sendable and now < self._read_at + _POLL):
            return
        self._read_at = now
        for pending in self._reader.records(most):
            waiting = self._lanes.setdefault(lane_of(pending.record), Lane()).waiting
            if made := creates(pending.record):
                # First, even where the clock went back between two processes that share a run.
                waiting.appendleft(pending)
                self._creating.update(made)
            else:
                waiting.append(pending)
        if lines := self._reader.lines:
            if self._events is not None:
                tell(self._events, lines)
            lines.clear()
            self._save()

    def _may_go(self, head: Pending) -> bool:
        """Whether what the record speaks of is there: its run may be created by a record in another lane."""
        own = set(creates(head.record))
        # An id that is no text is the server's to refuse.
        named = {i for i in mentions(head.record) if isinstance(i, str)}
        return not any(self._creating[i] for i in named - own)

    def _try(self, name: str, lane: Lane) -> bool:
        # After a failure the first one alone: it may be the only one that fails.
        items = take(lane.waiting) if not lane.attempts else [lane.waiting[0]]
        records = [item.record for item in items]
        kind = name.partition(":")[0]
        try:
            if self._target is None:
                self._target = self._connect()
            if self._clock() >= self._save_at:
                self._save_what_is_done()
            self._target.deliver(records)
        except Rejected as error:
            if len(items) > 1:
                lane.attempts = 1
                return False
            if not self._put_away(lane, kind, error):
                return False
        except Transient as error:
            if not self._is_its_own(lane, kind, error):
                self._later(lane, kind, error)
                return False
            if not self._put_away(lane, kind, error):
                return False
        else:
            self._succeeded[kind] += 1
            self._got_through()
        self._finish(name, lane, items)
        return True

    def _put_away(self, lane: Lane, kind: str, error: Exception) -> bool:
        """Put the first record of a lane into quarantine; False where that has no room for now."""
        record = lane.waiting[0].record
        try:
            if self._target is not None:  # it is: it refused the record
                self._target.put_away(record, error)
        except OSError as full:
            self._later(lane, kind, Transient(f"the quarantine cannot be written: {full}"))
            return False
        say(f"put away {record['op']}: {error}")
        return True

    def _is_its_own(self, lane: Lane, kind: str, error: Transient) -> bool:
        return (
            isinstance(error, Doubtful)
            and lane.attempts >= _DOUBTS
            and self._clock() - lane.first_failed >= _DOUBT_SECONDS
            and self._succeeded[kind] > lane.others
        )

    def _later(self, lane: Lane, kind: str, error: Transient) -> None:
        now = self._clock()
        if not lane.attempts:
            lane.first_failed, lane.others = now, self._succeeded[kind]
        lane.attempts += 1
        self._failures += 1
        lane.retry_at = now + _pause(lane.attempts)
        if self._failures >= _OUTAGE:
            # Nothing gets through: one try at a time, of whichever lane is next.
            self._pause_until = now + _pause(self._failures)
        if isinstance(error, Unauthorised):
            self._refused_since = self._refused_since if self._refused_since is not None else now
        if str(error) != self.problem:
            say(str(error))
            self._reader.cursor.problem = str(error)
            self._save()

    def _got_through(self) -> None:
        if self._failures >= _OUTAGE:
            for lane in self._lanes.values():
                lane.retry_at = 0.0
        if self.problem:
            say("delivering again")
            self._reader.cursor.problem = ""
        self._failures, self._pause_until, self._refused_since = 0, 0.0, None

    def _finish(self, name: str, lane: Lane, items: list[Pending]) -> None:
        for item in items:
            lane.waiting.remove(item)
            for made in creates(item.record):
                self._creating[made] -= 1
                if not self._creating[made]:
                    del self._creating[made]
        lane.attempts, lane.retry_at = 0, 0.0
        if not lane.waiting:
            del self._lanes[name]
        self._reader.done(items)
        self._unsaved = True

    def _save_what_is_done(self) -> None:
        if self._unsaved:
            self._save()

    def _save(self) -> None:
        self._unsaved = False
        began = self._clock()
        self._reader.save()
        ended = self._clock()
        self._save_at = ended + (ended - began) / _SAVING


def deliver_now(spool: Spool, deadline: float | None, say_problem: Callable[[str], None]) -> str:
    """Deliver a spool from this process, or wait for the shipper that does; why something is left, or "".

    `deadline` as of `time.monotonic`. `say_problem` is told what holds it up, when it changes.
    """
    user = spool.user
    if user != os.environ.get("MLFLOW_TRACKING_USERNAME", "") and next(waiting(spool), None) is not None:
        return f"was logged by user {user!r}: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    shipper: Shipper | None = None
    told = ""
    with contextlib.ExitStack() as until:
        while True:
            if shipper is None and until.enter_context(elected(spool)):
                prepare_environment(spool.uri)
                shipper = Shipper(spool, connect(spool))
            if shipper is not None:
                if shipper.step():
                    continue
                shipper.settle()
                left, problem = shipper.pending > 0, shipper.problem
            else:
                until.pop_all().close()
                cursor = spool.cursor()
                left, problem = spool.waiting(cursor) > 0, cursor.problem
            if not left:
                return ""
            if shipper is not None and shipper.unauthorised:
                return f"the login is refused: {problem}"
            if problem and problem != told:
                say_problem(problem)
                told = problem
            if deadline is not None and time.monotonic() > deadline:
                return f"something is left: {problem or 'there was not enough time'}"
            time.sleep(_POLL)


def _pause(attempts: int) -> float:
    """Seconds, with jitter: programs that a server's end stopped together do not return together."""
    longest: float = min(_BACKOFF[1], _BACKOFF[0] * 2 ** min(attempts - 1, 20))
    return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def tell(path: Path, lines: list[bytes]) -> None:
    """Add records to the file that can be tailed; the one before it is kept as `.1`."""
    with contextlib.suppress(OSError):
        if path.exists() and path.stat().st_size > _EVENTS_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.writelines(line + b"\n" for line in lines)


def say(text: str) -> None:
    print(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}", flush=True)


def connect(spool: Spool) -> Callable[[], Target]:
    """How the server of a spool is reached, with the login in the environment."""

    def connected() -> Target:
        from mlflow_platform.client.delivery import Delivery
        from mlflow_platform.client.faults import understand

        try:
            return Delivery(spool, spool.uri)
        except PlatformError:
            raise
        except Exception as error:
            # A database that is away cannot even be opened.
            raise Transient(str(understand(error, remote=False))) from error

    return connected


def prepare_environment(uri: str) -> None:
    """Before mlflow is imported: no retries of its own, which would block every lane; nothing in threads."""
    os.environ["MLFLOW_TRACKING_URI"] = uri
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # Each record says in which workspace it was made.
    for name in ("MLFLOW_WORKSPACE", "MLFLOW_RUN_ID", "MLFLOW_REGISTRY_URI"):
        os.environ.pop(name, None)


def main(arguments: list[str]) -> int:
    """The detached process: one argument, the spool's folder."""
    spool = Spool(Path(arguments[0]))
    os.umask(0o077)
    stopping: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the program that started it
    with contextlib.suppress(OSError):
        os.nice(5)
    given_up = time.monotonic() + 2.0
    while True:
        with elected(spool) as mine:
            # Whoever looks whether there is a shipper holds the lock for a moment.
            if not mine and time.monotonic() < given_up:
                time.sleep(0.05)
                continue
            if not mine:
                return 0
            prepare_environment(spool.uri)
            shipper = Shipper(spool, connect(spool))
            try:
                shipper.run(stop=lambda: bool(stopping))
            except Unauthorised as error:
                say(f"ended: {error}")
                return 1
        # A program that began while this one was about to end found the lock taken.
        if stopping or Reader(spool).idle:
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
