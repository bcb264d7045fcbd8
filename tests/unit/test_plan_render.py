"""A plan as people and programs see it."""

from __future__ import annotations

import json
from dataclasses import replace

from mlflow_platform.errors import Location
from mlflow_platform.plan import render
from mlflow_platform.plan.engine import Plan, make_plan, mark_for
from mlflow_platform.plan.objects import Desired, Key, Mark, Observed, SecretRef, Traits
from mlflow_platform.plan.saved import SavedPlan, dump
from tests import golden_files

TRAITS = {
    "Experiment": Traits(20, immutable=(("artifactLocation",),), optional=(("tags", "*"),), replaceable=True),
    "MLflowUser": Traits(10, write_only=(("password",),)),
}
OLD_HMAC, NEW_HMAC = "0ld-fingerprint", "n3w-fingerprint"


def _experiment(name: str, **more: object) -> Desired:
    return Desired(
        Key("Experiment", "default", name),
        f"Experiment/default/{name}",
        {("description",): f"About {name}.", ("tags", "team.name"): "search"},
        where=Location("config/experiments.yaml", 12, 1),
        **more,  # type: ignore[arg-type]
    )


def _found(desired: Desired, **more: object) -> Observed:
    mark = mark_for(desired, "project:mine", TRAITS[desired.key.kind])
    return replace(Observed(desired.key, desired.fields, mark), **more)  # type: ignore[arg-type]


def every_kind_of_change() -> Plan:
    """One of each."""
    user = Desired(
        Key("MLflowUser", "", "ann"),
        "MLflowUser/default/ann",
        {("admin",): False, ("password",): NEW_HMAC},
        {("password",): SecretRef("ann", "password")},
    )
    moved = replace(_experiment("moved"), allow_replace=True)
    moved = replace(moved, fields={**moved.fields, ("artifactLocation",): "s3://new"})
    fixed = replace(moved, key=Key("Experiment", "default", "fixed"), allow_replace=False)
    long = _experiment("long")
    wanted = [
        _experiment("new"),
        _experiment("drifted"),
        _experiment("found"),
        replace(_experiment("watched"), observe_only=True),
        replace(_experiment("elsewhere", requires=frozenset({Key("MLflowUser", "", "bob")}))),
        _experiment("same"),
        replace(long, fields={**long.fields, ("description",): "x" * 500}),
        moved,
        fixed,
        user,
    ]
    drifted = _found(_experiment("drifted"), fields={("description",): "edited", ("tags", "hand"): "1"})
    observed = [
        drifted,
        _found(_experiment("found"), mark=None, fields={("description",): "by hand"}),
        _found(_experiment("watched"), fields={("description",): "by hand"}),
        _found(_experiment("same")),
        _found(_experiment("gone")),
        _found(replace(_experiment("deleted"), deletion="Delete")),
        _found(_experiment("theirs"), mark=Mark("project:theirs", "Experiment/default/theirs")),
        _found(moved, fields={("artifactLocation",): "s3://old"}),
        _found(fixed, fields={("artifactLocation",): "s3://old"}),
        _found(user, fields={("admin",): False, ("password",): OLD_HMAC}),
    ]
    return make_plan(wanted, observed, owner="project:mine", traits=TRAITS)


def test_text() -> None:
    golden_files.check("plan/every-kind.txt", "\n".join(render.as_text(every_kind_of_change())) + "\n")


def test_json() -> None:
    text = json.dumps(render.as_json(every_kind_of_change()), indent=2) + "\n"
    golden_files.check("plan/every-kind.json", text)


def test_nothing_to_do() -> None:
    empty = make_plan([], [], owner="project:mine", traits=TRAITS)
    assert next(iter(render.as_text(empty))).endswith(": nothing to change; 0 unchanged.")


def test_fingerprints_of_secrets_appear_nowhere() -> None:
    plan = every_kind_of_change()
    saved = dump(SavedPlan("default", "http://localhost", plan.owner, plan, ()))
    shown = "\n".join([*render.as_text(plan), json.dumps(render.as_json(plan)), json.dumps(saved)])
    assert OLD_HMAC not in shown
    assert NEW_HMAC not in shown
    assert "password: changed (value not shown)" in shown
