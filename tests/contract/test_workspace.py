"""Workspace, and what else of the access kinds lives in workspaces, on a real server."""

from __future__ import annotations

import pytest

from mlflow_platform.errors import Rejected
from mlflow_platform.plan.objects import Key
from tests.contract.access_loop import Folder, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

READS = ["POST api/2.0/mlflow/experiments/search", "GET api/3.0/mlflow/workspaces"]


def test_a_workspace_through_its_whole_life(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    name = unique("team")
    team = document("Workspace", name, description="of the search team", deletionPolicy="Delete")
    key = Key("Workspace", "", name)

    assert folder.succeed(team) == [f"create {name}"]
    assert folder.api.take() == ["POST api/3.0/mlflow/workspaces"]
    assert folder.unchanged(team) == READS
    assert folder.succeed(team) == []
    assert folder.api.take() == []

    team["spec"] |= {"description": "of both teams", "defaultArtifactRoot": "s3://bucket/team"}
    assert folder.succeed(team) == [f"update {name}"]
    assert folder.api.take() == [f"PATCH api/3.0/mlflow/workspaces/{name}"]
    assert folder.plan(team).empty

    folder.api.call("PATCH", f"api/3.0/mlflow/workspaces/{name}", json={"description": "by hand"})
    assert [[f.old for f in c.fields] for c in folder.plan(team).changes] == [["by hand"]]
    folder.succeed(team)
    assert folder.plan(team).empty

    found = folder.imported(key)
    assert found is not None
    assert found == team
    assert Folder(folder.api, folder.login_secret, workspaces_on=True).plan(found).empty

    del team["spec"]["defaultArtifactRoot"]
    folder.succeed(team)
    assert folder.observed(key).fields[("defaultArtifactRoot",)] is None
    assert folder.plan(team).empty

    assert folder.succeed() == [f"delete {name}"]
    assert folder.api.take() == [f"DELETE api/3.0/mlflow/workspaces/{name}"]
    assert folder.succeed(team) == [f"create {name}"]
    folder.succeed()


def test_a_workspace_made_by_hand_is_adopted(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    name = unique("found")
    folder.api.call("POST", "api/3.0/mlflow/workspaces", json={"name": name})
    team = document("Workspace", name, description="ours now", deletionPolicy="Delete")
    assert folder.succeed(team) == [f"adopt {name}"]
    assert folder.plan(team).empty
    folder.succeed()


def test_a_workspace_that_is_not_empty_stays(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    name = unique("full")
    team = document("Workspace", name, deletionPolicy="Delete")
    folder.succeed(team)
    folder.api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": "e"}, workspace=name)
    [result] = folder.apply()
    assert result.outcome == "rejected"
    assert f"Workspace {name!r} is not empty and stays" in str(result.error)
    assert "table 'experiments' still contains 1 resource(s)" in str(result.error)
    assert folder.observed(Key("Workspace", "", name)).mark is not None, "still ours, to try again"
    folder.api.call("DELETE", f"api/3.0/mlflow/workspaces/{name}", params={"mode": "CASCADE"})
    folder.succeed()


def test_the_default_workspace_is_never_deleted(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    before = folder.observed(Key("Workspace", "", "default")).fields[("description",)]
    default = document("Workspace", "default", description="of all", deletionPolicy="Delete")
    folder.succeed(default)
    [problem] = folder.problems()
    assert problem.startswith("the workspace 'default' cannot be deleted")
    default["spec"] |= {"deletionPolicy": "Retain", "description": before or "default"}
    folder.succeed(default)
    assert folder.succeed() == ["forget default"]
    assert folder.imported(Key("Workspace", "", "default")) is None


def test_roles_and_webhooks_of_a_new_workspace(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    name, role_name, hook_name = unique("team"), unique("readers"), unique("hook")
    team = document("Workspace", name, deletionPolicy="Delete")
    role = document(
        "MLflowRole",
        role_name,
        workspace=name,
        permissions=[{"resourceType": "workspace", "permission": "USE"}],
        deletionPolicy="Delete",
    )
    hook = document(
        "Webhook",
        hook_name,
        workspace=name,
        url="https://93.184.216.34/hook",
        events=["prompt.created"],
    )
    assert folder.succeed(team, role, hook) == [f"create {n}" for n in (name, role_name, hook_name)]
    assert folder.plan(team, role, hook).empty
    for seeded in ("admin", "user"):
        assert folder.imported(Key("MLflowRole", name, seeded)) is None, "MLflow made it"
    found = folder.imported(Key("MLflowRole", name, role_name))
    assert found is not None
    assert found["spec"]["workspace"] == name
    assert found["metadata"] == role["metadata"], "as its owner's document"
    assert folder.plan(team, found, hook).empty
    assert folder.imported(Key("Webhook", name, hook_name)) == hook
    assert Folder(folder.api, folder.login_secret, workspaces_on=True).plan(found).empty

    webhook_id = folder.observed(Key("Webhook", name, hook_name)).handle["ids"][0]
    folder.api.call("DELETE", f"api/2.0/mlflow/webhooks/{webhook_id}", workspace=name)
    assert folder.succeed(team) == [f"forget {hook_name}", f"delete {role_name}"]
    [result] = folder.apply()
    assert "table 'webhooks' still contains 1 resource(s)" in str(result.error), "MLflow keeps deleted ones"
    folder.api.call("DELETE", f"api/3.0/mlflow/workspaces/{name}", params={"mode": "CASCADE"})
    folder.succeed()


def test_a_server_without_workspaces_says_so_once(folder: Folder) -> None:
    team = document("Workspace", "team-x")
    with pytest.raises(Rejected, match="workspaces are switched off on this server") as raised:
        folder.plan(team, prune=False)
    assert "--enable-workspaces" in str(raised.value)
    assert folder.api.take() == ["POST api/2.0/mlflow/experiments/search"]
    role = document("MLflowRole", "r", workspace="team-x")
    [problem] = folder.problems(role)
    assert "refers to Workspace 'team-x', which neither the documents nor the server have" in problem
