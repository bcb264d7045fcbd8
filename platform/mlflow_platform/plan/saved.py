"""A plan in a file: self-contained, without secret values, and checked against the server before use."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_platform.errors import BadInput
from mlflow_platform.plan.engine import Plan
from mlflow_platform.plan.objects import (
    Action,
    Change,
    Desired,
    FieldChange,
    Key,
    Mark,
    Observed,
    SecretRef,
    Value,
    fingerprint,
)

FORMAT = "mlplatform.io/plan.v1"


@dataclass(frozen=True)
class SavedPlan:
    """The part of a saved plan that concerns one server. `desired` tells observers what was wanted.

    `document` is the TrackingServer document where there is one (it names secrets, it holds none).
    """

    server: str
    uri: str
    owner: str
    plan: Plan
    desired: tuple[Desired, ...]
    document: Mapping[str, Any] | None = None
    problems: int = 0
    """How many objects had problems when it was made; they are not part of it."""


def stale(saved: SavedPlan, observed: Mapping[Key, Observed]) -> list[Key]:
    """The objects whose managed fields are no longer what the plan was made from."""
    return [
        c.key
        for c in saved.plan.changes
        if fingerprint(observed.get(c.key), {f.path for f in c.fields}) != c.base
    ]


def dump_file(plans: Sequence[SavedPlan]) -> dict[str, Any]:
    """What a file of saved plans holds, with a digest of it: a plan is carried out as it was seen."""
    servers = [dump(p) for p in plans]
    return {"format": FORMAT, "digest": _digest(servers), "servers": servers}


def is_file(text: str) -> bool:
    """Whether a text is a file of saved plans, damaged or not."""
    return text.startswith("{") and FORMAT in text[:200]


def load_file(text: str) -> list[SavedPlan]:
    """The plans of a file. Raises `BadInput` where it is not as `dump_file` made it."""
    try:
        data = json.loads(text)
        servers, digest = data["servers"], data["digest"]
        if digest != _digest(servers):
            raise ValueError("its content does not match its digest")
        return [load(s) for s in servers]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(
            f"the saved plan is damaged ({error})", remedy="make it again: mlplatform plan --out"
        ) from error


def _digest(servers: Any) -> str:
    return hashlib.sha256(json.dumps(servers, sort_keys=True).encode()).hexdigest()


def dump(saved: SavedPlan) -> dict[str, Any]:
    """JSON values that `load` turns back; sensitive fields lose their values."""
    touched = {c.key for c in saved.plan.changes}
    return {
        "server": saved.server,
        "uri": saved.uri,
        "owner": saved.owner,
        "document": saved.document,
        "problems": saved.problems,
        "owned": saved.plan.owned,
        "declared": saved.plan.declared,
        "unchanged": saved.plan.unchanged,
        "changes": [_dump_change(c) for c in saved.plan.changes],
        "desired": [_dump_desired(d) for d in saved.desired if d.key in touched],
    }


def load(data: Mapping[str, Any]) -> SavedPlan:
    """What `dump` made, back again."""
    plan = Plan(
        data["owner"],
        tuple(_load_change(c) for c in data["changes"]),
        owned=data["owned"],
        declared=data["declared"],
        unchanged=data["unchanged"],
    )
    desired = tuple(_load_desired(d) for d in data["desired"])
    return SavedPlan(
        data["server"], data["uri"], data["owner"], plan, desired, data["document"], data["problems"]
    )


def _dump_change(change: Change) -> dict[str, Any]:
    return {
        "action": str(change.action),
        "key": _key(change.key),
        "origin": change.origin,
        "reason": change.reason,
        "fields": [[list(f.path), _shown(f, f.old), _shown(f, f.new), f.sensitive] for f in change.fields],
        "mark": change.mark.to_text() if change.mark else None,
        "secrets": [[list(p), r.name, r.key, r.namespace] for p, r in change.secrets.items()],
        "handle": dict(change.handle),
        "requires": [_key(r) for r in sorted(change.requires)],
        "base": change.base,
    }


def _shown(field: FieldChange, value: Value) -> Value:
    return "(sensitive)" if field.sensitive and value is not None else value


def _load_change(data: Mapping[str, Any]) -> Change:
    return Change(
        Action(data["action"]),
        Key(*data["key"]),
        data["origin"],
        data["reason"],
        tuple(FieldChange(tuple(p), old, new, hidden) for p, old, new, hidden in data["fields"]),
        Mark.from_text(data["mark"]),
        {tuple(p): SecretRef(name, key, namespace) for p, name, key, namespace in data["secrets"]},
        data["handle"],
        frozenset(Key(*r) for r in data["requires"]),
        data["base"],
    )


def _dump_desired(desired: Desired) -> dict[str, Any]:
    hidden = set(desired.secrets)
    return {
        "key": _key(desired.key),
        "origin": desired.origin,
        "fields": [[list(p), v] for p, v in desired.fields.items() if p not in hidden],
        "requires": [_key(r) for r in sorted(desired.requires)],
        "deletion": desired.deletion,
    }


def _load_desired(data: Mapping[str, Any]) -> Desired:
    return Desired(
        Key(*data["key"]),
        data["origin"],
        {tuple(p): v for p, v in data["fields"]},
        requires=frozenset(Key(*r) for r in data["requires"]),
        deletion=data["deletion"],
    )


def _key(key: Key) -> list[str]:
    return [key.kind, key.workspace, key.name]
