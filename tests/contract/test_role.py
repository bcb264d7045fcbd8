"""MLflowRole on a real server with auth."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlflow_platform.plan.objects import Key
from tests.contract.access_loop import Folder, Json, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

READS = [
    "POST api/2.0/mlflow/experiments/search",
    "GET api/2.0/mlflow/users/list",
    "GET api/3.0/mlflow/roles/list",
]


def make_experiment(folder: Folder, name: str) -> str:
    answer = folder.api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": name})
    return str(answer["experiment_id"])


def make_user(folder: Folder, name: str) -> str:
    body = {"username": name, "password": "a long enough password"}
    folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
    return name


def permission(kind: str, resource: str, permission: str) -> Json:
    return {"resourceType": kind, "resource": resource, "permission": permission}


@pytest.fixture
def names(folder: Folder) -> Iterator[dict[str, str]]:
    made = {n: unique(n) for n in ("ann", "bob", "search/fast", "ads", "role")}
    for user in ("ann", "bob"):
        make_user(folder, made[user])
    made["search id"] = make_experiment(folder, made["search/fast"])
    made["ads id"] = make_experiment(folder, made["ads"])
    yield made
    for user in ("ann", "bob"):
        folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": made[user]})
    for experiment in ("search id", "ads id"):
        body = {"experiment_id": made[experiment]}
        folder.api.call("POST", "api/2.0/mlflow/experiments/delete", json=body)


def test_a_role_through_its_whole_life(folder: Folder, names: dict[str, str]) -> None:
    role = document(
        "MLflowRole",
        names["role"],
        description="reads the search runs",
        permissions=[permission("experiment", names["search/fast"], "READ"), permission("run", "*", "READ")],
        members=[names["ann"]],
        deletionPolicy="Delete",
    )
    key = Key("MLflowRole", "default", names["role"])

    assert folder.succeed(role) == [f"create {names['role']}"]
    assert folder.api.take() == [
        "GET api/2.0/mlflow/experiments/get-by-name",
        "POST api/3.0/mlflow/roles/create",
        "POST api/3.0/mlflow/roles/assign",
        "POST api/3.0/mlflow/roles/permissions/add",
        "POST api/3.0/mlflow/roles/permissions/add",
    ]
    stored = [
        r for r in folder.api.call("GET", "api/3.0/mlflow/roles/list")["roles"] if r["name"] == key.name
    ]
    assert {
        (p["resource_type"], p["resource_pattern"], p["permission"]) for p in stored[0]["permissions"]
    } == {
        ("experiment", names["search id"], "READ"),
        ("run", "*", "READ"),
    }

    assert folder.unchanged(role) == READS
    assert folder.succeed(role) == []
    assert folder.api.take() == []

    role["spec"]["description"] = "edits the search runs"
    role["spec"]["permissions"] = [
        permission("experiment", names["search/fast"], "EDIT"),
        permission("experiment", names["ads"], "READ"),
    ]
    role["spec"]["members"] = [names["bob"]]
    assert folder.succeed(role) == [f"update {names['role']}"]
    assert sorted(folder.api.take()) == sorted(
        [
            "GET api/2.0/mlflow/experiments/get-by-name",
            "GET api/2.0/mlflow/experiments/get-by-name",
            "GET api/3.0/mlflow/roles/permissions/list",
            "PATCH api/3.0/mlflow/roles/update",
            "DELETE api/3.0/mlflow/roles/unassign",
            "POST api/3.0/mlflow/roles/assign",
            "POST api/3.0/mlflow/roles/permissions/add",
            "PATCH api/3.0/mlflow/roles/permissions/update",
            "DELETE api/3.0/mlflow/roles/permissions/remove",
        ]
    )
    assert folder.plan(role).empty

    role_id = folder.observed(key).handle["role_id"]
    extra = {"role_id": role_id, "resource_type": "prompt", "resource_pattern": "*", "permission": "MANAGE"}
    folder.api.call("POST", "api/3.0/mlflow/roles/permissions/add", json=extra)
    body = {"role_id": role_id, "username": names["ann"]}
    folder.api.call("POST", "api/3.0/mlflow/roles/assign", json=body)
    drift = {f.path: (f.old, f.new) for c in folder.plan(role).changes for f in c.fields}
    assert drift == {
        ("permissions", "prompt", "*"): ("MANAGE", None),
        ("members", names["ann"]): (True, None),
    }
    folder.succeed(role)
    assert folder.plan(role).empty

    del role["spec"]["description"]
    folder.succeed(role)
    assert folder.observed(key).fields[("description",)] is None
    assert folder.plan(role).empty

    assert folder.succeed() == [f"delete {names['role']}"]
    assert folder.api.take() == ["DELETE api/3.0/mlflow/roles/delete"]
    assert folder.succeed(role) == [f"create {names['role']}"]
    assert folder.plan(role).empty
    folder.succeed()


def test_a_role_that_exists_is_adopted_with_what_it_lacks(folder: Folder, names: dict[str, str]) -> None:
    body = {"name": names["role"], "workspace": "default"}
    folder.api.call("POST", "api/3.0/mlflow/roles/create", json=body)
    role = document(
        "MLflowRole", names["role"], members=[names["ann"], names["bob"]], deletionPolicy="Delete"
    )
    assert folder.succeed(role) == [f"adopt {names['role']}"]
    assert folder.api.take() == ["POST api/3.0/mlflow/roles/assign"] * 2
    assert folder.plan(role).empty
    folder.succeed()


def test_permissions_on_a_gone_experiment_are_shown_by_id_and_removed(
    folder: Folder, names: dict[str, str]
) -> None:
    body = {"name": names["role"], "workspace": "default"}
    role_id = folder.api.call("POST", "api/3.0/mlflow/roles/create", json=body)["role"]["id"]
    gone = {"role_id": role_id, "resource_type": "experiment", "resource_pattern": "99999999"}
    folder.api.call("POST", "api/3.0/mlflow/roles/permissions/add", json={**gone, "permission": "READ"})

    found = folder.imported(Key("MLflowRole", "default", names["role"]))
    assert found is not None
    assert found["spec"]["permissions"] == [permission("experiment", "#99999999", "READ")]
    assert Folder(folder.api, folder.login_secret).plan(found).empty

    role = document("MLflowRole", names["role"], deletionPolicy="Delete")
    assert [f.path for c in folder.plan(role).changes for f in c.fields] == [
        ("permissions", "experiment", "#99999999")
    ]
    folder.succeed(role)
    assert folder.plan(role).empty
    folder.succeed()


def test_permissions_on_gone_models_and_prompts(folder: Folder, names: dict[str, str]) -> None:
    body = {"name": names["role"], "workspace": "default"}
    role_id = folder.api.call("POST", "api/3.0/mlflow/roles/create", json=body)["role"]["id"]
    model, hashed = unique("model"), unique("#model")
    for name in (model, hashed):
        folder.api.call("POST", "api/2.0/mlflow/registered-models/create", json={"name": name})
    rows = [("registered_model", model), ("registered_model", hashed), ("prompt", "gone"), ("prompt", "*")]
    for kind, pattern in rows:
        row = {"role_id": role_id, "resource_type": kind, "resource_pattern": pattern, "permission": "READ"}
        folder.api.call("POST", "api/3.0/mlflow/roles/permissions/add", json=row)
    folder.api.call("DELETE", "api/2.0/mlflow/registered-models/delete", json={"name": model})

    found = folder.imported(Key("MLflowRole", "default", names["role"]))
    assert found is not None
    assert found["spec"]["permissions"] == [
        permission("prompt", "#gone", "READ"),
        permission("prompt", "*", "READ"),
        permission("registered_model", f"##{hashed[1:]}", "READ"),
        permission("registered_model", f"#{model}", "READ"),
    ]
    assert folder.plan(found).empty

    found["spec"]["deletionPolicy"] = "Delete"
    folder.succeed(found)
    made = document("RegisteredModel", model)
    folder.succeed(found, made)
    assert folder.plan(found, made).empty, "it is back, and the document may still say it as it is"
    found["spec"]["permissions"][3] = permission("registered_model", model, "EDIT")
    folder.succeed(found, made)
    assert folder.plan(found, made).empty

    folder.succeed(found)  # forgets the model
    folder.api.call("DELETE", "api/2.0/mlflow/registered-models/delete", json={"name": model})
    assert [p for p in folder.problems(found) if f"refers to RegisteredModel {model!r}" in p]
    assert folder.succeed(found, made) == [f"create {model}", f"update {names['role']}"]
    assert folder.plan(found, made).empty, "the permission that was kept is the one that is declared"

    folder.succeed(made)
    assert folder.succeed(found, made) == [f"create {names['role']}"]
    assert folder.plan(found, made).empty, "permissions on what is gone can be given, too"
    folder.succeed()


def test_an_experiment_may_be_named_by_its_id(folder: Folder, names: dict[str, str]) -> None:
    role = document(
        "MLflowRole",
        names["role"],
        permissions=[
            permission("experiment", f"#{names['ads id']}", "READ"),
            permission("scorer", f"#{names['ads id']}/is it good?", "READ"),
        ],
        deletionPolicy="Delete",
    )
    folder.succeed(role)
    assert folder.plan(role).empty
    folder.succeed()


def test_export_keeps_the_name_of_the_document_and_the_deletion_policy(
    folder: Folder, names: dict[str, str]
) -> None:
    name = unique("The Readers")
    role = document("MLflowRole", unique("doc"), name=name, description="why", deletionPolicy="Delete")
    folder.succeed(role)
    assert folder.imported(Key("MLflowRole", "default", name)) == role
    folder.succeed()


def test_a_renamed_experiment_keeps_its_permission_until_the_document_follows(
    folder: Folder, names: dict[str, str]
) -> None:
    role = document(
        "MLflowRole",
        names["role"],
        permissions=[permission("experiment", names["ads"], "EDIT")],
        deletionPolicy="Delete",
    )
    folder.succeed(role)
    renamed = unique("adverts")
    body = {"experiment_id": names["ads id"], "new_name": renamed}
    folder.api.call("POST", "api/2.0/mlflow/experiments/update", json=body)
    [problem] = folder.plan(role).problems
    assert f"refers to Experiment {names['ads']!r}" in problem.problem.what
    role["spec"]["permissions"] = [permission("experiment", renamed, "EDIT")]
    assert folder.plan(role).empty, "it is the same experiment"
    folder.succeed()


def test_import_gives_a_document_whose_plan_is_empty(folder: Folder, names: dict[str, str]) -> None:
    name = unique("Data Team")
    body = {"name": name, "workspace": "default", "description": "by hand"}
    role_id = folder.api.call("POST", "api/3.0/mlflow/roles/create", json=body)["role"]["id"]
    rows = [
        ("experiment", names["search id"], "EDIT"),
        ("experiment", "*", "READ"),
        ("scorer", f"{names['ads id']}/a%2Fb", "USE"),
        ("registered_model_version", "*", "READ"),
        ("workspace", "*", "USE"),
        ("mcp_server", "tools", "USE"),
    ]
    for kind, pattern, given in rows:
        row = {"role_id": role_id, "resource_type": kind, "resource_pattern": pattern, "permission": given}
        folder.api.call("POST", "api/3.0/mlflow/roles/permissions/add", json=row)
    folder.api.call(
        "POST", "api/3.0/mlflow/roles/assign", json={"role_id": role_id, "username": names["ann"]}
    )
    found = folder.imported(Key("MLflowRole", "default", name))
    assert found is not None
    assert permission("scorer", f"{names['ads']}/a%2Fb", "USE") in found["spec"]["permissions"]
    other = Folder(folder.api, folder.login_secret)
    assert other.plan(found).empty

    found["spec"]["deletionPolicy"] = "Delete"
    folder.succeed(found)
    assert folder.succeed() == [f"delete {name}"]
    assert folder.succeed(found) == [f"create {name}"], "the imported document makes the same role again"
    assert folder.plan(found).empty
    folder.succeed()
