"""When a request may be sent, and how long failing ones are repeated. No I/O; the clock is given."""

from __future__ import annotations

import random
import threading

#: First and longest pause between attempts, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0


def backoff(attempt: int) -> float:
    """Seconds to wait after attempt number `attempt` (from 1): full jitter, so that callers spread out."""
    return random.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**attempt))  # noqa: S311 - no secret


class Pace:
    """Keeps requests to a rate, and to the pauses a server asks for; shared by all threads."""

    def __init__(self, per_second: float | None = None) -> None:
        self._gap = 1.0 / per_second if per_second else 0.0
        self._next = 0.0
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Seconds to wait before sending; the slot is taken."""
        if not self._gap and self._next <= now:
            return 0.0
        with self._lock:
            at = max(now, self._next)
            if self._gap:
                self._next = at + self._gap
            return at - now

    def pause(self, until: float) -> None:
        """Nobody sends before `until`."""
        with self._lock:
            self._next = max(self._next, until)


class Budget:
    """How long failures are repeated: `seconds` for one call, and as long for all calls together while
    none succeeds, so that a dead server costs the budget once and not once for each of 10,000 calls.

    Once it is spent, calls fail at once for `rest` seconds after each attempt that failed; then one may
    try again. The first success ends all of that.
    """

    def __init__(self, seconds: float, rest: float = 5.0) -> None:
        self._seconds = seconds
        self._rest = rest
        self._failing_since: float | None = None
        self._try_at = 0.0
        self._lock = threading.Lock()

    def succeeded(self) -> None:
        if self._failing_since is not None:
            with self._lock:
                self._failing_since = None

    def failed(self, now: float) -> None:
        with self._lock:
            if self._failing_since is None:
                self._failing_since = now
            self._try_at = now + self._rest

    def until(self, start: float) -> float:
        """The last moment at which a call that began at `start` may repeat a request."""
        since = self._failing_since
        return (start if since is None else min(start, since)) + self._seconds

    def spent(self, now: float) -> bool:
        """Whether a call must fail without being sent. Where not, but the server has been failing for
        longer than the budget, this call is the one that tries."""
        since = self._failing_since
        if since is None or now - since < self._seconds:
            return False
        with self._lock:
            if now < self._try_at:
                return True
            self._try_at = now + self._rest
            return False
