"""MLflowUser on a real server with auth."""

from __future__ import annotations

import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import Fatal
from mlflow_platform.kinds.user import MLflowUser
from mlflow_platform.plan.objects import Action, Key
from tests.contract.access_loop import Folder, document, secret, unique

pytest_plugins = ("tests.contract.access_fixtures",)

READS = ["POST api/2.0/mlflow/experiments/search", "GET api/2.0/mlflow/users/list"]


def logs_in(folder: Folder, username: str, password: str) -> bool:
    with MlflowApi(folder.api.address, username, password) as api:
        try:
            return bool(api.call("GET", "api/2.0/mlflow/users/current")["user"]["username"] == username)
        except Fatal:
            return False


def test_a_user_through_its_whole_life(folder: Folder) -> None:
    name = unique("ann")
    folder.secrets["first"] = "the first long password"
    ann = document("MLflowUser", name, passwordSecretRef=secret("first"), deletionPolicy="Delete")

    assert folder.succeed(ann) == [f"create {name}"]
    assert folder.api.take() == ["POST api/2.0/mlflow/users/create"]
    assert logs_in(folder, name, "the first long password")

    assert folder.unchanged(ann) == READS
    assert folder.succeed(ann) == []
    assert folder.api.take() == []

    folder.secrets["first"] = "the second long password"
    changes = folder.plan(ann).changes
    assert [[(f.path, f.sensitive) for f in c.fields] for c in changes] == [[(("password",), True)]]
    folder.api.take()
    assert folder.succeed(ann) == [f"update {name}"]
    assert folder.api.take() == ["PATCH api/2.0/mlflow/users/update-password"]
    assert logs_in(folder, name, "the second long password")
    assert not logs_in(folder, name, "the first long password")
    assert folder.plan(ann).empty

    ann["spec"]["admin"] = True
    assert folder.succeed(ann) == [f"update {name}"]
    assert folder.api.take() == ["PATCH api/2.0/mlflow/users/update-admin"]
    assert folder.plan(ann).empty

    by_hand = {"username": name, "is_admin": False}
    folder.api.call("PATCH", "api/2.0/mlflow/users/update-admin", json=by_hand)
    assert [c.reason for c in folder.plan(ann).changes] == ["differs"]
    folder.succeed(ann)
    assert folder.observed(Key("MLflowUser", "", name)).fields[("admin",)] is True

    ann["spec"]["admin"] = False
    assert folder.succeed(ann) == [f"update {name}"]
    assert folder.api.take() == ["GET api/2.0/mlflow/users/list", "PATCH api/2.0/mlflow/users/update-admin"]

    assert folder.succeed() == [f"delete {name}"]
    assert not logs_in(folder, name, "the second long password")
    assert folder.succeed(ann) == [f"create {name}"]
    assert logs_in(folder, name, "the second long password")
    folder.succeed()


def test_an_admin_is_created_as_one(folder: Folder) -> None:
    name = unique("chief")
    folder.secrets["pw"] = "a long enough password"
    chief = document("MLflowUser", name, admin=True, passwordSecretRef=secret("pw"), deletionPolicy="Delete")
    folder.succeed(chief)
    assert folder.api.take() == [
        "POST api/2.0/mlflow/users/create",
        "PATCH api/2.0/mlflow/users/update-admin",
    ]
    assert folder.plan(chief).empty
    folder.succeed()


def test_a_user_that_exists_is_adopted_without_a_password(folder: Folder) -> None:
    name = unique("bob")
    body = {"username": name, "password": "set by hand before"}
    folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
    bob = document("MLflowUser", name)
    assert folder.plan(bob).empty, "what equals its document is left alone"
    assert folder.succeed(bob, adopt_all=True) == [f"adopt {name}"]
    assert folder.api.take() == []
    assert folder.plan(bob, adopt_all=True).empty
    assert logs_in(folder, name, "set by hand before")

    folder.secrets["pw"] = "declared from now on"
    bob["spec"]["passwordSecretRef"] = secret("pw")
    assert folder.succeed(bob) == [f"update {name}"]
    assert logs_in(folder, name, "declared from now on")
    assert folder.succeed() == [f"forget {name}"]
    assert logs_in(folder, name, "declared from now on"), "deletionPolicy Retain keeps the user"


def test_a_kill_between_create_and_admin_is_finished(folder: Folder) -> None:
    name = unique("late")
    folder.secrets["pw"] = "a long enough password"
    late = document("MLflowUser", name, admin=True, passwordSecretRef=secret("pw"))

    class Killed(BaseException):
        pass

    real = folder.api.call

    def killed(method: str, path: str, **options: object) -> dict[str, object]:
        if path.endswith("update-admin"):
            raise Killed
        return real(method, path, **options)

    folder.api.call = killed  # type: ignore[method-assign]
    with pytest.raises(Killed):
        folder.apply(late)
    folder.api.call = real  # type: ignore[method-assign]
    assert [(c.action, c.reason) for c in folder.plan(late).changes] == [(Action.UPDATE, "never finished")]
    assert folder.succeed(late) == [f"update {name}"]
    assert folder.plan(late).empty
    assert logs_in(folder, name, "a long enough password")


def test_import_gives_a_document_whose_plan_is_empty(folder: Folder) -> None:
    name = unique("Zoë (Team A)")
    folder.secrets["pw"] = "a long enough password"
    folder.succeed(document("MLflowUser", "zoe", name=name, admin=True, passwordSecretRef=secret("pw")))
    found = folder.imported(Key("MLflowUser", "", name))
    assert found is not None
    assert found["spec"] == {"name": name, "admin": True}
    assert found["metadata"] == {"name": "zoe"}, "as its owner's document"
    said = MLflowUser().left_out(folder.observed(Key("MLflowUser", "", name)))
    assert said == f"MLflowUser {name!r}: spec.passwordSecretRef is not known to the server: put it back"
    assert folder.plan(found).empty
    other = Folder(folder.api, folder.login_secret)
    assert other.plan(found).empty
    assert folder.imported(Key("MLflowUser", "", folder.api.username or "")) is None, "the login in use"
    login = folder.observed(Key("MLflowUser", "", folder.api.username or ""))
    assert str(MLflowUser().left_out(login)).endswith("has no document: it is the login in use")
