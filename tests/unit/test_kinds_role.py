"""MLflowRole: what is decided without a server."""

from __future__ import annotations

import importlib.util
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mlflow_platform.kinds.role import MLflowRole
from mlflow_platform.model import MLflowRole as Document
from mlflow_platform.model.role import WILDCARD_ONLY, RolePermission
from mlflow_platform.plan.engine import make_plan
from mlflow_platform.plan.objects import Desired, Key, Mark, Observed, Path, Value

KIND = MLflowRole()


def parse(**spec: object) -> Desired:
    document = {"kind": "MLflowRole", "metadata": {"name": "readers"}, "spec": spec}
    [desired] = KIND.desired(Document.model_validate({"apiVersion": "mlplatform.io/v1alpha1", **document}))
    return desired


def allow(kind: str, resource: str = "*", permission: str = "READ") -> dict[str, str]:
    return {"resourceType": kind, "resource": resource, "permission": permission}


def test_a_role_waits_for_what_it_names() -> None:
    desired = parse(
        workspace="team",
        permissions=[
            allow("experiment", "search/fast"),
            allow("experiment", "*"),
            allow("experiment", "#17"),
            allow("registered_model", "ranker"),
            allow("prompt", "greeting"),
            allow("prompt", "#gone"),
            allow("registered_model", "##gone"),
            allow("scorer", "search/slow/is it good?"),
            allow("gateway_endpoint", "e-1"),
            allow("run"),
        ],
        members=["ann"],
    )
    assert desired.key == Key("MLflowRole", "team", "readers")
    assert desired.requires == {
        Key("Workspace", "", "team"),
        Key("Experiment", "team", "search/fast"),
        Key("Experiment", "team", "search/slow"),
        Key("RegisteredModel", "team", "ranker"),
        Key("Prompt", "team", "greeting"),
        Key("MLflowUser", "", "ann"),
    }
    assert desired.fields[("permissions", "scorer", "search/slow/is%20it%20good%3F")] == "READ"
    assert parse().requires == frozenset(), "the default workspace is always there"


def test_what_the_document_does_not_name_is_removed() -> None:
    desired = parse(permissions=[allow("run")], members=["ann"])
    observed = Observed(
        desired.key,
        {
            ("description",): "by hand",
            ("permissions", "run", "*"): "READ",
            ("permissions", "experiment", "#9"): "EDIT",
            ("members", "ann"): True,
            ("members", "eve"): True,
        },
        Mark("me", desired.origin),
    )
    people = [Observed(Key("MLflowUser", "", "ann"), {})]
    plan = make_plan([desired], [observed, *people], owner="me", traits={KIND.name: KIND.traits}, prune=False)
    assert [(f.path, f.new) for f in plan.changes[0].fields] == [
        (("members", "eve"), None),
        (("permissions", "experiment", "#9"), None),
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"permissions": [allow("run", "abc")]}, "on run for all of them only"),
        ({"permissions": [allow("workspace")]}, "READ cannot be given on a workspace"),
        ({"permissions": [allow("scorer", "good")]}, "does not say of which experiment"),
        ({"permissions": [allow("run"), allow("run", "*", "EDIT")]}, "a second permission on run"),
        ({"name": "__user_1__"}, "reserves role names that begin with '__user_'"),
        ({"description": "x" * 1025}, "1024"),
    ],
)
def test_what_mlflow_would_refuse_is_a_mistake(spec: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parse(**spec)


def test_the_grain_of_types_is_mlflows() -> None:
    # The module alone: its package is the whole server, which warns while it is imported.
    path = pathlib.Path(importlib.util.find_spec("mlflow").origin or "").parent / "server/auth/permissions.py"  # type: ignore[union-attr]
    spec = importlib.util.spec_from_file_location("permissions", path)
    assert spec is not None
    assert spec.loader is not None
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)

    known = set(RolePermission.model_fields["resourceType"].annotation.__args__)  # type: ignore[union-attr]
    assert known == set(theirs.TYPE)
    assert {t for t, grain in theirs.TYPE.items() if theirs.PatternKind.ID not in grain} == WILDCARD_ONLY


def test_seeded_roles_are_mlflows_own_until_somebody_changes_them() -> None:
    key = Key("MLflowRole", "team", "admin")
    fields: dict[Path, Value] = {("description",): "Full", ("permissions", "workspace", "*"): "MANAGE"}
    assert KIND.document(Observed(key, fields)) is None
    assert KIND.document(Observed(key, {**fields, ("members", "ann"): True})) is not None
    assert KIND.document(Observed(Key("MLflowRole", "default", "admin"), fields)) is not None


def test_a_role_of_a_workspace_that_is_gone_has_no_document_and_that_is_said() -> None:
    gone = Observed(Key("MLflowRole", "team", "readers"), {}, handle={"role_id": 1, "no workspace": True})
    assert KIND.document(gone) is None
    said = "MLflowRole 'readers' in workspace team has no document: its workspace is not on the server"
    assert KIND.left_out(gone) == said
    assert KIND.left_out(Observed(gone.key, {}, handle={"role_id": 1})) is None


ids = st.integers(0, 99).map(lambda n: f"#{n}")
words = st.text("abcXYZ /%é", min_size=1, max_size=9).filter(lambda t: t != "*")
permissions = st.one_of(
    st.tuples(st.sampled_from(["experiment"]), st.one_of(ids, words)),
    st.tuples(st.sampled_from(["registered_model", "prompt", "gateway_secret", "mcp_server"]), words),
    st.tuples(st.just("scorer"), st.tuples(words, st.just("is%20good%2Ffast")).map("/".join)),
    st.tuples(st.sampled_from(sorted(WILDCARD_ONLY - {"workspace"})), st.just("*")),
)


@given(
    st.text(min_size=1, max_size=255).filter(lambda n: not n.startswith("__user_")),
    st.sampled_from(["default", "team"]),
    st.dictionaries(permissions, st.sampled_from(["READ", "USE", "EDIT", "MANAGE", "DENY"]), max_size=8),
    st.sets(st.text(min_size=1, max_size=20).filter(lambda n: ":" not in n), max_size=5),
)
def test_a_document_of_an_observed_role_wants_what_was_observed(
    name: str, workspace: str, given_: dict[tuple[str, str], str], members: set[str]
) -> None:
    fields: dict[Path, Value] = {("permissions", *place): p for place, p in given_.items()}
    fields |= {("members", m): True for m in members}
    observed = Observed(Key("MLflowRole", workspace, name), fields)
    document = KIND.document(observed)
    assert document is not None
    [desired] = KIND.desired(Document.model_validate(document))
    assert (desired.key, desired.fields) == (observed.key, observed.fields)
