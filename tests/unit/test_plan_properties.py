"""Invariants of the plan, for any documents and any server."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.plan.engine import make_plan, mark_for
from mlflow_platform.plan.objects import (
    Action,
    Change,
    Desired,
    Key,
    Mark,
    Observed,
    Path,
    Traits,
    Value,
    short,
)
from mlflow_platform.plan.saved import SavedPlan, dump, load, stale

TRAITS = {
    "Experiment": Traits(rank=20, optional=(("description",), ("tags", "*"))),
    "MLflowRole": Traits(rank=40, exclusive=(("members", "*"),)),
}
OWNERS = ("project:a", "project:b")

values: st.SearchStrategy[Value] = st.sampled_from(["", "a", "b", 0, 1, True, False])
fields = st.dictionaries(
    st.sampled_from([("description",), ("tags", "x"), ("tags", "y"), ("members", "u"), ("members", "v")]),
    values,
    max_size=4,
)
keys = st.builds(
    Key, st.sampled_from(sorted(TRAITS)), st.just("default"), st.sampled_from(["n1", "n2", "n3", "n4"])
)


@st.composite
def desired(draw: st.DrawFn) -> list[Desired]:
    chosen = draw(st.lists(keys, unique=True, max_size=6))
    return [
        Desired(
            k,
            f"{k.kind}/default/{k.name}",
            draw(fields),
            deletion=draw(st.sampled_from(["Retain", "Delete"])),
            observe_only=draw(st.booleans()) and draw(st.booleans()),
        )
        for k in chosen
    ]


@st.composite
def observed(draw: st.DrawFn) -> list[Observed]:
    out = []
    for k in draw(st.lists(keys, unique=True, max_size=8)):
        state = draw(fields)
        mark = None
        if draw(st.booleans()):
            ours = frozenset(short(p) for p in state if draw(st.booleans()))
            mark = Mark(draw(st.sampled_from(OWNERS)), f"{k.kind}/default/{k.name}", "Delete", ours)
        life = draw(st.sampled_from(["active", "active", "active", "soft_deleted", "absent"]))
        if life == "absent" and mark is None:
            life = "active"
        out.append(
            Observed(
                k,
                {} if life == "absent" else state,
                mark,
                soft_deleted=life == "soft_deleted",
                absent=life == "absent",
            )
        )
    return out


def carried_out(state: dict[Key, Observed], change: Change) -> None:
    """What a faultless server would hold after the change."""
    if change.action is Action.DELETE or (change.action is Action.FORGET and state[change.key].absent):
        del state[change.key]
        return
    now = state.get(change.key, Observed(change.key, {}))
    merged: dict[Path, Value] = dict(now.fields)
    for f in change.fields:
        merged[f.path] = f.new
    state[change.key] = Observed(change.key, {p: v for p, v in merged.items() if v is not None}, change.mark)


def plan_for(want: list[Desired], state: list[Observed]):  # type: ignore[no-untyped-def]
    return make_plan(want, state, owner=OWNERS[0], traits=TRAITS)


@given(desired(), observed())
def test_the_second_plan_is_empty(want: list[Desired], have: list[Observed]) -> None:
    state = {o.key: o for o in have}
    for change in plan_for(want, have).changes:
        carried_out(state, change)
    assert plan_for(want, list(state.values())).changes == ()


@given(desired(), observed(), st.integers(0, 10))
def test_stopped_anywhere_the_next_plan_reaches_the_same_end(
    want: list[Desired], have: list[Observed], steps: int
) -> None:
    clean, broken = {o.key: o for o in have}, {o.key: o for o in have}
    for change in plan_for(want, have).changes:
        carried_out(clean, change)
    for change in plan_for(want, have).changes[:steps]:
        carried_out(broken, change)
    for change in plan_for(want, list(broken.values())).changes:
        carried_out(broken, change)
    assert broken == clean


@given(desired(), observed())
def test_objects_of_others_are_never_touched(want: list[Desired], have: list[Observed]) -> None:
    theirs = {o.key for o in have if o.mark and o.mark.owner == OWNERS[1] and not o.soft_deleted}
    assert not theirs & {c.key for c in plan_for(want, have).changes}


@given(desired())
def test_what_was_applied_plans_empty(want: list[Desired]) -> None:
    state = [Observed(d.key, d.fields, mark_for(d, OWNERS[0], TRAITS[d.key.kind])) for d in want]
    assert plan_for(want, state).empty


@given(desired(), observed())
def test_changes_are_ordered_and_each_object_changes_once(want: list[Desired], have: list[Observed]) -> None:
    changes = plan_for(want, have).changes
    assert len({c.key for c in changes}) == len(changes)
    last = [c.action in (Action.FORGET, Action.DELETE) for c in changes]
    assert last == sorted(last)
    ranks = [TRAITS[c.key.kind].rank for c in changes if c.action not in (Action.FORGET, Action.DELETE)]
    assert ranks == sorted(ranks)


@given(desired(), observed())
def test_a_plan_survives_its_file(want: list[Desired], have: list[Observed]) -> None:
    made = plan_for(want, have)
    saved = load(dump(SavedPlan("default", "http://x", OWNERS[0], made, tuple(want))))
    assert saved.plan.changes == made.changes
    assert saved.plan.hash == made.hash
    assert stale(saved, {o.key: o for o in have}) == []


@given(desired(), observed(), values)
def test_a_saved_plan_notices_what_changed_since(
    want: list[Desired], have: list[Observed], other: Value
) -> None:
    saved = SavedPlan("default", "http://x", OWNERS[0], plan_for(want, have), tuple(want))
    for change in saved.plan.changes:
        found = next((o for o in have if o.key == change.key and not o.absent), None)
        if found is None or not change.fields:
            continue
        path = change.fields[0].path
        now = found.fields.get(path)
        if (other, type(other)) == (now, type(now)):
            continue
        moved = replace(found, fields={**found.fields, path: other})
        assert change.key in stale(saved, {**{o.key: o for o in have}, change.key: moved})
