"""The phases of a deployment, in order: each is applied, then waited for. May be run again at any point."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from mlflow_platform.adapters.kubernetes import Cluster, Reply
from mlflow_platform.chart import Chart, Manifest, Release, Values
from mlflow_platform.deploy import external, holding, jobs, phases, preflight, settling, smoke, turns
from mlflow_platform.deploy.differences import Change, Difference
from mlflow_platform.deploy.health import State, health
from mlflow_platform.deploy.waiting import wait
from mlflow_platform.errors import Fatal, PlatformError, Rejected, Transient
from mlflow_platform.model import crd


@dataclass
class Outcome:
    """What a deployment did: object ("Kind/name") -> change, seconds a phase, the API server's warnings."""

    changes: dict[str, Change] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    smoke: list[str] = field(default_factory=list)

    def count(self, change: Change) -> int:
        return sum(1 for c in self.changes.values() if c is change)


class Screen:
    """Where a deployment reports to; this one is silent."""

    def started(self, phase: str) -> None: ...

    def going_on(self, text: str) -> None: ...

    def ended(self, phase: str, seconds: float) -> None: ...


@dataclass
class Deployment:
    """A chart's objects and the cluster they are for. `timeout` is of one phase, in seconds."""

    cluster: Cluster
    chart: Chart
    values: Values
    release: Release
    timeout: float = 600.0
    screen: Screen = field(default_factory=Screen)

    def __post_init__(self) -> None:
        self.manifests: list[Manifest] = self.chart.render(
            self.values, self.release, kube_version=self.cluster.version()
        )

    def run(self, *, try_it: bool = True) -> Outcome:
        """Deploy; with `try_it`, end with the smoke test. `Fatal` names the phase's failing pod."""
        outcome = Outcome()
        with self._phase("checks", outcome):
            preflight.check(self.cluster, self.manifests, self.release.namespace)
            if self._namespace() is not None:  # else the API server has nowhere to try the objects
                self._differences()
        if definitions := self._definitions():
            with self._phase("definitions", outcome):
                self._define(definitions, outcome)
        with self._phase("namespace", outcome):
            self._make_namespace(outcome)
        self.screen.started("turn")
        with turns.turn(self.cluster, self.release, timeout=self.timeout, say=self.screen.going_on):
            self._bring(outcome)
            if try_it:
                with self._phase("smoke test", outcome):
                    outcome.smoke = self._try()
        return outcome

    def _bring(self, outcome: Outcome) -> None:
        """Apply and wait for what the chart makes, and delete what it no longer does."""
        if (job := external.job(self.manifests, self.values.data)) is not None:
            with self._phase("database and bucket", outcome):
                self._apply(external.account(self.manifests), outcome)
                self._run_job(job)
        try:
            for phase in phases.phases(self.manifests):
                if phase.name == "schema" and self._migrates(phase):
                    holding.hold(self.cluster, *self._autoscaler)
                elif phase.name == "scaling":
                    self._let_go()
                with self._phase(phase.name, outcome):
                    for wanted in phase.objects:
                        self._apply(wanted, outcome)
                    self._wait(phase.objects)
        except BaseException:
            # What failed is what matters; an autoscaler that stays held is the next deployment's to free.
            with suppress(PlatformError):
                self._let_go()
            raise
        with self._phase("leftovers", outcome):
            self.remove_leftovers(outcome)

    def remove_leftovers(self, outcome: Outcome) -> None:
        """Delete what the chart no longer makes. Before its operator goes, that settles its documents."""
        old = self._leftovers()
        if not settling.operated(old):
            self._delete(old, outcome)
            return
        deadline = time.monotonic() + self.timeout
        self.screen.going_on("documents that are being deleted")
        alone = settling.settle(self.cluster, self.release, self.chart, deadline)
        # The rest of the operator goes last: a deployment that was killed in between begins here again.
        self._delete([o for o in old if o["kind"] == "Deployment"], outcome)
        settling.wait_for_pods(self.cluster, self.release, self.chart, deadline, component=phases.OPERATOR)
        count = settling.let_go(self.cluster, self.release, alone=alone)
        made = settling.made_for_documents(existing(self.cluster, self.release, self.chart))
        self._delete([*made, *(o for o in old if o["kind"] != "Deployment")], outcome)
        # A job of the chart's with the name of a document's: the operator has kept its own in that place.
        places = {phases.key(one) for one in made}
        for manifest in self.manifests:
            if phases.key(manifest.object) in places:
                self._apply(manifest.object, outcome)
        outcome.warnings.append(
            "the operator is gone: nobody keeps its documents true any more, and their jobs went with it. "
            f"Finalizers were taken off {count} of them, so that they can be deleted; their objects then stay"
        )

    def _delete(self, found: Sequence[Mapping[str, Any]], outcome: Outcome) -> None:
        for old in found:
            self.cluster.delete(old["apiVersion"], old["kind"], *_place(old))
            outcome.changes["/".join(phases.key(old))] = Change.DELETED

    def differences(self) -> list[Difference]:
        """What `run` would change. Writes nothing; `Rejected` if the API server refuses an object."""
        preflight.check(self.cluster, self.manifests, self.release.namespace)
        found: list[Difference] = []
        for wanted in self._definitions():
            live = self._live(wanted)
            found.append(Difference(*phases.key(wanted), live, self._tried(wanted, live)))
        if self._namespace() is None:
            made = [phases.namespace_object(self.release.namespace), *(m.object for m in self.manifests)]
            return found + [Difference(*phases.key(one), None, one) for one in made]
        gone = [Difference(*phases.key(old), old, None) for old in self._leftovers()]
        return found + self._differences() + gone

    def _differences(self) -> list[Difference]:
        found = []
        for phase in phases.phases(self.manifests):
            for wanted in phase.objects:
                live = self._live(wanted)
                found.append(Difference(*phases.key(wanted), live, self._tried(wanted, live)))
        return found

    def _tried(self, wanted: Mapping[str, Any], live: Mapping[str, Any] | None) -> Mapping[str, Any]:
        """What would become of an object."""
        try:
            return self._send(self._completed(wanted, live), dry_run=True).object
        except Rejected as error:
            # Of a login that may not bind just any Role the API server wants to see that Role, and no dry run
            # makes it (pkg/registry/rbac/rolebinding/policybased/storage.go).
            if (error.code, wanted["kind"], live) != ("404", "RoleBinding", None):
                raise
            return wanted

    def _apply(self, wanted: Mapping[str, Any], outcome: Outcome) -> None:
        live = self._live(wanted)
        if live is not None and live["kind"] == "Job" and health(live).state is State.FAILED:
            jobs.delete(self.cluster, live, timeout=self.timeout)  # a Job that failed never runs again
            live = None
        name = "/".join(phases.key(wanted))
        self.screen.going_on(name)
        reply = self._send(self._completed(wanted, live))
        outcome.changes[name] = Difference(*phases.key(wanted), live, reply.object).change
        outcome.warnings += [f"{name}: {text}" for text in reply.warnings]

    def _send(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Reply:
        try:
            return self.cluster.apply(wanted, dry_run=dry_run)
        except Rejected as error:
            if wanted["kind"] != "StatefulSet" or "updates to statefulset spec" not in str(error):
                raise
            raise Rejected(
                f"StatefulSet {wanted['metadata']['name']}: size and class of its volume are fixed",
                code=error.code,
                remedy="put the values back; a volume is enlarged in its PersistentVolumeClaim",
            ) from error

    def _wait(self, objects: Sequence[Mapping[str, Any]]) -> None:
        workloads = [o for o in objects if o["kind"] in phases.WORKLOADS]
        wait(self.cluster, workloads, timeout=self.timeout, say=self.screen.going_on)

    def _completed(self, wanted: Mapping[str, Any], live: Mapping[str, Any] | None) -> Mapping[str, Any]:
        return phases.completed(wanted, live, secret_versions(self.cluster, self.release.namespace, wanted))

    def _definitions(self) -> list[dict[str, Any]]:
        """Those of the documents, where somebody is to read them. They are shared by all releases of a
        cluster and never removed: every document would go with them."""
        return crd.definitions() if phases.has_operator(self.manifests) else []

    def _define(self, definitions: Sequence[Mapping[str, Any]], outcome: Outcome) -> None:
        """Apply them, and wait until the API server serves them."""
        for definition in definitions:
            self._apply(definition, outcome)
        deadline = time.monotonic() + self.timeout
        for definition in definitions:
            while not established(self._live(definition) or {}):
                if time.monotonic() > deadline:
                    raise Transient(f"{definition['metadata']['name']} is defined, but not served")
                time.sleep(0.2)

    def _live(self, wanted: Mapping[str, Any]) -> Mapping[str, Any] | None:
        return self.cluster.get(wanted["apiVersion"], wanted["kind"], *_place(wanted))

    def _leftovers(self) -> list[Mapping[str, Any]]:
        return phases.leftovers(
            existing(self.cluster, self.release, self.chart), [m.object for m in self.manifests]
        )

    def _namespace(self) -> Mapping[str, Any] | None:
        """The release's; None if there is none yet. `Fatal` if it is on its way out."""
        try:
            found = self.cluster.get("v1", "Namespace", "", self.release.namespace)
        except Rejected as error:
            if error.code != "403":
                raise
            return {}  # a login for the namespace alone: somebody has made it
        if found is not None and found.get("status", {}).get("phase") == "Terminating":
            raise Fatal(
                f"namespace {self.release.namespace} is being deleted", remedy="deploy when it is gone"
            )
        return found

    def _make_namespace(self, outcome: Outcome) -> None:
        """One that is there is somebody's: it is left as it is."""
        name, found = f"Namespace/{self.release.namespace}", self._namespace()
        if found is None:
            self.cluster.apply(phases.namespace_object(self.release.namespace))
        outcome.changes[name] = Change.CREATED if found is None else Change.UNCHANGED

    def _migrates(self, phase: phases.Phase) -> bool:
        """Whether a Job of this phase has still to run."""
        found = [self._live(wanted) for wanted in phase.objects]
        return any(live is None or health(live).state is not State.READY for live in found)

    @property
    def _autoscaler(self) -> tuple[str, str]:
        return self.release.namespace, f"{self.release.name}-server"

    def _let_go(self) -> None:
        """Of an autoscaler that this deployment holds, or one that was killed."""
        holding.release(self.cluster, *self._autoscaler)

    def _try(self) -> list[str]:
        """The lines of the smoke test."""
        return self._run_job(smoke.job(self.manifests, self.release.name))

    def _run_job(self, job: Mapping[str, Any]) -> list[str]:
        return jobs.run(self.cluster, job, timeout=self.timeout, say=self.screen.going_on)

    @contextmanager
    def _phase(self, name: str, outcome: Outcome) -> Iterator[None]:
        self.screen.started(name)
        began = time.monotonic()
        yield
        outcome.seconds[name] = time.monotonic() - began
        self.screen.ended(name, outcome.seconds[name])


def existing(cluster: Cluster, release: Release, chart: Chart) -> list[Mapping[str, Any]]:
    """The release's objects in the cluster, of the kinds that hold nothing of their own."""
    labels = phases.labels(release.name, chart.about["name"])
    outside = {**labels, phases.NAMESPACE_LABEL: release.namespace}
    wanted = [(*kind, release.namespace, labels) for kind in phases.PRUNED]
    wanted += [(*kind, "", outside) for kind in phases.OUTSIDE]
    found: list[Mapping[str, Any]] = []
    for api_version, kind, namespace, its_labels in wanted:
        try:
            found += cluster.find(api_version, kind, namespace, its_labels)
        except Rejected as error:
            # A login for the namespace alone, or for Kubernetes' own kinds: it has made none of these.
            if error.code != "403" or (namespace and kind not in preflight.PROVIDERS):
                raise
    return found


def established(definition: Mapping[str, Any]) -> bool:
    """Whether the API server serves what a CustomResourceDefinition defines."""
    conditions = definition.get("status", {}).get("conditions", [])
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def secret_versions(cluster: Cluster, namespace: str, found: Mapping[str, Any]) -> dict[str, str]:
    """Name -> uid and resourceVersion of each Secret that an object's pods read. Not its content."""
    versions = {}
    for name in phases.secrets_of(found):
        secret = cluster.get("v1", "Secret", namespace, name, metadata_only=True)
        if secret is not None:
            versions[name] = f"{secret['metadata']['uid']}/{secret['metadata']['resourceVersion']}"
    return versions


def _place(found: Mapping[str, Any]) -> tuple[str, str]:
    return str(found["metadata"].get("namespace", "")), str(found["metadata"]["name"])
