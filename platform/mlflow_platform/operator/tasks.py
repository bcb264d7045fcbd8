"""What jobs do for a document at set times: their command lines, and the Secrets that they may read. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_platform.model.backup_schedule import BackupSchedule
from mlflow_platform.model.base import Model, SecretReference
from mlflow_platform.model.retention_policy import RetentionPolicy

#: Where a pod finds its documents and Secrets; the chart's template mounts the first.
DOCUMENTS_KEY = "documents.yaml"
DOCUMENTS_FILE = f"/etc/mlplatform/documents/{DOCUMENTS_KEY}"
SECRETS_FOLDER = "/etc/mlplatform/secrets"
#: The variable with the address of a job's own empty database (chart: _partials.yaml.j2, `scratch_env`).
SCRATCH = "MLPLATFORM_SCRATCH_DATABASE_URI"


@dataclass(frozen=True)
class Told:
    """The fields of a document's status that tell of a task (model/crd.py)."""

    cron_job: str = "cronJob"
    last: str = "lastRunTime"
    success: str = "lastSuccessfulTime"
    following: str = "nextRunTime"

    @property
    def nothing(self) -> dict[str, None]:
        """As where there is no such task."""
        return dict.fromkeys((self.cron_job, self.last, self.success, self.following))


RUN = Told()
DRILL = Told("drillCronJob", "lastDrillTime", "lastSuccessfulDrillTime", "nextDrillTime")


@dataclass(frozen=True)
class Task:
    """One command of `mlplatform` at set times. `noun` is part of its CronJob's name."""

    noun: str
    schedule: str
    arguments: Sequence[str]
    secrets: Sequence[SecretReference] = ()
    """Those of the document that it reads."""
    data: bool = True
    """Whether it works on the tracking server's database and stores. One that does not, gets no way there."""
    keys: bool = False
    """Whether it is to know MLflow's own keys, where the server is the release's."""
    scratch: bool = False
    """Whether its pod has an empty Postgres of its own (`SCRATCH`)."""
    told: Told = field(default=RUN)


def _retention(policy: Any, allowed: str | None) -> Iterator[Task]:
    assert isinstance(policy, RetentionPolicy)  # noqa: S101 - TASKS says so
    spec = policy.spec
    if spec.schedule is None:
        return
    what = [DOCUMENTS_FILE, "--policy", policy.metadata.name, "--server", spec.server]
    if spec.dryRun:
        arguments = ["retention", "plan", *what, "--no-exit-code"]
    else:
        release = ["--allow-destructive", allowed] if allowed else []
        arguments = ["retention", "run", *what, "--wait", "3600", *release]
    yield Task("retention", spec.schedule, arguments, list(references(spec)))


def _backup(document: Any, _: str | None) -> Iterator[Task]:
    assert isinstance(document, BackupSchedule)  # noqa: S101 - TASKS says so
    spec = document.spec
    place = ["-f", DOCUMENTS_FILE, "--schedule", document.metadata.name]
    secrets = [*references(spec.destination), *references(spec.encryptionKeySecretRef)]
    if spec.schedule is not None:
        yield Task("backup", spec.schedule, ["backup", "create", *place], secrets, keys=True)
    if spec.drill is not None:
        database = list(references(spec.drill))
        arguments = ["backup", "drill", *place, *([] if database else ["--database", SCRATCH])]
        yield Task(
            "drill",
            spec.drill.schedule,
            arguments,
            [*secrets, *database],
            data=False,  # it shows that a restore needs nothing but the backups
            scratch=not database,
            told=DRILL,
        )


#: Kind -> what is done for its documents, by the document and the hash of a plan that may pass the brake.
TASKS: Mapping[str, Callable[[Any, str | None], Iterator[Task]]] = {
    "RetentionPolicy": _retention,
    "BackupSchedule": _backup,
}
#: Kind -> all that its documents' statuses may tell of.
TOLD: Mapping[str, Sequence[Told]] = {"RetentionPolicy": (RUN,), "BackupSchedule": (RUN, DRILL)}


def references(value: Any) -> Iterator[SecretReference]:
    """Those anywhere below a value."""
    if isinstance(value, SecretReference):
        yield value
    elif isinstance(value, Model):
        for name in type(value).model_fields:
            yield from references(getattr(value, name))
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from references(item)
