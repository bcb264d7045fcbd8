"""The loop that keeps a CronJob for every document that jobs carry out, and says how its jobs end.

By level: each round reads the documents, the CronJobs, their ConfigMaps and Jobs, and writes what differs.
Whether a CronJob differs is asked of the API server by a dry run of replacing it, since only that knows its
defaults; the answer holds for as long as the object is not changed.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlflow_platform.adapters.election import NotLeading, Term
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.errors import PlatformError, Rejected, Transient
from mlflow_platform.operator.cache import Cache
from mlflow_platform.operator.conditions import Outcome, Reason
from mlflow_platform.operator.entries import Entry, serves
from mlflow_platform.operator.judging import said
from mlflow_platform.operator.metrics import Metrics
from mlflow_platform.operator.publishing import Publisher
from mlflow_platform.operator.schedules import (
    SCHEDULED_BY,
    WANTED,
    JobTemplate,
    Json,
    Wanted,
    after_jobs,
    is_of,
    replacement,
    same,
    wanted,
)
from mlflow_platform.operator.tasks import TASKS, TOLD

log = logging.getLogger(__name__)

#: The kinds that are made for a document, in the order in which they are needed.
_MADE = (("v1", "ConfigMap"), ("batch/v1", "CronJob"))
#: Pause before a round that did not go well is repeated, in seconds.
_FIRST_RETRY, _LONGEST_RETRY = 1.0, 60.0

Live = Mapping[str, Mapping[str, Any]]


class _Changed(Exception):
    """An object was changed, or is going, while it was looked at."""


class _Taken(Exception):
    """Another one's object has the name of one that is wanted; says so."""


@dataclass
class _Round:
    """What a round found, and whether another one is needed soon."""

    live: Mapping[str, Live]
    """Kind -> name -> object, of those made for documents."""
    jobs: list[Mapping[str, Any]]
    kept: set[str] = field(default_factory=set)
    """Names of the objects that documents ask for."""
    again: bool = False


class ScheduleLoop(threading.Thread):
    """`cluster` is the one whose gate is the leader's term; `operator` is `NAMESPACE/NAME`."""

    def __init__(
        self,
        cluster: Cluster,
        cache: Cache,
        publisher: Publisher,
        term: Term,
        metrics: Metrics,
        *,
        operator: str,
        template: JobTemplate | None,
        interval: float,
    ) -> None:
        super().__init__(name="schedules", daemon=True)
        self._cluster = cluster
        self._cache = cache
        self._publisher = publisher
        self._term = term
        self._metrics = metrics
        self._operator = operator
        self._namespace, _, name = operator.partition("/")
        self._template = template
        self._labels = template.labels if template is not None else {SCHEDULED_BY: name}
        self._interval = interval
        self._woken = threading.Event()
        self._settled: dict[str, tuple[str, str]] = {}
        """uid -> resourceVersion of an object that is as wanted, and the digest of that."""

    def wake(self) -> None:
        """A document, or a TrackingServer, has changed."""
        self._woken.set()

    def run(self) -> None:
        failures, next_list = 0, 0.0
        while not self._term.over:
            self._woken.clear()
            now = time.monotonic()
            whole = now >= next_list
            try:
                well = self._round(whole=whole)
                if whole:
                    next_list = now + self._interval * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
            except NotLeading:
                return
            except PlatformError as error:
                log.warning("what jobs carry out: %s", error.problem.what)
                well = False
            except Exception:
                # A fault of ours in one round must not end the loop for ever.
                log.exception("what jobs carry out: a round failed")
                well = False
            self._metrics.add("schedule_rounds_total", result="ok" if well else "failed")
            failures = 0 if well else failures + 1
            retry = _FIRST_RETRY * 2.0 ** min(failures - 1, 10)
            until = now + min(_LONGEST_RETRY, retry) if failures else next_list
            while not self._term.over and (left := until - time.monotonic()) > 0:
                if self._woken.wait(min(1.0, left)):
                    break

    def _round(self, *, whole: bool) -> bool:
        """Whether all went well. `whole`: list the documents, too, in case a watch has missed something."""
        if whole:
            self._cache.relist(["TrackingServer", *TASKS])
        live: dict[str, Live] = {}
        for api_version, kind in _MADE:
            objects = self._cluster.find(api_version, kind, self._namespace, self._labels)
            live[kind] = {found["metadata"]["name"]: found for found in objects}
        found = _Round(live, self._cluster.find("batch/v1", "Job", self._namespace, self._labels))
        reasons: Counter[str] = Counter()
        for entry in self._cache.of_kinds(TASKS):
            ours = serves(self._operator, self._cache.server(entry.server))
            if ours and not entry.deleting:
                reasons[self._carry_out(entry, found)] += 1
        for api_version, kind in _MADE:
            for name in live[kind].keys() - found.kept:
                self._cluster.delete(api_version, kind, self._namespace, name)
                self._metrics.add("schedule_writes_total")
        self._metrics.replace("schedules", "reason", {k: float(v) for k, v in reasons.items()})
        return not found.again

    def _carry_out(self, entry: Entry, found: _Round) -> str:
        """Have the objects of a document as they should be, and say so; the reason of its condition."""
        asked = wanted(entry, self._cache.server(entry.server), self._template, self._namespace)
        found.kept |= asked.names
        extra: Json = {name: None for told in TOLD[entry.kind] for name in told.nothing}
        try:
            outcome = asked.outcome
            if asked.config is not None:
                outcome, said_of_jobs = self._settle(entry, asked, asked.config, found)
                extra |= said_of_jobs
        except NotLeading:
            raise
        except _Changed:
            found.again = True
            return Reason.RETRYING
        except _Taken as taken:
            outcome = Outcome(Reason.CONFLICT, str(taken))
        except Rejected as error:
            outcome = Outcome(Reason.REJECTED, f"Kubernetes refused the CronJob: {said(error.problem)}")
        except Transient as error:
            found.again = True
            outcome = Outcome(Reason.RETRYING, said(error.problem))
        try:
            if self._publisher.status(entry, outcome, extra) and not outcome.ready:
                self._publisher.event(entry, "Warning", outcome.reason, outcome.message)
        except Rejected as error:  # the others go on
            log.warning("%s: its status could not be written: %s", entry.origin, error.problem.what)
            found.again = True
        return outcome.reason

    def _settle(self, entry: Entry, asked: Wanted, config: Json, found: _Round) -> tuple[Outcome, Json]:
        self._have(entry, config, found)
        extra: Json = {}
        outcomes = []
        for told, wished in asked.cron_jobs:
            live = self._have(entry, wished, found)
            outcome, fields = after_jobs(asked.outcome, told, live, found.jobs, datetime.now(UTC))
            outcomes.append(outcome)
            extra |= fields
        # What somebody must do something about comes first, then what is not well otherwise.
        return min(outcomes, key=lambda o: (not o.stalled, o.ready)), extra

    def _have(self, entry: Entry, wished: Json, found: _Round) -> Mapping[str, Any]:
        """The object as it is now in the cluster. Raises `_Taken` where it is another one's."""
        kind, name = wished["kind"], wished["metadata"]["name"]
        there = found.live[kind].get(name)
        if there is not None:
            return self._correct(entry, wished, there)
        try:
            live = self._cluster.create(wished)
        except Rejected as error:
            if error.code != "409":
                raise
            # Ours, where somebody has taken the label off by which it is found.
            for other in self._cluster.find(wished["apiVersion"], kind, self._namespace):
                if other["metadata"]["name"] == name and is_of(other, entry.uid):
                    return self._correct(entry, wished, other)
            what = f"there is a {kind} {name} in {self._namespace} that is not this document's"
            raise _Taken(f"{what}. Delete it, or give this another name") from error
        self._metrics.add("schedule_writes_total")
        if kind == "CronJob":
            self._publisher.event(entry, "Normal", "Created", f"created CronJob {name}")
        return live

    def _correct(self, entry: Entry, wished: Json, live: Mapping[str, Any]) -> Mapping[str, Any]:
        """The object, as wanted: replaced where what the API server would make of that differs."""
        metadata, digest = live["metadata"], wished["metadata"]["annotations"][WANTED]
        if self._settled.get(metadata["uid"]) == (metadata["resourceVersion"], digest):
            return live
        if "deletionTimestamp" in metadata:
            raise _Changed
        new = replacement(wished, live)
        try:
            if not same(self._cluster.replace(new, dry_run=True), live):
                by_hand = (metadata.get("annotations") or {}).get(WANTED) == digest
                live = self._cluster.replace(new)
                self._metrics.add("schedule_writes_total")
                what = f"{wished['kind']} {metadata['name']}"
                said_of = (
                    ("DriftCorrected", f"{what} was changed by another hand")
                    if by_hand
                    else ("Updated", what)
                )
                self._publisher.event(entry, "Normal", *said_of)
        except Rejected as error:
            if error.code in ("404", "409"):
                raise _Changed from error
            raise
        self._settled[metadata["uid"]] = (live["metadata"]["resourceVersion"], digest)
        return live
