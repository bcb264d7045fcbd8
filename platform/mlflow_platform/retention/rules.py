"""What becomes of one run, logged model, trace, version or experiment. Pure: rows in, a choice out.

Times are milliseconds since 1970, as MLflow stores them; `now` is the database's clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from mlflow_platform.model.retention_policy import (
    LoggedModelRules,
    ModelVersionRules,
    RunRules,
    Selector,
    Window,
    seconds,
)

#: quarantine: soft-delete it now. purge: its rows and objects may go.
Action = Literal["quarantine", "purge"]
#: MLflow's run states that mean work under way (mlflow/entities/run_status.py).
UNDER_WAY = ("RUNNING", "SCHEDULED")
_FAILED = ("FAILED", "KILLED")


@dataclass(frozen=True, slots=True)
class Experiment:
    """An experiment as a selector sees it."""

    id: int
    name: str
    workspace: str
    tags: dict[str, str]
    deleted_at: int | None
    """When it was soft-deleted; None while it is active."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the journal knows of something that a policy quarantined."""

    chosen_at: int
    stamp: int | None
    """The deletion time that we wrote: another one means that somebody else deleted it since."""
    ripe: bool
    """Whether the quarantine is over."""
    kept: bool = False
    """Whether `undo` has brought it back, for what has no soft delete to tell by."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the rules see it. Ranks count from 1 among the active runs of its experiment."""

    id: str
    active: bool
    status: str
    start: int | None
    end: int | None
    deleted_at: int | None
    recent: int | None = None
    best: int | None = None
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class LoggedModel:
    """A logged model; `changed` is when it was last written, and for a deleted one when it was deleted."""

    id: str
    active: bool
    created: int
    changed: int
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Version:
    """A version of a registered model; `recent` counts from 1 among the versions of its model."""

    model: str
    version: int
    created: int | None
    recent: int
    stage: str | None
    aliased: bool
    held: Held | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be done, and the rule that says so."""

    action: Action
    rule: str
    new: bool = True
    """False for what an earlier run quarantined: it has passed the brake."""


def selects(selector: Selector, experiment: Experiment) -> bool:
    """Whether a policy is about an experiment."""
    return (
        matches(selector.experiments, experiment.name)
        and not (selector.exclude and matches(selector.exclude, experiment.name))
        and (not selector.workspaces or experiment.workspace in selector.workspaces)
        and all(experiment.tags.get(key) == value for key, value in selector.tags.items())
    )


def matches(globs: list[str], name: str) -> bool:
    """Whether a name is one of these, or matches one of these globs; no globs match every name."""
    return not globs or any(name == glob or fnmatchcase(name, glob) for glob in globs)


def pins(value: str | None) -> bool:
    """Whether a pin tag of this value pins."""
    return value is not None and value.lower() != "false"


def choose_run(rules: RunRules, run: Run, now: int) -> Choice | None:
    """What the rules say of one run, protections aside."""
    if run.active:
        if run.held is not None:
            return None  # somebody brought it back
        rule = _run_rule(rules, run, now)
        if rule is None or _kept(rules, run):
            return None
        return Choice("quarantine", rule)
    if run.held is not None and run.held.stamp == run.deleted_at:
        rule = _run_rule(rules, run, now)
        return Choice("purge", rule, new=False) if run.held.ripe and rule is not None else None
    if _older(run.deleted_at, rules.softDeletedFor, now):
        return Choice("purge", "softDeletedFor")
    return None


def _run_rule(rules: RunRules, run: Run, now: int) -> str | None:
    """The rule by which a run is old enough; None while it is under way."""
    failed = run.status in _FAILED
    if run.status in UNDER_WAY:
        if not _older(run.start, rules.abandonedAfter, now):
            return None
        failed = True
    age_of = run.end if run.end is not None else run.start
    if failed and _older(age_of, rules.failedOlderThan, now):
        return "failedOlderThan"
    if _older(age_of, rules.olderThan, now):
        return "olderThan"
    keeps = rules.keepLast or rules.keepBest
    if keeps and rules.olderThan is None and not (failed and rules.failedOlderThan):
        return "keepLast" if rules.keepLast else "keepBest"
    return None


def _kept(rules: RunRules, run: Run) -> bool:
    last, best = rules.keepLast, rules.keepBest
    return (last is not None and run.recent is not None and run.recent <= last) or (
        best is not None and run.best is not None and run.best <= best.count
    )


def choose_logged_model(rules: LoggedModelRules, model: LoggedModel, now: int) -> Choice | None:
    """What the rules say of one logged model, protections aside."""
    old = _older(model.created, rules.olderThan, now)
    if model.active:
        return Choice("quarantine", "olderThan") if old and model.held is None else None
    if model.held is not None and model.held.stamp == model.changed:
        return Choice("purge", "olderThan", new=False) if old and model.held.ripe else None
    if _older(model.changed, rules.softDeletedFor, now):
        return Choice("purge", "softDeletedFor")
    return None


def choose_version(rules: ModelVersionRules, version: Version, now: int) -> Choice | None:
    """What the rules say of one version. MLflow has no soft delete for it: quarantine is a note of ours."""
    if version.aliased or version.stage not in (None, "None") or version.recent <= rules.keepLast:
        return None
    if rules.olderThan is not None and not _older(version.created, rules.olderThan, now):
        return None
    if version.held is None:
        return Choice("quarantine", "keepLast")
    ripe = version.held.ripe and not version.held.kept
    return Choice("purge", "keepLast", new=False) if ripe else None


def _older(moment: int | None, age: str | None, now: int) -> bool:
    return moment is not None and age is not None and now - moment >= seconds(age) * 1000


def open_at(window: Window | None, minute: int) -> bool:
    """Whether a window is open at a minute of the day, counted from midnight UTC."""
    if window is None:
        return True
    start, end = (int(t[:2]) * 60 + int(t[3:]) for t in (window.start, window.end))
    return start <= minute < end if start < end else minute >= start or minute < end
