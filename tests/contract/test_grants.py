"""Direct grants of users on a real server with auth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Snapshot
from tests.contract.access_loop import Folder, unique

pytest_plugins = ("tests.contract.access_fixtures",)


@pytest.fixture
def place(folder: Folder) -> Iterator[tuple[str, str]]:
    """A user and an experiment's id."""
    user = unique("ann")
    body = {"username": user, "password": "a long enough password"}
    folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
    answer = folder.api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": unique("e")})
    folder.api.take()
    yield user, answer["experiment_id"]
    body = {"experiment_id": answer["experiment_id"]}
    folder.api.call("POST", "api/2.0/mlflow/experiments/delete", json=body)
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": user})


def held(folder: Folder, experiment_id: str) -> dict[str, str]:
    snapshot = Snapshot(folder.api)
    return access.direct_grants(snapshot, "experiment").get(("default", experiment_id), {})


def test_grant_change_and_revoke(folder: Folder, place: tuple[str, str]) -> None:
    user, experiment_id = place
    creator = folder.api.username or ""
    before = {creator: "MANAGE"}
    assert held(folder, experiment_id) == before
    assert creator in access.administrators(Snapshot(folder.api))

    folder.api.take()
    access.grant(folder.api, None, user, "experiment", experiment_id, "READ")
    assert folder.api.take() == ["POST api/3.0/mlflow/users/permissions/grant"]
    assert held(folder, experiment_id) == {**before, user: "READ"}

    folder.api.take()
    access.grant(folder.api, None, user, "experiment", experiment_id, "DENY")
    assert folder.api.take() == [
        "POST api/3.0/mlflow/users/permissions/grant",
        "GET api/3.0/mlflow/users/roles/list",
        "PATCH api/3.0/mlflow/roles/permissions/update",
    ], "changed in place: no moment without the permission"
    assert held(folder, experiment_id) == {**before, user: "DENY"}

    for _ in range(2):
        access.revoke(folder.api, None, user, "experiment", experiment_id)
    assert held(folder, experiment_id) == before


def test_grants_by_name(folder: Folder, place: tuple[str, str]) -> None:
    user, _ = place
    name = unique("model")
    access.grant(folder.api, None, user, "registered_model", name, "EDIT")
    access.grant(folder.api, None, user, "registered_model", "*", "READ")
    grants = access.direct_grants(Snapshot(folder.api), "registered_model")
    assert grants[("default", name)] == {user: "EDIT"}
    assert grants[("default", "*")] == {user: "READ"}
    assert ("default", name) not in access.direct_grants(Snapshot(folder.api), "prompt")


def test_all_reads_of_a_round_are_shared(folder: Folder) -> None:
    snapshot = Snapshot(folder.api)
    for kind in ("experiment", "registered_model", "prompt"):
        access.direct_grants(snapshot, kind)
    assert access.has_auth(snapshot)
    access.roles(snapshot)
    assert folder.api.take() == ["GET api/2.0/mlflow/users/list", "GET api/3.0/mlflow/roles/list"]
    assert not [r for r in access.roles(snapshot) if r["name"].startswith("__user_")]


def test_an_unknown_user_is_refused_in_the_servers_words(folder: Folder) -> None:
    with pytest.raises(Rejected, match="User with username=nobody-at-all not found"):
        access.grant(folder.api, None, "nobody-at-all", "experiment", "1", "READ")


def test_in_a_workspace(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    workspace, user = unique("team"), unique("ann")
    folder.api.call("POST", "api/3.0/mlflow/workspaces", json={"name": workspace})
    body = {"username": user, "password": "a long enough password"}
    folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
    access.grant(folder.api, "default", user, "prompt", "greeting", "READ")
    access.grant(folder.api, workspace, user, "prompt", "greeting", "READ")
    access.grant(folder.api, workspace, user, "prompt", "greeting", "MANAGE")
    grants = access.direct_grants(Snapshot(folder.api), "prompt")
    assert grants[("default", "greeting")][user] == "READ"
    assert grants[(workspace, "greeting")][user] == "MANAGE"
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": user})
    folder.api.call("DELETE", f"api/3.0/mlflow/workspaces/{workspace}")


def test_a_login_that_may_not_see_users(folder_with_workspaces: Folder) -> None:
    """Without a role it still may plan experiments; only what needs the users is refused."""
    folder = folder_with_workspaces
    user, password = unique("guest"), "a long enough password"
    body = {"username": user, "password": password}
    folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
    with MlflowApi(folder.api.address, user, password) as api:
        assert not access.has_auth(Snapshot(api))
        with pytest.raises(Rejected, match="the login may not do GET"):
            access.users(Snapshot(api))
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": user})
