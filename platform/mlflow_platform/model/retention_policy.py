"""RetentionPolicy: what may be deleted, when, and what stays whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from mlflow_platform.model import cron
from mlflow_platform.model.base import Document, Mistake, Model, ResourceName, SecretReference, Spec
from mlflow_platform.model.fields import WorkspaceName
from mlflow_platform.model.tracking_server import Region, S3Endpoint, StoreUri

#: An age or a waiting time: a number and its unit.
DURATION = r"^[0-9]{1,6}[smhdw]$"
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
#: A time of day, UTC.
TIME = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"
#: The five fields of cron, or a name such as @daily; `model.cron` looks at the values.
SCHEDULE = (
    r"^(@(yearly|annually|monthly|weekly|daily|midnight|hourly)|[-0-9*/,A-Za-z]+( +[-0-9*/,A-Za-z?]+){4})$"
)

Duration = Annotated[str, StringConstraints(min_length=2, max_length=7, pattern=DURATION)]
TimeOfDay = Annotated[str, StringConstraints(min_length=5, max_length=5, pattern=TIME)]
#: A name of MLflow's (varchar(256)), or a glob of such names.
Glob = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Globs = Annotated[list[Glob], Field(max_length=500)]
#: mlflow/utils/validation.py: MAX_ENTITY_KEY_LENGTH is 250; the tag tables' value column takes 5,000.
TagKey = Annotated[str, StringConstraints(min_length=1, max_length=250)]
TagValue = Annotated[str, StringConstraints(max_length=5000)]


def seconds(duration: str) -> int:
    """A duration in seconds."""
    return int(duration[:-1]) * _SECONDS[duration[-1]]


class Selector(Model):
    """Which experiments a policy is about. All conditions must hold; none of them: every experiment."""

    experiments: Globs = Field(
        default_factory=list, description="Names or globs (`*`, `?`, `[ab]`), case-sensitive. Default: all."
    )
    exclude: Globs = Field(default_factory=list, description="Names or globs that are left alone.")
    workspaces: Annotated[list[WorkspaceName], Field(max_length=500)] = Field(
        default_factory=list, description="Workspaces. Default: all."
    )
    tags: Annotated[dict[TagKey, TagValue], Field(max_length=64)] = Field(
        default_factory=dict, description="Tags that an experiment must have, with these values."
    )


class KeepBest(Model):
    """The best runs of each experiment by the last value of a metric."""

    metric: TagKey = Field(description="Name of the metric.")
    count: Annotated[int, Field(ge=1, le=100_000)] = Field(description="How many stay.")
    order: Literal["max", "min"] = Field("max", description="Whether high or low values are good.")


class RunRules(Model):
    """When runs go. A run's age is that of its end, or of its start where it has none."""

    olderThan: Duration | None = Field(None, description="Finished runs of this age are quarantined.")
    failedOlderThan: Duration | None = Field(
        None, description="The same for runs that failed or were killed; usually sooner."
    )
    abandonedAfter: Duration | None = Field(
        None,
        description="A run that says RUNNING this long after its start counts as failed. Default: never.",
    )
    keepLast: Annotated[int, Field(ge=1, le=1_000_000)] | None = Field(
        None, description="The newest N active runs of each experiment stay, failed ones too."
    )
    keepBest: KeepBest | None = Field(None, description="The best N active runs of each experiment stay.")
    softDeletedFor: Duration | None = Field(
        None, description="Runs that somebody deleted this long ago are purged."
    )


class TraceRules(Model):
    """When traces go. MLflow has no soft delete for them: they are purged at once."""

    olderThan: Duration = Field(description="Traces that began this long ago.")


class LoggedModelRules(Model):
    """When logged models go that are not deleted along with the run that made them."""

    olderThan: Duration | None = Field(None, description="Logged models of this age are quarantined.")
    softDeletedFor: Duration | None = Field(
        None, description="Logged models that somebody deleted this long ago are purged."
    )


class ModelVersionRules(Model):
    """When versions of registered models go. Never one behind an alias or in a stage, never an object."""

    models: Globs = Field(
        default_factory=list, description="Names or globs of registered models. Default: all; never prompts."
    )
    keepLast: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        description="The newest N versions of each model stay."
    )
    olderThan: Duration | None = Field(None, description="Only versions of this age.")


class ExperimentRules(Model):
    """When whole experiments go."""

    softDeletedFor: Duration = Field(
        description="Experiments that somebody deleted this long ago are purged with all that is in them."
    )


class OrphanRules(Model):
    """When objects go that no row and no journal entry names."""

    olderThan: Duration = Field("7d", description="Grace, by the store's clock. At least a day.")


class Rules(Model):
    """What is chosen. A kind without rules is left alone."""

    runs: RunRules | None = Field(None, description="Runs, with their artifacts and logged models.")
    traces: TraceRules | None = Field(None, description="Traces, with their spans and artifacts.")
    loggedModels: LoggedModelRules | None = Field(None, description="Logged models, with their artifacts.")
    modelVersions: ModelVersionRules | None = Field(None, description="Versions of registered models.")
    experiments: ExperimentRules | None = Field(None, description="Soft-deleted experiments.")
    orphans: OrphanRules | None = Field(None, description="The sweep of the artifact roots for orphans.")


class RetentionBrake(Model):
    """How much of what a policy sees one run may choose before it must be released by its hash."""

    maxPercent: Annotated[int, Field(ge=0, le=100)] = Field(
        30, description="Largest share of each kind that one run newly chooses."
    )
    minimum: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        10, description="The share is not looked at where fewer are chosen."
    )


class Window(Model):
    """When a run may delete, UTC. It may reach over midnight."""

    start: TimeOfDay = Field(description="From, as 22:00.")
    end: TimeOfDay = Field(description="Until, as 05:30.")


class ArchiveDestination(Model):
    """Where a policy archives what it purges. Keys and endpoint: by default those of the artifacts."""

    destination: StoreUri = Field(description="`s3://BUCKET/PREFIX`, or a folder.")
    endpoint: S3Endpoint | None = Field(
        None, description="Address of the S3 API. Default: the TrackingServer's `spec.artifacts.endpoint`."
    )
    region: Region | None = Field(None, description="Region of the bucket.")
    accessKeySecretRef: SecretReference | None = Field(
        None, description="Where the access key is. Default: that of the TrackingServer's artifacts."
    )
    secretKeySecretRef: SecretReference | None = Field(None, description="Where the secret key is.")


class RetentionPolicySpec(Spec):
    """What a policy chooses, and how carefully it goes about it."""

    server: ResourceName = Field("default", description="The TrackingServer that the policy is about.")
    schedule: Annotated[str, StringConstraints(min_length=5, max_length=100, pattern=SCHEDULE)] | None = (
        Field(None, description="When the operator runs it, as in a CronJob (UTC). Default: never by itself.")
    )
    suspend: bool = Field(False, description="Whether the schedule is switched off.")
    dryRun: bool = Field(False, description="Whether runs report only, and delete nothing.")
    selector: Selector = Field(default_factory=Selector, description="Which experiments it is about.")
    rules: Rules = Field(description="What is chosen.")
    quarantine: Duration = Field(
        "24h", description="How long a chosen run, logged model or version can still be brought back."
    )
    pinTag: TagKey = Field(
        "retention.pinned",
        description="A tag of this key with any value but `false` keeps a run, a trace, a logged model, a "
        "version, or an experiment with all that is in it.",
    )
    brake: RetentionBrake = Field(default_factory=RetentionBrake, description="Stops a run that is too much.")
    window: Window | None = Field(None, description="Hours in which it may delete. Default: always.")
    maxP99Factor: Annotated[int, Field(ge=2, le=100)] | None = Field(
        None,
        description="Deletes slower while the server's p99 is above this many times what it was before. "
        "Default: does not look.",
    )
    archive: ArchiveDestination | None = Field(
        None,
        description="Archive runs, logged models, traces and experiments, verified, before they are purged. "
        "Default: what is purged is gone.",
    )
    statementTimeout: Duration = Field(
        "10m", description="Longest statement; a batch that needs more is halved."
    )
    versions: Literal["marker", "purge"] = Field(
        "marker",
        description="In a versioned bucket: leave a delete marker, or delete every version of an object.",
    )

    def mistakes(self, default_name: str) -> Iterator[Mistake]:  # noqa: ARG002 - a policy has no name in MLflow
        if what := cron.mistake(self.schedule or "@daily"):
            yield Mistake(("schedule",), f"this is no schedule: {what}", cron.REMEDY)
        if not self.rules.model_fields_set:
            yield Mistake(
                ("rules",), "the policy has no rule", "write at least one, such as runs.softDeletedFor"
            )
        runs, models, orphans = self.rules.runs, self.rules.loggedModels, self.rules.orphans
        if runs is not None and not runs.model_fields_set - {"abandonedAfter"}:
            what = "these rules choose no run"
            yield Mistake(
                ("rules", "runs"), what, "write olderThan, failedOlderThan, keepLast or softDeletedFor"
            )
        if models is not None and not models.model_fields_set:
            what = "these rules choose no logged model"
            yield Mistake(("rules", "loggedModels"), what, "write olderThan or softDeletedFor")
        if orphans is not None and seconds(orphans.olderThan) < _SECONDS["d"]:
            what = "an upload may take hours, and its run is in no table before MLflow has committed it"
            yield Mistake(("rules", "orphans", "olderThan"), what, "write at least 1d; 7d is the default")
        if self.archive is not None:
            keys = (self.archive.accessKeySecretRef, self.archive.secretKeySecretRef)
            if (keys[0] is None) != (keys[1] is None):
                yield Mistake(("archive",), "only one of the two keys is given", "give both, or neither")
            if self.archive.endpoint is not None and keys[0] is None:
                what = "another endpoint needs keys of its own: the server's are not sent elsewhere"
                yield Mistake(("archive", "endpoint"), what, "give accessKeySecretRef and secretKeySecretRef")
        if self.window is not None and self.window.start == self.window.end:
            yield Mistake(("window", "end"), "the window is empty", "write another end, or leave it out")


class RetentionPolicy(Document):
    """Rules by which old data of a tracking server is deleted."""

    plural: ClassVar[str] = "retentionpolicies"
    short_names: ClassVar[tuple[str, ...]] = ("retention",)
    kind: Literal["RetentionPolicy"] = "RetentionPolicy"
    spec: RetentionPolicySpec
