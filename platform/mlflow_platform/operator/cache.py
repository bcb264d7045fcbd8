"""What is declared: every document and every namespace's labels, listed whole and kept current by watches.

A list and the watches run at the same time, so what is newer wins, by resourceVersion; what was deleted is
remembered until the next list, so that an older answer does not bring it back.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import PlatformError, Rejected
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator.entries import Entry, read
from mlflow_platform.operator.metrics import Metrics

log = logging.getLogger(__name__)

#: How long one watch lasts, in seconds, more or less: watches of all kinds must not begin anew together.
_WATCH_SECONDS = 300
#: First and longest pause after a list or watch that failed, in seconds.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0

Changed = Callable[[Entry | None, Entry | None], None]
"""Called with a document before and after; None where there was or is none."""


class Cache:
    """Documents by (kind, namespace, name), and the labels of namespaces. Thread-safe."""

    def __init__(self, cluster: Cluster, metrics: Metrics) -> None:
        self._cluster = cluster
        self._metrics = metrics
        self._lock = threading.RLock()
        self._entries: dict[tuple[str, str, str], Entry] = {}
        self._gone: dict[str, int] = {}
        """uid -> resourceVersion of a deletion since the last list began."""
        self._labels: dict[str, Mapping[str, str]] = {}
        self._refreshing = threading.Lock()
        self._refreshed = -1.0
        self._versions: dict[str, str] = {}
        self.changed: Changed = lambda _before, _after: None
        """Told of every change that asks for work, from any thread."""
        self.relabelled: Callable[[], None] = lambda: None
        """Told that labels of a namespace have changed."""

    @property
    def complete(self) -> bool:
        """Whether everything was listed at least once."""
        return self._refreshed >= 0

    def of_server(self, server: str) -> list[Entry]:
        """The documents that declare objects on one tracking server."""
        with self._lock:
            return [e for e in self._entries.values() if e.server == server and e.kind in KINDS]

    def of_kinds(self, kinds: Collection[str]) -> list[Entry]:
        with self._lock:
            return [e for e in self._entries.values() if e.kind in kinds]

    def elsewhere(self, server: str) -> frozenset[str]:
        """Origins of the documents for other tracking servers."""
        with self._lock:
            return frozenset(e.origin for e in self._entries.values() if e.server != server)

    def server(self, name: str) -> Entry | None:
        with self._lock:
            return self._entries.get(("TrackingServer", "default", name))

    def servers(self) -> set[str]:
        """Names of all tracking servers that there are, or that a document names which declares objects."""
        with self._lock:
            entries = list(self._entries.values())
        named = {e.server for e in entries if e.kind in KINDS}
        return named | {e.name for e in entries if e.kind == "TrackingServer"}

    def current(self, entry: Entry) -> Entry | None:
        """The document as it is now; None where it is gone, or another one has its name."""
        with self._lock:
            found = self._entries.get((entry.kind, entry.namespace, entry.name))
        return found if found is not None and found.uid == entry.uid else None

    def labels(self) -> dict[str, Mapping[str, str]]:
        """Of every namespace."""
        with self._lock:
            return dict(self._labels)

    def refresh(self, since: float) -> None:
        """List everything anew, unless another thread has begun to after `since` (`time.monotonic`).

        Raises `Transient` and `Rejected`; then nothing is taken for gone.
        """
        with self._refreshing:
            if self._refreshed >= since:
                return
            began = time.monotonic()
            with self._lock:
                self._gone.clear()
            for kind in DOCUMENTS:
                self._list(kind)
            self._list_namespaces()
            self._refreshed = began

    def relist(self, kinds: Iterable[str]) -> None:
        """List the documents of some kinds only."""
        for kind in kinds:
            self._list(kind)

    def put(self, kind: str, raw: Mapping[str, Any]) -> Entry:
        """Take an object as the API server answered it, unless a newer one is known."""
        metadata = raw["metadata"]
        key = (kind, metadata.get("namespace", "default"), metadata["name"])
        version = int(metadata["resourceVersion"])
        with self._lock:
            before = self._entries.get(key)
            if before is not None and before.version >= version:
                return before
            if self._gone.get(metadata["uid"], 0) >= version:
                return read(kind, raw)
            entry = read(kind, raw, before)
            self._entries[key] = entry
        if before is None or not entry.same_work(before):
            self.changed(before, entry)
        return entry

    def watch(self, stop: threading.Event) -> list[threading.Thread]:
        """Begin to watch; the threads end soon after `stop`."""
        threads = [
            threading.Thread(target=self._follow, args=(kind, stop), name=f"watch-{kind}", daemon=True)
            for kind in (*DOCUMENTS, "Namespace")
        ]
        for thread in threads:
            thread.start()
        return threads

    def _list(self, kind: str) -> None:
        listed: set[str] = set()
        as_of = 0
        for items, version in self._pages(API_VERSION, kind):
            as_of = int(version)
            for raw in items:
                listed.add(raw["metadata"]["uid"])
                self.put(kind, raw)
        with self._lock:
            self._versions[kind] = str(as_of)
            left = [
                e
                for e in self._entries.values()
                if e.kind == kind and e.uid not in listed and e.version <= as_of
            ]
        for entry in left:
            self._drop(entry, as_of)

    def _list_namespaces(self) -> None:
        found: dict[str, Mapping[str, str]] = {}
        pages = list(self._pages("v1", "Namespace", metadata_only=True))
        for items, _ in pages:
            found.update({i["metadata"]["name"]: i["metadata"].get("labels") or {} for i in items})
        with self._lock:
            before, self._labels = self._labels, found
            self._versions["Namespace"] = pages[-1][1]
        if found != before:
            self.relabelled()

    def _pages(
        self, api_version: str, kind: str, *, metadata_only: bool = False
    ) -> Iterator[tuple[list[dict[str, Any]], str]]:
        for page in self._cluster.pages(api_version, kind, metadata_only=metadata_only):
            self._metrics.add("kubernetes_reads_total")
            yield page

    def _drop(self, entry: Entry, version: int) -> None:
        key = (entry.kind, entry.namespace, entry.name)
        with self._lock:
            self._gone[entry.uid] = max(version, self._gone.get(entry.uid, 0))
            now = self._entries.get(key)
            if now is None or now.uid != entry.uid or now.version > version:
                return
            del self._entries[key]
        self.changed(entry, None)

    def _follow(self, kind: str, stop: threading.Event) -> None:
        """Watch one kind for ever: from the last list on, and from a new list where that is too old."""
        version, failures = "", 0
        namespaces = kind == "Namespace"
        api_version = "v1" if namespaces else API_VERSION
        while not stop.is_set():
            try:
                if not version:
                    (self._list_namespaces if namespaces else lambda: self._list(kind))()
                    version = self._versions[kind]
                seconds = round(_WATCH_SECONDS * random.uniform(0.8, 1.2))  # noqa: S311 - no secret
                for event, raw in self._cluster.watch(
                    api_version, kind, version, metadata_only=namespaces, seconds=seconds
                ):
                    version, failures = raw["metadata"]["resourceVersion"], 0
                    self._take(kind, event, raw)
                    if stop.is_set():
                        return
                self._metrics.add("watches_total", kind=kind)
            except PlatformError as error:
                if isinstance(error, Rejected) and error.code == "410":
                    log.info("the watch of %s is too old (410 Gone): listing anew", kind)
                else:
                    failures += 1
                    log.warning("watching %s: %s", kind, error.problem.what)
                version = ""
            if failures:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**failures)
                stop.wait(random.uniform(pause / 2, pause))  # noqa: S311 - no secret

    def _take(self, kind: str, event: str, raw: Mapping[str, Any]) -> None:
        if event == "BOOKMARK":
            return
        if kind == "Namespace":
            name, labels = raw["metadata"]["name"], raw["metadata"].get("labels") or {}
            with self._lock:
                before = self._labels.get(name)
                if event == "DELETED":
                    self._labels.pop(name, None)
                else:
                    self._labels[name] = labels
            if event != "DELETED" and labels != before:
                self.relabelled()
        elif event == "DELETED":
            self._drop(read(kind, raw), int(raw["metadata"]["resourceVersion"]))
        else:
            self.put(kind, raw)
