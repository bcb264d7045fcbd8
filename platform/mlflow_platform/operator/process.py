"""The operator's process: it always watches; while it leads, it runs a loop for each tracking server."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.adapters.election import Elector, NotLeading, Term, Timing, clock
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import Fatal, PlatformError, Rejected
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.operator import probes
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.entries import Entry
from mlflow_platform.operator.loop import ServerLoop, pause_after
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.publishing import Publisher
from mlflow_platform.operator.reconciling import Reconciler
from mlflow_platform.operator.rounds import Site
from mlflow_platform.operator.schedules import JobTemplate
from mlflow_platform.operator.scheduling import ScheduleLoop
from mlflow_platform.operator.tasks import TASKS

log = logging.getLogger(__name__)

#: How long requests to Kubernetes are repeated, in seconds: less than a lease lasts.
_PATIENCE = 5.0
#: Not ready when the API server has not answered for this long, in seconds.
_SILENCE = 30.0


@dataclass(frozen=True)
class Settings:
    """How the operator runs. `interval` is the time between two full rounds, in seconds."""

    kubeconfig: Path | None = None
    context: str = ""
    namespace: str = "mlflow"
    name: str = "mlplatform"
    """What it is called among the operators of its namespace."""
    interval: float = 180.0
    host: str = "0.0.0.0"  # noqa: S104 - kubelet asks the pod's address
    port: int = 8080
    default_server: Path | None = None
    """A TrackingServer document that is created if there is none of its name."""
    job_template: Path | None = None
    """What the chart says of the jobs that carry documents out; without it there are none."""
    timing: Timing = field(default_factory=Timing)

    @property
    def lease(self) -> str:
        """By which one of its replicas leads."""
        return f"{self.name}-operator"


class Operator:
    """One replica. `run` returns when `stop` is called, or by SIGTERM."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.stopping = threading.Event()
        self.port = 0
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self._reader = self._connect()
        self._cache = Cache(self._reader, self.metrics)
        self._elector = Elector(
            self._connect(), settings.namespace, settings.lease, self.identity, settings.timing
        )
        self._template = JobTemplate.read(settings.job_template) if settings.job_template else None
        self._loops: dict[str, ServerLoop] = {}
        self._schedules: ScheduleLoop | None = None
        self._lock = threading.Lock()
        self._wake = threading.Event()
        """Set where a tracking server may have come that has no loop yet."""

    def stop(self) -> None:
        self.stopping.set()

    def run(self) -> None:
        """Raises `Fatal` where the cluster cannot be used at all."""
        self._check()
        self.port = probes.serve(self.settings.host, self.settings.port, self._unready, self.metrics)
        log.info("probes and metrics on port %d", self.port)
        self._cache.changed = self._changed
        self._cache.relabelled = self._relabelled
        self._cache.watch(self.stopping)
        self._first_list()
        self.metrics.set("leading", 0)
        while not self.stopping.is_set():
            term = self._elector.acquire(self.stopping)
            if term is None:
                break
            keeper = threading.Thread(target=self._elector.keep, args=(term,), name="lease", daemon=True)
            keeper.start()
            self.metrics.set("leading", 1)
            try:
                self._lead(term)
            finally:
                term.end()
                self.metrics.set("leading", 0)
            keeper.join()
            log.warning("not leading any more")
        self._elector.release()

    def _lead(self, term: Term) -> None:
        writer = self._connect()
        writer.gate = term.check
        publisher = Publisher(writer, self._cache, self.metrics)
        owner = self._owner()
        if owner is None:
            return
        namespace = self.settings.namespace
        operator = f"{namespace}/{self.settings.name}"
        site = Site(self._cache, publisher, self._reader, owner, namespace, operator, term, self.metrics)
        ended = threading.Event()
        threading.Thread(target=publisher.send_events, args=(ended,), name="events", daemon=True).start()
        default_done = self.settings.default_server is None
        schedules = ScheduleLoop(
            writer,
            self._cache,
            publisher,
            term,
            self.metrics,
            operator=operator,
            template=self._template,
            interval=self.settings.interval,
        )
        self._schedules = schedules
        schedules.start()
        try:
            while not term.over and not self.stopping.is_set():
                default_done = default_done or self._make_default(writer)
                with self._lock:
                    for name in self._cache.servers() - set(self._loops):
                        loop = ServerLoop(Reconciler(name, site), term, self.settings.interval, self.metrics)
                        self._loops[name] = loop
                        loop.start()
                self._wake.wait(1.0)
                self._wake.clear()
        finally:
            term.end()
            ended.set()
            with self._lock:
                loops, self._loops = self._loops, {}
                self._schedules = None
            threads: list[threading.Thread] = [*loops.values(), schedules]
            for thread in threads:
                thread.join(timeout=5.0)  # one that hangs in a request can send no other: its term is over

    def _changed(self, before: Entry | None, after: Entry | None) -> None:
        entry = after or before
        if entry is None:
            return
        with self._lock:
            loop = self._loops.get(entry.name if entry.kind == "TrackingServer" else entry.server)
            schedules = self._schedules
        if schedules is not None and entry.kind in ("TrackingServer", *TASKS):
            schedules.wake()
        if entry.kind in TASKS:
            return
        if loop is None:
            self._wake.set()
        elif entry.kind == "TrackingServer":
            loop.everything()
        else:
            loop.mark(entry.origin)

    def _relabelled(self) -> None:
        """What a namespace may declare has changed."""
        with self._lock:
            loops = list(self._loops.values())
        for loop in loops:
            loop.everything()

    def _make_default(self, writer: Cluster) -> bool:
        """Create the TrackingServer of the settings' file if there is none; whether that is settled."""
        path = self.settings.default_server
        if path is None:
            return True
        document: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
        try:
            writer.create(document)
            log.info("made TrackingServer %s from %s", document["metadata"]["name"], path)
        except Rejected as error:
            if error.code != "409":
                log.error("the TrackingServer in %s: %s", path, error.problem.what)
                return False
        except NotLeading:
            return True
        except PlatformError as error:
            log.warning("the TrackingServer in %s: %s", path, error.problem.what)
            return False
        return True

    def _check(self) -> None:
        """That our definitions are there, those of the newest kinds, too."""
        if missing := [kind for kind in DOCUMENTS if self._reader.resource(API_VERSION, kind) is None]:
            raise Fatal(
                f"{self._reader.address} does not know {API_VERSION} {', '.join(missing)}",
                remedy="kubectl apply --server-side -f manifests/crds, or mlplatform deploy",
            )

    def _first_list(self) -> None:
        failures = 0
        while not self.stopping.is_set():
            try:
                self._cache.refresh(time.monotonic())
            except PlatformError as error:
                failures += 1
                log.warning("listing the documents: %s", error.problem.what)
                self.stopping.wait(pause_after(failures))
            else:
                return

    def _owner(self) -> str | None:
        """Whose the objects on tracking servers are: the cluster's, known by the uid of a namespace that
        lives as long as it."""
        try:
            found: Mapping[str, Any] | None = self._reader.get("v1", "Namespace", "", "kube-system")
        except PlatformError as error:
            log.warning("the cluster's identity: %s", error.problem.what)
            return None
        return f"k8s:{found['metadata']['uid']}" if found else None

    def _unready(self) -> str:
        if not self._cache.complete:
            return "the documents have not been listed yet"
        silent = clock() - self._elector.contact
        return f"the API server has not answered for {silent:.0f} s" if silent > _SILENCE else ""

    def _connect(self) -> Cluster:
        cluster = Cluster.connect(self.settings.kubeconfig, self.settings.context)
        cluster.patience = _PATIENCE
        return cluster


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    operator = Operator(settings)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: operator.stop())
    operator.run()


def own_namespace(default: str) -> str:
    """The namespace of the pod this runs in, which the chart passes on, or `default`."""
    return os.environ.get("POD_NAMESPACE") or default
