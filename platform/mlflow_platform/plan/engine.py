"""Desired x observed -> a plan: the one place that decides what happens to an object."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlflow_platform.errors import Problem
from mlflow_platform.model.nearest import nearest
from mlflow_platform.plan.objects import (
    Action,
    Change,
    Desired,
    FieldChange,
    Key,
    Mark,
    ObjectProblem,
    Observed,
    Path,
    Traits,
    fingerprint,
    matches,
    short,
)

#: For so many references of an object that lead nowhere, the nearest name is looked for.
_GUESSES = 3


@dataclass(frozen=True)
class Plan:
    """What would be done, in order, and what cannot be.

    `held` are differences of `ObserveOnly` objects: reported, never corrected. `owned` counts the
    objects on the server that bear this owner's mark, `declared` the desired ones.
    """

    owner: str
    changes: tuple[Change, ...] = ()
    problems: tuple[ObjectProblem, ...] = ()
    held: tuple[Change, ...] = ()
    owned: int = 0
    declared: int = 0
    unchanged: int = 0

    @property
    def empty(self) -> bool:
        return not self.changes

    @property
    def losses(self) -> tuple[Change, ...]:
        return tuple(c for c in self.changes if c.action.loses)

    def counts(self) -> dict[Action, int]:
        """How many changes of each action; actions that do not occur are left out."""
        found = [c.action for c in self.changes]
        return {a: found.count(a) for a in Action if a in found}

    @cached_property
    def hash(self) -> str:
        """Twelve hex digits that name exactly these changes to exactly this state."""
        lines = [
            [c.action, c.key.kind, c.key.workspace, c.key.name, c.base, _changed(c)] for c in self.changes
        ]
        return hashlib.sha256(json.dumps([self.owner, lines], default=str).encode()).hexdigest()[:12]


def _changed(change: Change) -> list[Any]:
    return [[list(f.path), None if f.sensitive else [f.old, f.new]] for f in change.fields]


def make_plan(
    desired: Iterable[Desired],
    observed: Iterable[Observed],
    *,
    owner: str,
    traits: Mapping[str, Traits],
    prune: bool = True,
    adopt_from: frozenset[str] = frozenset(),
    adopt_all: bool = False,
    stalled: Iterable[ObjectProblem] = (),
) -> Plan:
    """The changes that bring `observed` to `desired`, sorted by dependency.

    `prune`: whether owned objects without a document are forgotten or deleted (their mark says which).
    `adopt_from`: owners whose objects may be taken over. `adopt_all`: also mark unowned objects that
    already equal their document; without it those are left untouched, as nothing needs to change.
    `stalled`: problems known already; their objects are neither changed nor given up.
    """
    wanted = {d.key: d for d in desired}
    seen = {o.key: o for o in observed}
    problems = {p.key: p for p in stalled}
    changes: list[Change] = []
    held: list[Change] = []
    unchanged = 0
    for key, want in wanted.items():
        if key in problems:
            continue
        missing = [r for r in sorted(want.requires) if r not in wanted and not _there(seen.get(r))]
        if missing:
            problem = _unknown(want, missing, {*wanted, *(k for k, o in seen.items() if _there(o))})
            names = tuple(r.name for r in missing)
            problems[key] = ObjectProblem(key, want.origin, problem, blocked=True, names=names)
            continue
        found = seen.get(key)
        step = _decide(want, found, owner, traits[key.kind], adopt_from, adopt_all)
        if isinstance(step, ObjectProblem):
            problems[key] = step
        elif step is None:
            unchanged += 1
        elif want.observe_only:
            held.append(step)
        else:
            changes.append(step)
    ready = []
    for change in changes:
        waits = [r for r in sorted(change.requires) if r in problems and not _there(seen.get(r))]
        if waits:
            problem = Problem(f"{change.key} waits for {waits[0]}, which has a problem of its own")
            problems[change.key] = ObjectProblem(change.key, change.origin, problem, blocked=True)
        else:
            ready.append(change)
    owned = [o for o in seen.values() if o.mark and o.mark.owner == owner and not o.soft_deleted]
    if prune:
        ready.extend(_prune(o) for o in owned if o.key not in wanted and o.key not in problems)
    ready.sort(key=lambda c: _order(c, traits))
    return Plan(
        owner, tuple(ready), tuple(problems.values()), tuple(held), len(owned), len(wanted), unchanged
    )


def _unknown(want: Desired, missing: Sequence[Key], known: Collection[Key]) -> Problem:
    """All references of an object to what neither the documents nor the server have."""
    named = ", ".join(str(key) for key in missing)
    what = f"{want.key} refers to {named}, which neither the documents nor the server have"
    like = {  # of a few: a role has up to 500 references, a server thousands of names
        key.name: nearest(
            key.name, [k.name for k in known if (k.kind, k.workspace) == (key.kind, key.workspace)]
        )
        for key in missing[:_GUESSES]
    }
    meant = [f"{name} -> {found}" for name, found in like.items() if found]
    remedy = f"did you mean: {', '.join(meant)}?" if meant else "declare it, or correct the name"
    return Problem(what, remedy, want.where)


def _there(found: Observed | None) -> bool:
    """Whether others may refer to the object: MLflow lets a permission name a soft-deleted experiment."""
    return found is not None and not found.absent


def _order(change: Change, traits: Mapping[str, Traits]) -> tuple[bool, int, Key]:
    """Creates and updates by rank, then forgets and deletes in the opposite order."""
    rank = traits[change.key.kind].rank
    last = change.action in (Action.FORGET, Action.DELETE)
    return (last, -rank if last else rank, change.key)


def _decide(
    want: Desired,
    found: Observed | None,
    owner: str,
    traits: Traits,
    adopt_from: frozenset[str],
    adopt_all: bool,
) -> Change | ObjectProblem | None:
    if found is not None and found.soft_deleted:
        return _converge(want, found, owner, traits, False, adopt_all)
    if found is not None:
        foreign = found.mark is not None and found.mark.owner != owner
        if foreign and not want.observe_only and found.mark and found.mark.owner not in adopt_from:
            return _conflict(want, found.mark, owner)
        if found.active:
            return _converge(want, found, owner, traits, foreign, adopt_all)
    fields = _in_order(
        want,
        [
            FieldChange(p, None, v, matches(p, traits.write_only))
            for p, v in want.fields.items()
            if v is not None
        ],
    )
    return _change(Action.CREATE, want, found, "not on the server", fields, mark_for(want, owner, traits))


def _converge(
    want: Desired, found: Observed, owner: str, traits: Traits, foreign: bool, adopt_all: bool
) -> Change | ObjectProblem | None:
    mark = mark_for(want, owner, traits)
    fields = _differences(want, found, owner, traits)
    fixed = [f for f in fields if f.old is not None and matches(f.path, traits.immutable)]
    if fixed and not (want.allow_replace and traits.replaceable):
        return _immutable(want, fixed[0], traits)
    if fixed:
        every = _in_order(
            want,
            [
                FieldChange(p, found.fields.get(p), v, matches(p, traits.write_only))
                for p, v in want.fields.items()
            ],
        )
        reason = f"{dotted(fixed[0].path)} cannot be changed in place"
        return _change(Action.REPLACE, want, found, reason, every, mark)
    if found.soft_deleted:
        reason = "soft-deleted on the server: it is restored, with all its runs"
        return _change(Action.CREATE, want, found, reason, fields, mark)
    if want.observe_only:
        return _change(Action.UPDATE, want, found, "differs", fields, found.mark) if fields else None
    if foreign and found.mark:
        reason = f"taken over from {found.mark.owner}"
        return _change(Action.ADOPT, want, found, reason, fields, mark)
    if found.mark is None:
        if not fields and not adopt_all and want.deletion == "Retain":
            return None
        return _change(Action.ADOPT, want, found, "exists without an owner", fields, mark)
    if fields:
        reason = "never finished" if found.mark.intent else "differs"
        return _change(Action.UPDATE, want, found, reason, fields, mark)
    if found.mark != mark:
        return _change(Action.UPDATE, want, found, "its mark is out of date", (), mark)
    return None


def _differences(want: Desired, found: Observed, owner: str, traits: Traits) -> tuple[FieldChange, ...]:
    out = []
    for path, value in want.fields.items():
        old = found.fields.get(path)
        if old == value and type(old) is type(value):
            continue
        if old is not None and (path in want.initial or matches(path, traits.initial)):
            continue
        out.append(FieldChange(path, old, value, matches(path, traits.write_only)))
    ours = found.mark.paths if found.mark and found.mark.owner == owner else frozenset()
    if ours or traits.exclusive:
        for path, old in found.fields.items():
            if path in want.fields or old is None:
                continue
            left = matches(path, traits.optional) and short(path) in ours
            if left or matches(path, traits.exclusive):
                out.append(FieldChange(path, old, None, matches(path, traits.write_only)))
    return _in_order(want, out)


def _in_order(want: Desired, changes: Iterable[FieldChange]) -> tuple[FieldChange, ...]:
    """By path, but the members of a nested group (versions) in the order of the document, which is the
    order in which they are made."""
    place: dict[Path, int] = {}
    for path in want.fields:
        place.setdefault(path[:2], len(place))
    last = len(place)

    def order(change: FieldChange) -> tuple[str, int, Path]:
        path = change.path
        return path[0], place.get(path[:2], last) if len(path) > 2 else 0, path

    return tuple(sorted(changes, key=order))


def mark_for(want: Desired, owner: str, traits: Traits) -> Mark:
    """The mark an object bears once it equals its document."""
    paths = frozenset(short(p) for p in want.fields if matches(p, traits.optional))
    return Mark(owner, want.origin, want.deletion, paths)


def _prune(found: Observed) -> Change:
    mark = found.mark
    origin = mark.origin if mark else ""
    base = fingerprint(found, set())
    delete = bool(mark and mark.deletion == "Delete") and not found.absent
    action = Action.DELETE if delete else Action.FORGET
    kept = (
        "only a record of it is left" if found.absent else "its deletionPolicy was Retain: the object stays"
    )
    reason = (
        "its document is gone, and its deletionPolicy was Delete"
        if delete
        else f"its document is gone; {kept}"
    )
    return Change(action, found.key, origin, reason, handle=found.handle, base=base)


def _change(
    action: Action,
    want: Desired,
    found: Observed | None,
    reason: str,
    fields: tuple[FieldChange, ...],
    mark: Mark | None,
) -> Change:
    needed = {f.path for f in fields}
    return Change(
        action,
        want.key,
        want.origin,
        reason,
        fields,
        mark,
        {p: r for p, r in want.secrets.items() if p in needed},
        found.handle if found else {},
        want.requires,
        fingerprint(found, needed),
    )


def _conflict(want: Desired, mark: Mark, owner: str) -> ObjectProblem:
    what = (
        f"{want.key} is owned by {mark.owner} (its {mark.origin}), "
        f"so {owner} ({want.origin}) cannot manage it"
    )
    remedy = f"remove it from one of the two, or take it over with --adopt-from {mark.owner}"
    return ObjectProblem(want.key, want.origin, Problem(what, remedy, want.where))


def _immutable(want: Desired, change: FieldChange, traits: Traits) -> ObjectProblem:
    what = (
        f"{want.key}: {dotted(change.path)} cannot be changed once set "
        f"(server has {change.old!r}, document says {change.new!r})"
    )
    remedy = next(
        (r for p, r in traits.remedy.items() if matches(change.path, (p,))), "restore the old value"
    )
    if traits.replaceable:
        remedy += '; or allow a replacement with the annotation mlplatform.io/allow-replace: "true"'
    return ObjectProblem(want.key, want.origin, Problem(what, remedy, want.where))


def dotted(path: Path) -> str:
    """A path for people: `tags.team`, and `tags["a.b"]` where an element holds a dot."""
    return "".join(f'["{p}"]' if "." in p else (p if i == 0 else f".{p}") for i, p in enumerate(path))
