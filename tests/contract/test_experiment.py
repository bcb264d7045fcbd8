"""Experiment on a real server."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.plan.objects import MARK_TAG, Key, Mark
from tests.contract.access_loop import Folder, document, unique

pytest_plugins = ("tests.contract.access_fixtures",)

BASE = "api/2.0/mlflow/experiments/"
CREATE, UPDATE, DELETE, RESTORE = (f"POST {BASE}{verb}" for verb in ("create", "update", "delete", "restore"))
SET_TAG, REMOVE_TAG = f"POST {BASE}set-experiment-tag", f"POST {BASE}delete-experiment-tag"
READS = [f"POST {BASE}search", "GET api/2.0/mlflow/users/list"]
NOTE = "mlflow.note.content"


def by_hand(folder: Folder, verb: str, **body: Any) -> Any:
    return folder.api.call("POST", BASE + verb, json=body)


def found(folder: Folder, name: str) -> dict[str, Any]:
    """An experiment as MLflow has it, its tags as a mapping."""
    answer = folder.api.call("GET", BASE + "get-by-name", params={"experiment_name": name})["experiment"]
    return {**answer, "tags": {t["key"]: t["value"] for t in answer.get("tags", ())}}


def set_tag(folder: Folder, name: str, key: str, value: str) -> None:
    by_hand(
        folder, "set-experiment-tag", experiment_id=found(folder, name)["experiment_id"], key=key, value=value
    )


def sent(folder: Folder) -> list[str]:
    """The calls of the apply that has just ended, in their order; plans' reads are not among them."""
    return folder.api.requests


def key_of(name: str, workspace: str = "default") -> Key:
    return Key("Experiment", workspace, name)


def test_an_experiment_through_its_whole_life(folder: Folder) -> None:
    name = unique("life")
    doc = document("Experiment", name, description="why", tags={"team": "search", "tier": "1"})
    origin = f"Experiment/default/{name}"

    assert folder.succeed(doc) == [f"create {name}"]
    assert sent(folder) == [CREATE], "one call, the mark in it"
    made = found(folder, name)
    mark = Mark.from_text(made["tags"].pop(MARK_TAG))
    assert mark is not None
    assert (mark.owner, mark.origin, mark.deletion, len(mark.paths)) == (folder.owner, origin, "Retain", 3)
    assert made["tags"] == {NOTE: "why", "team": "search", "tier": "1"}

    folder.api.requests.clear()
    assert folder.plan(doc, prune=False).empty
    assert sent(folder) == READS
    assert folder.succeed(doc) == []
    assert sent(folder) == [], "a second apply writes nothing"

    doc["spec"] |= {"description": "why not", "tags": {"team": "search", "cost": "7"}}
    assert folder.succeed(doc) == [f"update {name}"]
    assert sent(folder) == [REMOVE_TAG, SET_TAG, SET_TAG, SET_TAG], "tier away, mark, description, cost"
    tags = found(folder, name)["tags"]
    assert (tags[NOTE], tags["cost"], "tier" in tags) == ("why not", "7", False)

    set_tag(folder, name, "team", "by hand")
    set_tag(folder, name, "notes", "of somebody")
    assert folder.succeed(doc) == [f"update {name}"]
    assert sent(folder) == [SET_TAG], "only what drifted"
    tags = found(folder, name)["tags"]
    assert (tags["team"], tags["notes"]) == ("search", "of somebody"), "an undeclared tag is left alone"

    del doc["spec"]["description"]
    folder.succeed(doc)
    assert NOTE not in found(folder, name)["tags"]

    assert folder.succeed() == [f"forget {name}"]
    assert sent(folder) == [REMOVE_TAG]
    left = found(folder, name)
    assert (left["lifecycle_stage"], MARK_TAG in left["tags"], left["tags"]["team"]) == (
        "active",
        False,
        "search",
    )


def test_deleted_and_declared_again_it_is_the_same_with_its_runs(folder: Folder) -> None:
    name = unique("again")
    doc = document("Experiment", name, tags={"a": "1", "b": "1"}, deletionPolicy="Delete")
    folder.succeed(doc)
    number = found(folder, name)["experiment_id"]
    run = folder.api.call("POST", "api/2.0/mlflow/runs/create", json={"experiment_id": number})["run"]
    keep = document("Experiment", unique("other"))
    folder.succeed(doc, keep)

    assert folder.succeed(keep) == [f"delete {name}"]
    assert sent(folder) == [DELETE]
    assert found(folder, name)["lifecycle_stage"] == "deleted"
    assert folder.succeed(keep) == []

    doc["spec"]["tags"] = {"a": "2"}
    assert folder.succeed(doc, keep) == [f"create {name}"]
    assert sent(folder) == [RESTORE, REMOVE_TAG, SET_TAG, SET_TAG], "b away, mark, a"
    again = found(folder, name)
    assert (again["experiment_id"], again["lifecycle_stage"]) == (number, "active")
    assert {k: v for k, v in again["tags"].items() if k != MARK_TAG} == {"a": "2"}
    info = folder.api.call("GET", "api/2.0/mlflow/runs/get", params={"run_id": run["info"]["run_id"]})
    assert info["run"]["info"]["lifecycle_stage"] == "active"
    assert folder.plan(doc, keep).empty


def test_adopting_what_was_made_by_hand(folder: Folder) -> None:
    equal, other = unique("equal"), unique("other")
    for name in (equal, other):
        by_hand(folder, "create", name=name, tags=[{"key": "team", "value": "search"}])
    documents = [document("Experiment", name, tags={"team": "search"}) for name in (equal, other)]
    assert folder.succeed(*documents) == [], "what is as declared is left alone, unmarked"

    documents[1]["spec"]["tags"] = {"team": "ads"}
    assert folder.succeed(*documents) == [f"adopt {other}"]
    assert sent(folder) == [SET_TAG, SET_TAG], "mark, team"
    assert folder.succeed(*documents, adopt_all=True) == [f"adopt {equal}"]
    assert sent(folder) == [SET_TAG]
    assert folder.plan(*documents, adopt_all=True).empty


def test_two_owners_of_one_experiment(folder: Folder) -> None:
    name = unique("shared")
    doc = document("Experiment", name, tags={"a": "1"})
    folder.succeed(doc)
    second = Folder(folder.api, folder.login_secret)
    doc["spec"]["tags"] = {"b": "1"}
    (problem,) = second.problems(doc)
    assert folder.owner in problem
    assert second.owner in problem
    assert second.succeed() == [], "an empty folder of one owner leaves the other's objects alone"
    assert second.succeed(doc, adopt_from=frozenset({folder.owner})) == [f"adopt {name}"]
    tags = found(folder, name)["tags"]
    tags_but_the_mark = {k: v for k, v in tags.items() if k != MARK_TAG}
    assert tags_but_the_mark == {"a": "1", "b": "1"}, "a came from the first owner's document"
    mark = Mark.from_text(tags[MARK_TAG])
    assert mark is not None
    assert mark.owner == second.owner
    assert folder.succeed() == []


@pytest.mark.parametrize(
    "name",
    ["эксперимент/日本語 🚀", "a'b\"c`d\\e", "x" * 223, "  two  spaces ", "100%?&=#"],
    ids=["unicode", "quotes", "long", "spaces", "url"],
)
def test_names_as_people_write_them(folder: Folder, name: str) -> None:
    name = f"{name} {unique('n')}"
    doc = document("Experiment", unique("doc"), name=name, tags={"k/e.y": "värde\n2"}, description="ñ")
    assert folder.succeed(doc) == [f"create {name}"]
    assert folder.plan(doc).empty
    again = folder.imported(key_of(name))
    assert again is not None
    assert folder.plan(again).empty
    assert again["spec"]["name"] == name


def test_a_location_cannot_change_unless_the_document_allows_a_replacement(folder: Folder) -> None:
    name = unique("place")
    doc = document("Experiment", name, artifactLocation="s3://one/place", tags={"a": "1"})
    folder.succeed(doc)
    old = found(folder, name)
    assert old["artifact_location"] == "s3://one/place"

    doc["spec"]["artifactLocation"] = "s3://other/place"
    (problem,) = folder.problems(doc)
    assert "artifactLocation cannot be changed" in problem
    assert "mlplatform.io/allow-replace" in problem

    doc["metadata"]["annotations"] = {"mlplatform.io/allow-replace": "true"}
    assert folder.succeed(doc) == [f"replace {name}"]
    assert sent(folder) == [SET_TAG, UPDATE, DELETE, CREATE]
    new = found(folder, name)
    assert (new["artifact_location"], new["tags"]["a"]) == ("s3://other/place", "1")
    retired = found(folder, f"{name}.replaced-{old['experiment_id']}")
    assert (retired["experiment_id"], retired["lifecycle_stage"]) == (old["experiment_id"], "deleted")
    assert folder.plan(doc).empty


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_replacement_that_was_killed_is_finished(folder: Folder, steps: int) -> None:
    name = unique("half")
    doc = document("Experiment", name, artifactLocation="s3://one/place")
    doc["metadata"]["annotations"] = {"mlplatform.io/allow-replace": "true"}
    folder.succeed(doc)
    old = found(folder, name)["experiment_id"]
    doc["spec"]["artifactLocation"] = "s3://other/place"
    (change,) = folder.plan(doc).changes
    with pytest.raises(KeyboardInterrupt):
        KINDS["Experiment"].execute(_DyingApi(folder, steps), change, {}, None)
    folder.succeed(doc)
    folder.succeed(doc)
    assert found(folder, name)["artifact_location"] == "s3://other/place"
    assert found(folder, f"{name}.replaced-{old}")["lifecycle_stage"] == "deleted"
    assert folder.plan(doc).empty


class _DyingApi:
    """Stands for a process that is killed after a number of calls."""

    def __init__(self, folder: Folder, calls: int) -> None:
        self._folder = folder
        self._left = calls

    def call(self, method: str, path: str, **options: Any) -> Any:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return self._folder.api.call(method, path, **options)


def test_grants_follow_the_document(folder: Folder) -> None:
    name, user = unique("granted"), unique("ann")
    folder.api.call(
        "POST",
        "api/2.0/mlflow/users/create",
        json={"username": user, "password": "a long enough password"},
    )
    doc = document("Experiment", name, grants=[{"user": user, "permission": "READ"}])
    assert folder.succeed(doc) == [f"create {name}"]
    assert sent(folder) == [CREATE, "POST api/3.0/mlflow/users/permissions/grant"]
    assert folder.succeed(doc) == []

    doc["spec"]["grants"] = [{"user": user, "permission": "EDIT"}]
    assert folder.succeed(doc) == [f"update {name}"]
    assert folder.observed(key_of(name)).fields["grants", user] == "EDIT"
    imported = folder.imported(key_of(name))
    assert imported is not None
    assert imported["spec"]["grants"] == doc["spec"]["grants"], "not the one of the login that made it"

    doc["spec"]["grants"] = []
    assert folder.succeed(doc) == [f"update {name}"]
    assert sent(folder) == ["POST api/3.0/mlflow/users/permissions/revoke", SET_TAG]
    assert ("grants", user) not in folder.observed(key_of(name)).fields
    assert folder.plan(doc).empty

    doc["spec"]["grants"] = [{"user": "nobody-of-that-name", "permission": "READ"}]
    (problem,) = folder.problems(doc)
    assert "refers to MLflowUser 'nobody-of-that-name'" in problem


def test_made_by_somebody_else_since_the_plan(folder: Folder) -> None:
    name = unique("race")
    (change,) = folder.plan(document("Experiment", name)).changes
    by_hand(folder, "create", name=name)
    with pytest.raises(Rejected) as refused:
        KINDS["Experiment"].execute(folder.api, change, {}, None)
    assert refused.value.code == "RESOURCE_ALREADY_EXISTS"
    assert str(refused.value).endswith("plan again")
    assert MARK_TAG not in found(folder, name)["tags"]


def test_a_damaged_mark_is_written_again(folder: Folder) -> None:
    name = unique("damaged")
    doc = document("Experiment", name, tags={"a": "1"})
    folder.succeed(doc)
    set_tag(folder, name, MARK_TAG, "{not json")
    assert folder.succeed(doc, adopt_all=True) == [f"adopt {name}"]
    assert Mark.from_text(found(folder, name)["tags"][MARK_TAG])


def test_mlflows_own_experiments_are_nobodys(folder: Folder) -> None:
    hidden = folder.imported(key_of("Default"))
    assert hidden is None
    doc = document("Experiment", "default-experiment", name="Default", tags={"team": "all"})
    assert folder.succeed(doc) == ["adopt Default"], "yet it can be declared"
    del doc["spec"]["tags"]
    folder.succeed(doc)
    assert folder.succeed() == ["forget Default"]


def test_experiments_of_two_workspaces(folder_with_workspaces: Folder) -> None:
    folder = folder_with_workspaces
    place, name = unique("ws"), unique("both")
    documents = [
        document("Workspace", place),
        document("Experiment", name, tags={"in": "default"}),
        document("Experiment", f"{name}-2", name=name, workspace=place, tags={"in": place}),
    ]
    folder.succeed(*documents)
    assert folder.plan(*documents).empty
    for workspace in ("default", place):
        assert folder.observed(key_of(name, workspace)).fields["tags", "in"] == workspace

    located = document("Experiment", unique("located"), artifactLocation="s3://bucket/place")
    (result,) = folder.apply(*documents, located)
    assert "artifactLocation is not allowed where workspaces are on" in str(result.error)
    assert "defaultArtifactRoot" in str(result.error)
