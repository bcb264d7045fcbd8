"""MLflowUser: what is decided without a server."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.kinds.names import resource_name
from mlflow_platform.kinds.user import ADMIN, PASSWORD, MLflowUser
from mlflow_platform.model import MLflowUser as Document
from mlflow_platform.plan.engine import make_plan
from mlflow_platform.plan.objects import Action, Change, Desired, FieldChange, Key, Mark, Observed, SecretRef

KIND = MLflowUser()
REF = SecretRef("pw", "value")


def parse(**spec: object) -> Desired:
    document = {"kind": "MLflowUser", "metadata": {"name": "ann", "namespace": "team"}, "spec": spec}
    [desired] = KIND.desired(Document.model_validate({"apiVersion": "mlplatform.io/v1alpha1", **document}))
    return desired


def change(action: Action, *fields: FieldChange, login: bool = False) -> Change:
    return Change(
        action,
        Key("MLflowUser", "", "ann"),
        "MLflowUser/default/ann",
        "why",
        fields,
        Mark("me", "MLflowUser/default/ann"),
        {PASSWORD: REF} if any(f.path == PASSWORD for f in fields) else {},
        {"login": True} if login else {},
    )


SET_PASSWORD = FieldChange(PASSWORD, None, "hmac", sensitive=True)


def test_a_document_becomes_one_user_outside_workspaces() -> None:
    desired = parse(name="Ann", passwordSecretRef={"name": "pw", "key": "value"}, deletionPolicy="Delete")
    assert desired.key == Key("MLflowUser", "", "Ann")
    assert desired.fields == {ADMIN: False}
    assert desired.secrets == {PASSWORD: SecretRef("pw", "value", "team")}
    assert desired.deletion == "Delete"
    assert desired.requires == frozenset()


@pytest.mark.parametrize("password", ["", "hunter2", "eleven char"])
def test_a_short_password_is_a_problem_and_is_not_shown(password: str) -> None:
    for action in (Action.CREATE, Action.UPDATE, Action.ADOPT):
        problem = KIND.review(change(action, SET_PASSWORD), {PASSWORD: password})
        assert problem is not None
        assert "default/pw/value is shorter than MLflow's minimum of 12 characters" in problem.what
        assert not password or password not in str(problem)
    assert KIND.review(change(Action.CREATE, SET_PASSWORD), {PASSWORD: "twelve chars"}) is None


def test_a_new_user_needs_a_password_and_an_old_one_does_not() -> None:
    admin = FieldChange(ADMIN, None, True)
    problem = KIND.review(change(Action.CREATE, admin), {})
    assert problem is not None
    assert problem.remedy == "add spec.passwordSecretRef"
    assert KIND.review(change(Action.ADOPT, admin), {}) is None


@pytest.mark.parametrize(
    ("action", "old", "new", "words"),
    [
        (Action.UPDATE, True, False, "cannot take admin from itself"),
        (Action.ADOPT, True, False, "cannot take admin from itself"),
        (Action.UPDATE, False, True, "cannot make itself admin"),
        (Action.DELETE, None, None, "cannot remove itself"),
    ],
)
def test_the_login_in_use_does_nothing_to_itself(
    action: Action, old: bool | None, new: bool | None, words: str
) -> None:
    fields = () if new is None else (FieldChange(ADMIN, old, new),)
    problem = KIND.review(change(action, *fields, login=True), {})
    assert problem is not None
    assert words in problem.what
    assert "another administrator's login" in problem.remedy
    assert KIND.review(change(action, *fields), {}) is None, "to others it may"


def test_a_password_is_never_part_of_a_plan() -> None:
    desired = parse(passwordSecretRef={"name": "pw", "key": "value"})
    desired = replace(desired, fields={**desired.fields, PASSWORD: "new hmac"})
    mark = Mark("me", desired.origin)
    observed = Observed(desired.key, {ADMIN: False, PASSWORD: "old hmac"}, mark)
    plan = make_plan([desired], [observed], owner="me", traits={KIND.name: KIND.traits})
    [field] = plan.changes[0].fields
    assert field.sensitive


def test_the_login_in_use_is_not_exported() -> None:
    key = Key("MLflowUser", "", "ann")
    assert KIND.document(Observed(key, {ADMIN: True}, handle={"login": True})) is None


@given(st.text(min_size=1, max_size=255).filter(lambda n: ":" not in n), st.booleans())
def test_a_document_of_an_observed_user_wants_what_was_observed(name: str, admin: bool) -> None:
    observed = Observed(Key("MLflowUser", "", name), {ADMIN: admin})
    document = KIND.document(observed)
    assert document is not None
    [desired] = KIND.desired(Document.model_validate(document))
    assert (desired.key, desired.fields) == (observed.key, observed.fields)


@given(st.lists(st.lists(st.text(min_size=1), min_size=1, max_size=2), max_size=20))
def test_names_of_documents_are_valid_and_differ(names: list[list[str]]) -> None:
    made = {tuple(n): resource_name(*n) for n in names}
    assert len(set(made.values())) == len(made)
    for name in made.values():
        Document.model_validate({"apiVersion": "mlplatform.io/v1alpha1", "kind": "MLflowUser",
                                 "metadata": {"name": name}})  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("team-a",), "team-a"),
        (("a.b",), "a.b"),
        (("Team A",), "team-a-e18d322f"),
        (("team", "admin"), "team.admin-a0836104"),
        (("日本",), "cf2abf0c"),
    ],
)
def test_a_name_stays_readable(parts: tuple[str, ...], name: str) -> None:
    assert resource_name(*parts) == name
