"""BackupSchedule: when a tracking server is backed up, where to, and how long backups stay."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model import cron
from mlflow_platform.model.base import Document, Mistake, Model, ResourceName, SecretReference, Spec
from mlflow_platform.model.fields import Address, without_login
from mlflow_platform.model.retention_policy import SCHEDULE, Duration
from mlflow_platform.model.tracking_server import StoreUri


class BackupDestination(Model):
    """A store that is not the artifacts': whoever loses those still has this one."""

    uri: StoreUri = Field(
        description="`s3://BUCKET/PREFIX`, or a folder that is mounted where the backup runs. A prefix is "
        "for one tracking database alone."
    )
    endpoint: (
        Annotated[
            Address,
            StringConstraints(max_length=1000),
            without_login("keys go into Secrets that accessKeySecretRef and secretKeySecretRef refer to"),
        ]
        | None
    ) = Field(None, description="Address of the S3 API. Default: AWS.")
    region: Annotated[str, StringConstraints(min_length=1, max_length=63)] | None = Field(
        None, description="Region of the bucket."
    )
    accessKeySecretRef: SecretReference | None = Field(
        None, description="Where the access key is. Default: the identity of the workload."
    )
    secretKeySecretRef: SecretReference | None = Field(None, description="Where the secret key is.")


class KeepBackups(Model):
    """Which backups stay after a new one. One that any of the rules keeps stays; the newest always does."""

    last: Annotated[int, Field(ge=1, le=10_000)] | None = Field(None, description="The newest N.")
    age: Duration | None = Field(None, description="Those younger than this.")


class Drill(Model):
    """Whether, and when, a restore is tried."""

    schedule: Annotated[str, StringConstraints(min_length=5, max_length=100, pattern=SCHEDULE)] = Field(
        description="When the newest backup is restored into a scratch database and read, as in a CronJob "
        "(UTC)."
    )
    databaseUriSecretRef: SecretReference | None = Field(
        None,
        description="Where the address of an empty database for it is, which it leaves empty. Default: one "
        "that is started for it: in its pod, else where the program's embedded Postgres is installed.",
    )


class BackupScheduleSpec(Spec):
    """What is backed up, when and where to."""

    server: ResourceName = Field("default", description="The TrackingServer that is backed up.")
    schedule: Annotated[str, StringConstraints(min_length=5, max_length=100, pattern=SCHEDULE)] | None = (
        Field(None, description="When, as in a CronJob (UTC). Default: never by itself.")
    )
    suspend: bool = Field(False, description="Whether the schedule is switched off.")
    destination: BackupDestination = Field(description="Where backups are kept.")
    keep: KeepBackups | None = Field(None, description="Which backups stay. Default: all.")
    encryptionKeySecretRef: SecretReference | None = Field(
        None,
        description="Where the key is that backups are encrypted with: 64 hexadecimal digits, or 32 bytes in "
        "base64. Who loses it loses the backups. Default: they are not encrypted.",
    )
    drill: Drill | None = Field(None, description="When a restore is tried. Default: never.")

    def mistakes(self, default_name: str) -> Iterator[Mistake]:  # noqa: ARG002 - a schedule has no name in MLflow
        times = {("schedule",): self.schedule, ("drill", "schedule"): self.drill and self.drill.schedule}
        for path, text in times.items():
            if what := cron.mistake(text or "@daily"):
                yield Mistake(path, f"this is no schedule: {what}", cron.REMEDY)
        place = self.destination
        if (place.accessKeySecretRef is None) != (place.secretKeySecretRef is None):
            yield Mistake(("destination",), "only one of the two keys is given", "give both, or neither")
        if self.keep is not None and not self.keep.model_fields_set:
            yield Mistake(("keep",), "this keeps nothing", "write last or age, or leave keep out")


class BackupSchedule(Document):
    """When a tracking server is backed up, and where to."""

    plural: ClassVar[str] = "backupschedules"
    #: Not `backup`: CloudNativePG and Velero have kinds of that name.
    short_names: ClassVar[tuple[str, ...]] = ("mlbackup",)
    kind: Literal["BackupSchedule"] = "BackupSchedule"
    spec: BackupScheduleSpec
