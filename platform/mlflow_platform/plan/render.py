"""A plan as text for people and as JSON for programs. Values of write-only fields never appear."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from mlflow_platform.plan.engine import Plan, dotted
from mlflow_platform.plan.objects import Action, Change, FieldChange, Value

Style = Callable[[str, str], str]
"""(text, colour name) -> text: colours are the terminal's business."""

_SIGNS = {
    Action.CREATE: ("+", "green"),
    Action.ADOPT: ("@", "cyan"),
    Action.UPDATE: ("~", "yellow"),
    Action.REPLACE: ("!", "red"),
    Action.FORGET: ("o", "magenta"),
    Action.DELETE: ("-", "red"),
}
_WIDTH = 100


def plain(text: str, _colour: str) -> str:
    """The style of files and pipes: no colours."""
    return text


def as_text(plan: Plan, style: Style = plain) -> Iterator[str]:
    """The lines of a plan: changes with their fields, held differences, problems, a summary."""
    for change in plan.changes:
        yield from _change(change, style)
    if plan.held:
        yield style("Differs, left alone (managementPolicy: ObserveOnly):", "blue")
        for change in plan.held:
            yield from _change(change, style)
    for item in plan.problems:
        word = "blocked" if item.blocked else "error"
        yield f"{style(word + ':', 'red')} {item.problem}"
    yield summary(plan)


def summary(plan: Plan) -> str:
    """One line of counts."""
    counts = plan.counts()
    parts = [f"{n} to {action}" for action, n in counts.items()] or ["nothing to change"]
    if plan.problems:
        parts.append(f"{len(plan.problems)} with problems")
    return f"Plan {plan.hash}: {', '.join(parts)}; {plan.unchanged} unchanged."


def _change(change: Change, style: Style) -> Iterator[str]:
    sign, colour = _SIGNS[change.action]
    yield f"{style(sign, colour)} {change.action} {change.key} ({change.reason})"
    for field in change.fields:
        yield f"    {field_text(field)}"


def field_text(field: FieldChange) -> str:
    """One field before and after: `tags.team: "mine" -> "search"`."""
    name = dotted(field.path)
    if field.sensitive:
        return f"{name}: {'set' if field.old is None else 'changed'} (value not shown)"
    if field.old is None:
        return f"{name}: {_short(field.new)}"
    if field.new is None:
        return f"{name}: {_short(field.old)} -> (removed)"
    return f"{name}: {_short(field.old)} -> {_short(field.new)}"


def _short(value: Value) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}… ({len(text)} characters)"


def as_json(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values: owner, hash, counts, changes, held, problems."""
    return {
        "owner": plan.owner,
        "hash": plan.hash,
        "counts": {str(a): n for a, n in plan.counts().items()},
        "unchanged": plan.unchanged,
        "owned": plan.owned,
        "changes": [change_as_json(c) for c in plan.changes],
        "held": [change_as_json(c) for c in plan.held],
        "problems": [
            {
                "kind": p.key.kind,
                "workspace": p.key.workspace,
                "name": p.key.name,
                "what": p.problem.what,
                "remedy": p.problem.remedy,
                "where": str(p.problem.where) if p.problem.where else None,
                "blocked": p.blocked,
            }
            for p in plan.problems
        ],
    }


def change_as_json(change: Change) -> dict[str, Any]:
    """One change as JSON values, without its secrets."""
    return {
        "action": str(change.action),
        "kind": change.key.kind,
        "workspace": change.key.workspace,
        "name": change.key.name,
        "document": change.origin,
        "reason": change.reason,
        "fields": [
            {"path": list(f.path), "sensitive": True}
            if f.sensitive
            else {"path": list(f.path), "old": f.old, "new": f.new}
            for f in change.fields
        ],
    }
