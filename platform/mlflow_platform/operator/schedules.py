"""Documents that jobs carry out at set times: the CronJob of each, and what its last job says. Pure.

A job gets its document, and that of the TrackingServer, in a ConfigMap; Secrets that these refer to are
mounted by name from the operator's namespace, never copied. Its pod is the chart's (`JobTemplate`); it may
not speak to the API server.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.errors import EXIT_BRAKE, BadInput
from mlflow_platform.model import cron
from mlflow_platform.model.backup_schedule import BackupSchedule
from mlflow_platform.model.base import API_VERSION, Document, SecretReference
from mlflow_platform.model.tracking_server import TrackingServer
from mlflow_platform.operator.conditions import Outcome, Reason
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE, Entry
from mlflow_platform.operator.judging import said
from mlflow_platform.operator.tasks import (
    DOCUMENTS_KEY,
    DRILL,
    SECRETS_FOLDER,
    TASKS,
    Task,
    Told,
    references,
)
from mlflow_platform.operator.tenancy import refusal

Json = dict[str, Any]

#: On what an operator makes for documents; by its name they are found again (`JobTemplate.labels`).
SCHEDULED_BY = "mlplatform.io/scheduled-by"
#: On a CronJob and its ConfigMap: a digest of what was wanted when it was written.
WANTED = "mlplatform.io/wanted"
#: Longest name of a CronJob: its Jobs' names are 11 characters longer (k8s.io/kubernetes
#: pkg/apis/batch/validation/validation.go: ValidateCronJobCreate).
MAX_NAME = 52
#: Volumes of a pod: its documents, which the chart's template mounts, and Secrets.
DOCUMENTS, SECRETS = "documents", "secrets"
#: What a TrackingServer's document has that a job needs.
_OF_SERVER = ("trackingUri", "credentials", "caSecretRef", "database", "artifacts")
#: The server that a release looks after; only its database and store are a job's by itself.
_OWN_SERVER = "default"


@dataclass(frozen=True)
class JobTemplate:
    """What the chart says of jobs (templates/operator.yaml.j2: `jobs.yaml`)."""

    prefix: str
    """Of the CronJobs' names: the release's."""
    tracking_uri: str
    """Of the release's own server."""
    env: Sequence[Json]
    """Variables that lead to the database and the store of that server."""
    keys: Sequence[Json]
    """Variables with MLflow's own keys, of that server."""
    scratch: Json
    """What has an empty Postgres in a pod: `container` (a sidecar), `volume`, and `env` that leads there."""
    cron_job: Json
    """A CronJob without name, schedule and arguments."""

    @property
    def labels(self) -> dict[str, str]:
        """On what is made from it, and on nothing that another release's operator makes."""
        return {SCHEDULED_BY: self.prefix}

    @classmethod
    def read(cls, path: Path) -> JobTemplate:
        """Raises `BadInput`."""
        try:
            found = yaml.safe_load(path.read_text("utf-8"))
            names = ("prefix", "trackingUri", "env", "keys", "scratch", "cronJob")
            template = cls(*(found[name] for name in names))
            pod_of(template.cron_job)["containers"][0]["args"]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, IndexError) as error:
            what = f"--job-template {path} is no template of jobs: {error}"
            raise BadInput(what, remedy="render it with the chart (ConfigMap RELEASE-operator)") from error
        return template


def pod_of(cron_job: Mapping[str, Any]) -> Any:
    """The pod's spec."""
    return cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]


@dataclass(frozen=True)
class Wanted:
    """What there must be for a document; nothing where nothing is to run, and then why."""

    outcome: Outcome
    config: Json | None = None
    cron_jobs: Sequence[tuple[Told, Json]] = ()
    """Each with what the status tells of it."""

    @property
    def names(self) -> set[str]:
        """Of the objects."""
        found = [*([self.config] if self.config else []), *(c for _, c in self.cron_jobs)]
        return {str(one["metadata"]["name"]) for one in found}


def wanted(entry: Entry, server: Entry | None, template: JobTemplate | None, namespace: str) -> Wanted:
    """What a document asks for. `server` is its TrackingServer, `namespace` the operator's own."""
    document = entry.document
    if document is None:
        return Wanted(Outcome(Reason.INVALID, said(entry.mistake) if entry.mistake else ""))
    if entry.namespace != namespace:
        problem = refusal(document, (), (), {})
        return Wanted(Outcome(Reason.NOT_ALLOWED, said(problem) if problem else ""))
    tasks = list(TASKS[entry.kind](document, entry.annotations.get(ALLOW_DESTRUCTIVE)))
    if not tasks:
        return Wanted(Outcome(Reason.NOT_SCHEDULED, "it has no spec.schedule"))
    if template is None:
        what = "this operator runs no jobs. Start it with --job-template, as the chart does"
        return Wanted(Outcome(Reason.NO_JOBS, what))
    if server is None or server.deleting:
        what = f"there is no TrackingServer {entry.server!r}. Make one, or correct spec.server"
        return Wanted(Outcome(Reason.SERVER_NOT_FOUND, what))
    if not isinstance(server.document, TrackingServer):
        return Wanted(Outcome(Reason.WAITING, f"the TrackingServer {entry.server} is mistaken. Correct it"))
    if missing := _unknown_places(server.document, template):
        return Wanted(Outcome(Reason.WAITING, missing))
    outcome = Outcome(Reason.SUSPENDED if document.spec.suspend else Reason.SCHEDULED)
    if refused := _drill_without_login(document, server.document, template):
        # The backups go on: they are worth more than the proof.
        outcome = Outcome(Reason.INVALID, refused)
        tasks = [task for task in tasks if task.told is not DRILL]
    return Wanted(outcome, *_objects(entry, tasks, server.document, template)) if tasks else Wanted(outcome)


def _drill_without_login(document: Document, server: TrackingServer, template: JobTemplate) -> str:
    """Why a drill could not read the backups; empty where it can. Where stores are reached with keys, pods
    have no identity of their own, and a drill gets none of the artifacts' keys (docs/decisions/0028)."""
    if not isinstance(document, BackupSchedule) or document.spec.drill is None:
        return ""
    where, artifacts = document.spec.destination, server.spec.artifacts
    if where.accessKeySecretRef is not None or not where.uri.startswith("s3://"):
        return ""
    if _is_own(server, template):
        keys = any(one["name"] == "AWS_ACCESS_KEY_ID" for one in template.env)
    else:
        keys = artifacts is not None and artifacts.accessKeySecretRef is not None
    if not keys:
        return ""
    return (
        f"the drill has no login for {where.uri}: it gets none of the keys of the artifacts' store. Write "
        "spec.destination.accessKeySecretRef and secretKeySecretRef, whose keys may read the backups, or "
        "take spec.drill out"
    )


def _unknown_places(server: TrackingServer, template: JobTemplate) -> str:
    """Why no job can find the server's database and stores; empty where it can."""
    name, spec = server.metadata.name, server.spec
    lacking = [field for field in ("database", "artifacts") if getattr(spec, field) is None]
    if not lacking or _is_own(server, template):
        return ""
    what = f"the TrackingServer {name} does not say where its {' and '.join(lacking)} are"
    remedy = "Write " + " and ".join(f"spec.{field}" for field in lacking)
    if name == _OWN_SERVER and len(lacking) == 2:
        remedy += f", or lead spec.trackingUri to this release, {template.tracking_uri}"
    return f"{what}. {remedy}"


def _is_own(server: TrackingServer, template: JobTemplate) -> bool:
    """Whether it is the release's own server, whose database and store the template leads to. One that was
    pointed elsewhere must not have its policies carried out here."""
    spec = server.spec
    return (
        server.metadata.name == _OWN_SERVER
        and spec.database is None
        and spec.artifacts is None
        and spec.trackingUri.rstrip("/") == template.tracking_uri.rstrip("/")
    )


def _objects(
    entry: Entry, tasks: Sequence[Task], server: TrackingServer, template: JobTemplate
) -> tuple[Json, list[tuple[Told, Json]]]:
    assert entry.document is not None  # noqa: S101 - looked at by `wanted`
    documents = [_plain(entry.kind, entry.name, _spec(entry.document.spec))]
    if not _is_own(server, template):
        documents.append(_plain("TrackingServer", server.metadata.name, _spec(server.spec, *_OF_SERVER)))
    shared = job_name(template.prefix, tasks[0].noun, entry.name)
    found = []
    for task in tasks:
        cron_job = _cron_job(task, entry.document.spec, server, template, shared)
        name = job_name(template.prefix, task.noun, entry.name)
        found.append((task.told, _owned(cron_job, name, entry, template.labels)))
    config: Json = {"apiVersion": "v1", "kind": "ConfigMap"}
    config["metadata"] = copy.deepcopy(template.cron_job["metadata"])
    config["data"] = {DOCUMENTS_KEY: yaml.safe_dump_all(documents, sort_keys=False, width=110)}
    return _owned(config, shared, entry, template.labels), found


def _cron_job(task: Task, spec: Any, server: TrackingServer, template: JobTemplate, documents: str) -> Json:
    """`spec` is that of the document, `documents` the name of the ConfigMap with it."""
    cron_job = copy.deepcopy(template.cron_job)
    cron_job["spec"] |= {"schedule": task.schedule, "suspend": spec.suspend}
    job = cron_job["spec"]["jobTemplate"]
    job.setdefault("metadata", {}).setdefault("labels", {}).update(template.labels)
    pod = pod_of(cron_job)
    container = pod["containers"][0]
    container["args"] = list(task.arguments)
    for volume in pod["volumes"]:
        if volume["name"] == DOCUMENTS:
            volume["configMap"]["name"] = documents
    secrets, env = list(task.secrets), list(container.get("env", ()))
    if task.data and _is_own(server, template):
        env += [*template.env, *(template.keys if task.keys else ())]
    elif task.data:
        secrets += [r for name in _OF_SERVER for r in references(getattr(server.spec, name))]
    if task.scratch:
        scratch = copy.deepcopy(template.scratch)
        env += scratch["env"]
        pod["initContainers"] = [*pod.get("initContainers", ()), scratch["container"]]
        pod["volumes"].append(scratch["volume"])
    container["env"] = env
    if secrets:
        container["args"] += ["--secrets", SECRETS_FOLDER]
        container["volumeMounts"].append({"name": SECRETS, "mountPath": SECRETS_FOLDER, "readOnly": True})
        pod["volumes"].append({"name": SECRETS, "projected": _projected(secrets)})
    return cron_job


def _spec(spec: Any, *names: str) -> Json:
    found: Json = spec.model_dump(mode="json", exclude_unset=True, include=set(names) or None)
    return found


def job_name(prefix: str, noun: str, name: str) -> str:
    """Of the CronJob: short enough, and another one for each document."""
    whole = f"{prefix}-{noun}-{name}"
    if len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{whole[: MAX_NAME - 9].rstrip('-.')}-{digest}"


def _plain(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _projected(references: Iterable[SecretReference]) -> Json:
    """The Secrets as files `<name>/<key>`, as `--secrets DIR` reads them, for the pod's group alone."""
    keys: dict[str, set[str]] = {}
    for ref in references:
        keys.setdefault(ref.name, set()).add(ref.key)
    sources = [
        {"secret": {"name": name, "items": [{"key": key, "path": f"{name}/{key}"} for key in sorted(found)]}}
        for name, found in sorted(keys.items())
    ]
    return {"defaultMode": 0o440, "sources": sources}


def _owned(found: Json, name: str, entry: Entry, labels: Mapping[str, str]) -> Json:
    """With the document as its owner, so that it goes when the document does."""
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:16]
    metadata = found.setdefault("metadata", {})
    metadata |= {"name": name, "namespace": entry.namespace}
    metadata["labels"] = {**metadata.get("labels", {}), **labels}
    metadata["annotations"] = {**metadata.get("annotations", {}), WANTED: digest}
    owner = {"apiVersion": API_VERSION, "kind": entry.kind, "name": entry.name, "uid": entry.uid}
    metadata["ownerReferences"] = [{**owner, "controller": True}]
    return found


def replacement(wished: Json, live: Mapping[str, Any]) -> Json:
    """What replaces `live`: content and owner as wanted, labels and annotations of others kept."""
    mine, theirs = wished["metadata"], live["metadata"]
    metadata = {k: v for k, v in theirs.items() if k != "managedFields"}
    for field in ("labels", "annotations"):
        metadata[field] = {**(theirs.get(field) or {}), **mine[field]}
    return {**wished, "metadata": {**metadata, "ownerReferences": mine["ownerReferences"]}}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two answers of the API server about an object say the same, but for who wrote it and when."""

    def essence(found: Mapping[str, Any]) -> list[Any]:
        metadata = found["metadata"]
        fields = [metadata.get(f) for f in ("labels", "annotations", "ownerReferences", "finalizers")]
        return [*fields, found.get("spec"), found.get("data")]

    return essence(one) == essence(other)


def after_jobs(
    outcome: Outcome,
    told: Told,
    cron_job: Mapping[str, Any],
    jobs: Iterable[Mapping[str, Any]],
    now: datetime,
) -> tuple[Outcome, Json]:
    """What a document's condition and status say, from a CronJob of it and the Jobs made from that."""
    metadata = cron_job["metadata"]
    ended = sorted(
        (end for job in jobs if is_of(job, metadata["uid"]) if (end := _end(job))), key=lambda end: end[0]
    )
    well = [when for when, condition, _ in ended if condition["type"] == "Complete"]
    known = cron_job.get("status", {}).get("lastSuccessfulTime")
    spec = cron_job["spec"]
    following = None if spec.get("suspend") else cron.following(spec["schedule"], now)
    extra: Json = {
        told.cron_job: metadata["name"],
        told.last: ended[-1][0] if ended else None,
        # Of a job by hand, the CronJob knows nothing; of one that is not kept any more, only the CronJob.
        told.success: max([*well, *([known] if known else [])], default=None),
        told.following: following and following.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if not ended or ended[-1][1]["type"] == "Complete":
        return outcome, extra
    when, condition, job = ended[-1]
    where = f"kubectl -n {metadata['namespace']} logs job/{job}"
    if condition.get("reason") == "PodFailurePolicy" and f"exit code {EXIT_BRAKE} " in condition["message"]:
        what = (
            f"the brake stopped the job {job} ({when}). `{where}` shows what it chose, and the hash. If that "
            f"is what you mean: annotate this with {ALLOW_DESTRUCTIVE}=HASH, then kubectl -n "
            f"{metadata['namespace']} create job --from=cronjob/{metadata['name']} released"
        )
        return Outcome(Reason.BRAKE_STOPPED, what), extra
    words = f"{condition.get('reason', 'Failed')}: {condition.get('message', '')}".removesuffix(": ")
    return Outcome(Reason.JOB_FAILED, f"the job {job} failed ({when}, {words}). `{where}` says why"), extra


def is_of(found: Mapping[str, Any], uid: str) -> bool:
    """Whether an object has the one of this uid as an owner."""
    return any(owner["uid"] == uid for owner in found["metadata"].get("ownerReferences", ()))


def _end(job: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str] | None:
    """When a Job ended, the condition that says how, and its name; None while it runs. Times of Kubernetes
    are RFC 3339 in UTC to the second: they sort as text."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["lastTransitionTime"], condition, job["metadata"]["name"]
    return None
