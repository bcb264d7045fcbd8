"""Documents that jobs carry out at set times: the CronJob of each, and what its last job says. Pure.

A job gets its document, and that of the TrackingServer, in a ConfigMap; Secrets that these refer to are
mounted by name from the operator's namespace, never copied. Its pod is the chart's (`JobTemplate`); it may
not speak to the API server.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.errors import EXIT_BRAKE, BadInput
from mlflow_platform.model.base import API_VERSION, Model, SecretReference
from mlflow_platform.model.retention_policy import RetentionPolicy
from mlflow_platform.model.tracking_server import TrackingServer
from mlflow_platform.operator.conditions import Outcome, Reason
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE, Entry
from mlflow_platform.operator.judging import said
from mlflow_platform.operator.tenancy import refusal

Json = dict[str, Any]

#: On what an operator makes for documents; by its name they are found again (`JobTemplate.labels`).
SCHEDULED_BY = "mlplatform.io/scheduled-by"
#: On a CronJob and its ConfigMap: a digest of what was wanted when it was written.
WANTED = "mlplatform.io/wanted"
#: Longest name of a CronJob: its Jobs' names are 11 characters longer (k8s.io/kubernetes
#: pkg/apis/batch/validation/validation.go: ValidateCronJobCreate).
MAX_NAME = 52
#: Where a pod finds its documents and Secrets: the volumes, and where the chart's template mounts the first.
DOCUMENTS, SECRETS = "documents", "secrets"
DOCUMENTS_KEY = "documents.yaml"
DOCUMENTS_FILE = f"/etc/mlplatform/documents/{DOCUMENTS_KEY}"
SECRETS_FOLDER = "/etc/mlplatform/secrets"
#: What a TrackingServer's document has that a job needs.
_OF_SERVER = {"trackingUri", "credentials", "database", "artifacts"}
#: The server that a release looks after; only its database and store are a job's by itself.
_OWN_SERVER = "default"


def _retention(policy: Any, allowed: str | None) -> list[str]:
    assert isinstance(policy, RetentionPolicy)  # noqa: S101 - SCHEDULED says so
    what = [DOCUMENTS_FILE, "--policy", policy.metadata.name, "--server", policy.spec.server]
    if policy.spec.dryRun:
        return ["retention", "plan", *what, "--no-exit-code"]
    release = ["--allow-destructive", allowed] if allowed else []
    return ["retention", "run", *what, "--wait", "3600", *release]


@dataclass(frozen=True)
class Scheduled:
    """How documents of a kind are carried out. `noun` is part of the CronJobs' names; `command` gives the
    arguments of `mlplatform`, from a document and the hash of a plan that may pass the brake."""

    noun: str
    command: Callable[[Any, str | None], list[str]]


SCHEDULED: Mapping[str, Scheduled] = {"RetentionPolicy": Scheduled("retention", _retention)}


@dataclass(frozen=True)
class JobTemplate:
    """What the chart says of jobs (templates/operator.yaml.j2: `jobs.yaml`)."""

    prefix: str
    """Of the CronJobs' names: the release's."""
    tracking_uri: str
    """Of the release's own server."""
    env: Sequence[Json]
    """Variables that lead to the database and the store of that server."""
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
            template = cls(found["prefix"], found["trackingUri"], found["env"], found["cronJob"])
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
    """What there must be for a document; no objects where nothing is to run, and then why."""

    outcome: Outcome
    objects: tuple[Json, ...] = ()
    """The ConfigMap, then the CronJob."""

    @property
    def name(self) -> str | None:
        return str(self.objects[0]["metadata"]["name"]) if self.objects else None


def wanted(entry: Entry, server: Entry | None, template: JobTemplate | None, namespace: str) -> Wanted:
    """What a document asks for. `server` is its TrackingServer, `namespace` the operator's own."""
    document = entry.document
    if document is None:
        return Wanted(Outcome(Reason.INVALID, said(entry.mistake) if entry.mistake else ""))
    if entry.namespace != namespace:
        problem = refusal(document, (), (), {})
        return Wanted(Outcome(Reason.NOT_ALLOWED, said(problem) if problem else ""))
    if document.spec.schedule is None:
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
    state = Reason.SUSPENDED if document.spec.suspend else Reason.SCHEDULED
    return Wanted(Outcome(state), _objects(entry, server.document, template))


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


def _objects(entry: Entry, server: TrackingServer, template: JobTemplate) -> tuple[Json, Json]:
    document, kind = entry.document, SCHEDULED[entry.kind]
    assert document is not None  # noqa: S101 - looked at by `wanted`
    own = _is_own(server, template)
    name = job_name(template.prefix, kind.noun, entry.name)
    documents = [_plain(entry.kind, entry.name, document.spec.model_dump(mode="json", exclude_unset=True))]
    if not own:
        spec = server.spec.model_dump(mode="json", exclude_unset=True, include=_OF_SERVER)
        documents.append(_plain("TrackingServer", server.metadata.name, spec))
    cron_job = copy.deepcopy(template.cron_job)
    spec = cron_job["spec"]
    spec |= {"schedule": document.spec.schedule, "suspend": document.spec.suspend}
    spec["jobTemplate"].setdefault("metadata", {}).setdefault("labels", {}).update(template.labels)
    pod = pod_of(cron_job)
    container = pod["containers"][0]
    container["args"] = kind.command(document, entry.annotations.get(ALLOW_DESTRUCTIVE))
    for volume in pod["volumes"]:
        if volume["name"] == DOCUMENTS:
            volume["configMap"]["name"] = name
    references = list(_references(document.spec))
    if own:
        container["env"] = [*container.get("env", ()), *template.env]
    else:
        references += [r for field in _OF_SERVER for r in _references(getattr(server.spec, field))]
    if references:
        container["args"] += ["--secrets", SECRETS_FOLDER]
        container["volumeMounts"].append({"name": SECRETS, "mountPath": SECRETS_FOLDER, "readOnly": True})
        pod["volumes"].append({"name": SECRETS, "projected": _projected(references)})
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": copy.deepcopy(cron_job["metadata"])}
    config["data"] = {DOCUMENTS_KEY: yaml.safe_dump_all(documents, sort_keys=False, width=110)}
    labels = template.labels
    return _owned(config, name, entry, labels), _owned(cron_job, name, entry, labels)


def job_name(prefix: str, noun: str, name: str) -> str:
    """Of the CronJob: short enough, and another one for each document."""
    whole = f"{prefix}-{noun}-{name}"
    if len(whole) <= MAX_NAME:
        return whole
    digest = hashlib.sha256(whole.encode()).hexdigest()[:8]
    return f"{whole[: MAX_NAME - 9].rstrip('-.')}-{digest}"


def _plain(kind: str, name: str, spec: Json) -> Json:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def _references(value: Any) -> Iterator[SecretReference]:
    """Those anywhere below a value."""
    if isinstance(value, SecretReference):
        yield value
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from _references(getattr(value, name))
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _references(item)


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
    outcome: Outcome, cron_job: Mapping[str, Any], jobs: Iterable[Mapping[str, Any]]
) -> tuple[Outcome, Json]:
    """What a document's condition and status say, from its CronJob and the Jobs made from that."""
    metadata = cron_job["metadata"]
    ended = sorted(
        (end for job in jobs if _is_of(job, metadata["uid"]) if (end := _end(job))), key=lambda end: end[0]
    )
    well = [when for when, condition, _ in ended if condition["type"] == "Complete"]
    known = cron_job.get("status", {}).get("lastSuccessfulTime")
    extra: Json = {
        "cronJob": metadata["name"],
        "lastRunTime": ended[-1][0] if ended else None,
        # Of a job by hand, the CronJob knows nothing; of one that is not kept any more, only the CronJob.
        "lastSuccessfulTime": max([*well, *([known] if known else [])], default=None),
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


def _is_of(job: Mapping[str, Any], uid: str) -> bool:
    return any(owner["uid"] == uid for owner in job["metadata"].get("ownerReferences", ()))


def _end(job: Mapping[str, Any]) -> tuple[str, Mapping[str, Any], str] | None:
    """When a Job ended, the condition that says how, and its name; None while it runs. Times of Kubernetes
    are RFC 3339 in UTC to the second: they sort as text."""
    for condition in job.get("status", {}).get("conditions", ()):
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            return condition["lastTransitionTime"], condition, job["metadata"]["name"]
    return None
