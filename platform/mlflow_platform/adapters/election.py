"""One at a time among replicas, or among commands, by a Lease (coordination.k8s.io/v1).

A leader's right to write ends at a moment of its own clock, counted from before its last renewal was sent and
well before others may take over. It is looked at right before each request (`Term.check`), so that a leader
that was paused sends, when it wakes up, at most what was already on its way. Clocks of two machines need not
agree: others measure with their own how long the Lease has not changed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import Fatal, PlatformError, Rejected

log = logging.getLogger(__name__)

_API, _KIND = "coordination.k8s.io/v1", "Lease"


@dataclass(frozen=True)
class Timing:
    """In seconds; the defaults of Kubernetes' own controllers (client-go: leaderelection)."""

    lease: float = 15.0
    """Others take over when the Lease has not changed for this long."""
    renew: float = 10.0
    """The leader stops when it has not been able to renew for this long. Shorter than `lease`."""
    retry: float = 2.0
    """How often the Lease is looked at, and renewed."""


class NotLeading(Fatal):
    """This replica's term is over: nothing more may be sent."""


def clock() -> float:
    """Seconds that also pass while the machine, or this process, sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Term:
    """The time for which this replica leads."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._ended = threading.Event()

    @property
    def over(self) -> bool:
        return self._ended.is_set() or clock() >= self.until

    def extend(self, until: float) -> None:
        """A term that is over stays over."""
        if not self.over:
            self.until = until

    def end(self) -> None:
        self._ended.set()

    def check(self) -> None:
        """Raise `NotLeading` where the term is over."""
        if self.over:
            raise NotLeading("this replica does not lead any more; another one goes on")

    def wait(self, seconds: float) -> bool:
        """Wait for its end, at most so long; whether it is over."""
        self._ended.wait(min(seconds, max(0.0, self.until - clock())))
        return self.over


class Elector:
    """Takes the Lease when it is free, and keeps it."""

    def __init__(self, cluster: Cluster, namespace: str, name: str, identity: str, timing: Timing) -> None:
        self._cluster = cluster
        self._place = (_API, _KIND, namespace, name)
        self._identity = identity
        self._timing = timing
        self._seen: Mapping[str, Any] = {}
        self._seen_since = 0.0
        self.contact = -1.0
        """When the API server last answered, by `clock`."""

    def acquire(self, stop: threading.Event) -> Term | None:
        """Wait until this replica leads; None where `stop` comes first."""
        while not stop.is_set():
            term = self._logged()
            if term is not None:
                log.info("leading as %s", self._identity)
                return term
            stop.wait(self._timing.retry * random.uniform(1.0, 1.2))  # noqa: S311 - no secret
        return None

    def keep(self, term: Term) -> None:
        """Renew until the term is over, which it is also when somebody else has the Lease."""
        while not term.wait(self._timing.retry):
            again = self._logged()
            if again is not None:
                term.extend(again.until)
            elif self._seen and self._seen.get("holderIdentity") != self._identity:
                break
        term.end()

    def release(self) -> None:
        """Give the Lease back, so that the next leader need not wait."""
        try:
            found = self._cluster.get(*self._place)
            if found is not None and found["spec"].get("holderIdentity") == self._identity:
                spec = {**found["spec"], "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}
                self._cluster.replace({**found, "spec": spec})
        except PlatformError as error:
            log.warning("the lease could not be given back: %s", error.problem.what)

    @property
    def holder(self) -> str:
        """Who had the Lease when it was last looked at; empty where nobody had."""
        return str(self._seen.get("holderIdentity") or "")

    def _logged(self) -> Term | None:
        """As `take`; what fails is said in the log and tried again."""
        try:
            return self.take()
        except PlatformError as error:
            log.warning("the lease: %s", error.problem.what)
        return None

    def take(self) -> Term | None:
        """The Lease, for the time of one renewal, if it is free or ours. `Rejected` without the right to."""
        began = clock()
        try:
            return Term(began + self._timing.renew) if self._take() else None
        except Rejected as error:
            if error.code != "409":  # somebody was faster
                raise
        return None

    def _take(self) -> bool:
        _, _, namespace, name = self._place
        found = self._cluster.get(*self._place)
        now = clock()
        self.contact = now
        if found is None:
            spec = self._spec(0, _now())
            metadata = {"name": name, "namespace": namespace}
            self._cluster.create({"apiVersion": _API, "kind": _KIND, "metadata": metadata, "spec": spec})
            return True
        spec = found.get("spec") or {}
        if spec != self._seen:
            self._seen, self._seen_since = spec, now
        holder = spec.get("holderIdentity")
        if (
            holder
            and holder != self._identity
            and now - self._seen_since < spec.get("leaseDurationSeconds", 0)
        ):
            return False
        turns = spec.get("leaseTransitions", 0) + (holder != self._identity)
        acquired = spec.get("acquireTime", _now()) if holder == self._identity else _now()
        # Only if it is still the version that was read: of two that try, one is refused.
        taken = self._cluster.replace({**found, "spec": self._spec(turns, acquired)})
        self._seen, self._seen_since = taken["spec"], now
        return True

    def _spec(self, transitions: int, acquired: str) -> dict[str, Any]:
        return {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": round(self._timing.lease),
            "acquireTime": acquired,
            "renewTime": _now(),
            "leaseTransitions": transitions,
        }


def _now() -> str:
    """metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
