"""What the operator writes to Kubernetes: statuses and finalizers where they change, and Events."""

from __future__ import annotations

import logging
import queue
import threading
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import PlatformError, Rejected
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.crd import FINALIZER
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.conditions import Outcome, status
from mlflow_platform.operator.entries import Entry
from mlflow_platform.operator.metrics import Metrics

log = logging.getLogger(__name__)

#: k8s.io/kubernetes pkg/apis/core/validation/events.go: NoteLengthLimit, in bytes.
_MAX_NOTE = 1024
#: Events that wait to be sent; more are left out, since they only tell what conditions say for good.
_WAITING = 1000
#: Events a second, once as many as the second figure were sent at once: they share the API server with
#: statuses, and of thousands of documents that are made at once nobody reads each.
_PER_SECOND, _BURST = 5.0, 50.0


class Publisher:
    """`cluster` is the one whose gate is the leader's term."""

    def __init__(self, cluster: Cluster, cache: Cache, metrics: Metrics) -> None:
        self._cluster = cluster
        self._cache = cache
        self._metrics = metrics
        self._events: queue.Queue[dict[str, Any]] = queue.Queue(_WAITING)

    def status(self, entry: Entry, outcome: Outcome, extra: Mapping[str, Any] | None = None) -> bool:
        """Patch the status where it says something else; whether it did. The document may be newer than
        `entry`: the status then is about the generation that was worked on."""
        now = self._cache.current(entry)
        if now is None:
            return False
        wanted = status(now.status, entry.generation, outcome, _now(), extra)
        if wanted is None:
            return False
        gone = {k: None for k in now.status if k not in wanted}
        self._patch(now, {"status": {**wanted, **gone}}, subresource="status")
        return True

    def differs(self, entry: Entry, outcome: Outcome, extra: Mapping[str, Any] | None = None) -> bool:
        """Whether `status` would patch the document as it was when the round began."""
        return status(entry.status, entry.generation, outcome, "", extra) is not None

    def finalizer(self, entry: Entry, wanted: bool) -> bool:
        """Add or remove our finalizer. False where the document has changed meanwhile: its next round does
        it."""
        now = self._cache.current(entry)
        if now is None or now.held == wanted:
            return True
        kept = [f for f in now.finalizers if f != FINALIZER]
        metadata = {
            "finalizers": [*kept, *([FINALIZER] if wanted else [])],
            # Others write finalizers, too: only onto what was read.
            "resourceVersion": str(now.version),
        }
        try:
            self._patch(now, {"metadata": metadata})
        except Rejected as error:
            if error.code not in ("409", "422"):  # 422: it is being deleted, and takes no new one
                raise
            return False
        return True

    def _patch(self, entry: Entry, body: Mapping[str, Any], subresource: str = "") -> None:
        namespace = "" if entry.kind == "TrackingServer" else entry.namespace
        answer = self._cluster.patch(
            API_VERSION, entry.kind, namespace, entry.name, body, subresource=subresource
        )
        self._metrics.add("patches_total")
        if answer is not None:
            self._cache.put(entry.kind, answer)

    def event(self, entry: Entry, type_: Literal["Normal", "Warning"], reason: str, note: str) -> None:
        """Have an Event about a document sent soon; never waits."""
        cluster_scoped = entry.kind == "TrackingServer"
        about: dict[str, Any] = {
            "apiVersion": API_VERSION,
            "kind": entry.kind,
            "name": entry.name,
            "uid": entry.uid,
            "resourceVersion": str(entry.version),
        }
        if not cluster_scoped:
            about["namespace"] = entry.namespace
        text = note.encode()[:_MAX_NOTE].decode(errors="ignore")
        namespace = "default" if cluster_scoped else entry.namespace
        now, name = _now(), f"{entry.name[:200].rstrip('-.')}.{uuid.uuid4().hex[:16]}"
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about,
            "type": type_,
            "reason": reason,
            "message": text,
            "source": {"component": "mlplatform-operator"},
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        try:
            self._events.put_nowait(event)
        except queue.Full:
            self._metrics.add("events_dropped_total")

    def send_events(self, stop: threading.Event) -> None:
        """Send what waits, until `stop`; for a thread of its own."""
        left, since = _BURST, time.monotonic()
        while not stop.is_set():
            try:
                event = self._events.get(timeout=0.5)
            except queue.Empty:
                continue
            now = time.monotonic()
            left, since = min(_BURST, left + (now - since) * _PER_SECOND) - 1, now
            try:
                self._cluster.create(event)
                self._metrics.add("events_total")
            except PlatformError as error:  # a namespace that is going takes none
                log.info("an Event was not sent: %s", error.problem.what)
                self._metrics.add("events_dropped_total")
            if left < 1:
                stop.wait(1 / _PER_SECOND)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
