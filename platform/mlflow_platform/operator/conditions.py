"""What a document's status says: three conditions, from one outcome. Pure.

`Ready` is true where the server has what the document declares. `Reconciling` is true while that is still
being worked on, `Stalled` where it cannot be reached without somebody doing something. kubectl wait, GitOps
tools (kstatus) and people read the same three.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from mlflow_platform.model.crd import MAX_FAILURE, MAX_FAILURES, MAX_MESSAGE

Json = dict[str, Any]


class Reason(StrEnum):
    """Every reason that a condition can have; docs/operator.md explains each."""

    SYNCED = "Synced"
    """The server has what the document declares."""
    DIFFERS = "Differs"
    """It has not, and the document says ObserveOnly."""
    INVALID = "Invalid"
    """The document passed the API server and is still mistaken."""
    NOT_ALLOWED = "NotAllowed"
    """The TrackingServer's `allowed` does not let this namespace declare it."""
    CONFLICT = "Conflict"
    """Another document, or another owner, has this object."""
    REJECTED = "Rejected"
    """MLflow refused it, or Kubernetes its CronJob."""
    BRAKE_STOPPED = "BrakeStopped"
    """The plan gives up too much; the TrackingServer's condition has its hash."""
    WAITING = "Waiting"
    """Something that it refers to is not there yet: an object, a Secret."""
    RETRYING = "Retrying"
    """A passing fault; it is tried again."""
    SERVER_NOT_FOUND = "ServerNotFound"
    """No TrackingServer has the name of `spec.server`."""
    SERVER_UNAVAILABLE = "ServerUnavailable"
    """The tracking server cannot be reached."""
    LOGIN_REFUSED = "LoginRefused"
    """The tracking server does not accept the login, or it is no administrator's, or it is no MLflow."""
    CONNECTED = "Connected"
    """Of a TrackingServer: the last round saw it whole."""
    SCHEDULED = "Scheduled"
    """Of what jobs carry out: its CronJob is there, and the last job, if any, ended well."""
    SUSPENDED = "Suspended"
    """The same, and the document says suspend."""
    NOT_SCHEDULED = "NotScheduled"
    """It has no schedule: nothing runs by itself."""
    NO_JOBS = "NoJobs"
    """This operator was started without a template of jobs."""
    JOB_FAILED = "JobFailed"
    """Its last job failed; the next one runs at its time."""


#: The reason of Reconciling and Stalled where they are false.
IDLE = "Idle"
#: Nothing changes without somebody doing something.
STALLED = frozenset(
    {
        Reason.DIFFERS,
        Reason.INVALID,
        Reason.NOT_ALLOWED,
        Reason.CONFLICT,
        Reason.REJECTED,
        Reason.BRAKE_STOPPED,
        Reason.LOGIN_REFUSED,
        Reason.NO_JOBS,
    }
)
READY = frozenset({Reason.SYNCED, Reason.CONNECTED, Reason.SCHEDULED, Reason.SUSPENDED, Reason.NOT_SCHEDULED})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a document."""

    reason: Reason
    message: str = ""

    @property
    def ready(self) -> bool:
        return self.reason in READY

    @property
    def stalled(self) -> bool:
        return self.reason in STALLED


@dataclass(frozen=True, slots=True)
class Members:
    """How the members of a set fare; `failures` are (name, message)."""

    declared: int
    ready: int
    failures: Sequence[tuple[str, str]] = ()


def status(
    before: Mapping[str, Any],
    generation: int,
    outcome: Outcome,
    now: str,
    extra: Mapping[str, Any] | None = None,
) -> Json | None:
    """The status after `outcome`; None where it says the same as the one before. `now` is RFC 3339."""
    old = {c.get("type"): c for c in before.get("conditions", ())}
    message = outcome.message[:MAX_MESSAGE]
    working = not outcome.ready and not outcome.stalled
    conditions = []
    for type_, true in (("Ready", outcome.ready), ("Reconciling", working), ("Stalled", outcome.stalled)):
        previous, value = old.get(type_, {}), str(true)
        since = previous.get("lastTransitionTime", now) if previous.get("status") == value else now
        about = true or type_ == "Ready"
        conditions.append(
            {
                "type": type_,
                "status": value,
                "reason": str(outcome.reason) if about else IDLE,
                "message": message if about else "",
                "observedGeneration": generation,
                "lastTransitionTime": since,
            }
        )
    found = {**before, "observedGeneration": generation, "conditions": conditions, **(extra or {})}
    found = {k: v for k, v in found.items() if v is not None}
    return None if found == before else found


def members_status(members: Members) -> Json:
    """The part of the status that only an ExperimentSet has."""
    failures = [
        {"name": name, "message": text[:MAX_FAILURE]} for name, text in members.failures[:MAX_FAILURES]
    ]
    return {"members": members.declared, "ready": members.ready, "failures": failures}


def seen(before: Mapping[str, Any], generation: int) -> bool:
    """Whether a status is about this generation of the document."""
    return before.get("observedGeneration") == generation


def was_ready(before: Mapping[str, Any]) -> bool:
    """Whether a status says that its document was as declared."""
    return any(c.get("type") == "Ready" and c.get("status") == "True" for c in before.get("conditions", ()))
