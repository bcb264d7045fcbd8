"""What a tenant's namespace may declare: what `allowed` says, and nothing else. Each refusal has an Event."""

from __future__ import annotations

import time

import pytest

from mlflow_platform.model.crd import FINALIZER
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE
from tests.operator.running import OPS, Json, Process, Site, document, eventually, experiment

TEAM, STRANGER = "team-a", "stranger"
ALLOWED = {
    "namespaceSelector": {"matchLabels": {"team": "a"}},
    "kinds": ["Experiment", "ExperimentSet", "RegisteredModel", "MLflowRole"],
    "namePrefixes": ["team-a/", "team-a-"],
    "roles": ["team-a-readers"],
    "artifactLocations": ["s3://team-a/"],
}


@pytest.fixture(scope="module")
def tenants(site: Site, operator: Process) -> Site:
    site.namespace(TEAM, team="a")
    site.namespace(STRANGER)
    site.server(allowed=[ALLOWED])
    return site


def permission(resource: str, type_: str = "experiment") -> Json:
    return {"resourceType": type_, "resource": resource, "permission": "READ"}


REFUSED = {
    "another team's experiment": (
        document("Experiment", "theirs", {"name": "team-b/x"}, TEAM),
        "the name 'team-b/x' does not begin with 'team-a/' or 'team-a-'",
    ),
    "a name by default": (experiment("plain", TEAM), "the name 'plain' does not begin with"),
    "another workspace": (experiment("team-a-ws", TEAM, workspace="other"), "the workspace 'other' is none"),
    "a member outside": (
        document(
            "ExperimentSet",
            "team-a-set",
            {"matrix": {"team": ["team-a", "team-b"]}, "template": {"name": "{{ team }}/x"}},
            TEAM,
        ),
        "the name 'team-b/x' does not begin with",
    ),
    "a kind that is not granted": (
        document("Prompt", "team-a-prompt", {}, TEAM),
        "its kinds are Experiment, ExperimentSet, RegisteredModel, MLflowRole, not Prompt",
    ),
    "an administrator": (
        document("MLflowUser", "team-a-admin", {"admin": True}, TEAM),
        "MLflowUser documents are allowed in the operator's namespace only",
    ),
    "a workspace": (
        document("Workspace", "team-a-workspace", {}, TEAM),
        "Workspace documents are allowed in the operator's namespace only",
    ),
    "artifacts in a foreign bucket": (
        experiment("team-a-foreign", TEAM, artifactLocation="s3://team-b/x"),
        "'s3://team-b/x' is not below s3://team-a/",
    ),
    "artifacts above its own": (
        experiment("team-a-above", TEAM, artifactLocation="s3://team-a/../team-b"),
        "is not below s3://team-a/",
    ),
    "a version of a foreign bucket": (
        document(
            "RegisteredModel", "team-a-copy", {"versions": [{"key": "k", "source": "s3://team-b/m"}]}, TEAM
        ),
        "'s3://team-b/m' is not below s3://team-a/",
    ),
    "a role that is not its own": (
        document("MLflowRole", "team-a-owners", {}, TEAM),
        "the role 'team-a-owners' is none of its own (team-a-readers)",
    ),
    "a role for everything": (
        document("MLflowRole", "team-a-readers", {"permissions": [permission("*")]}, TEAM),
        "not on experiment '*'",
    ),
    "a role for another's experiment": (
        document("MLflowRole", "team-a-readers", {"permissions": [permission("team-b/x")]}, TEAM),
        "not on experiment 'team-b/x'",
    ),
    "a role for an id": (
        document("MLflowRole", "team-a-readers", {"permissions": [permission("#1")]}, TEAM),
        "not on experiment '#1'",
    ),
    "a role that administers the workspace": (
        document(
            "MLflowRole",
            "team-a-readers",
            {"permissions": [{"resourceType": "workspace", "permission": "MANAGE"}]},
            TEAM,
        ),
        "not on workspace '*'",
    ),
    "a namespace without any": (
        experiment("team-a-x", STRANGER),
        "the namespace stranger may declare nothing on the server default",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_granted_is_refused_with_an_event(tenants: Site, case: str) -> None:
    wanted, words = REFUSED[case]
    kind, name, namespace = wanted["kind"], wanted["metadata"]["name"], wanted["metadata"]["namespace"]
    tenants.apply(wanted)
    try:
        assert words in tenants.reach(kind, name, "NotAllowed", namespace)["message"]
        assert tenants.condition(kind, name, namespace, "Stalled")["status"] == "True"
        assert tenants.event(name, "NotAllowed", namespace, words)
        if kind == "Experiment":
            assert tenants.experiment(wanted["spec"].get("name", name)) == {}
    finally:
        tenants.delete(kind, name, namespace)
        tenants.gone(kind, name, namespace)


def test_what_is_granted_is_made_and_kept_when_the_grant_goes(tenants: Site) -> None:
    mine = experiment("mine", TEAM, deletionPolicy="Delete", tags={"a": "b"})
    mine["spec"]["name"] = "team-a/mine"
    role = document("MLflowRole", "team-a-readers", {"permissions": [permission("team-a/mine")]}, TEAM)
    tenants.apply(mine, role)
    tenants.reach("Experiment", "mine", "Synced", TEAM)
    tenants.reach("MLflowRole", "team-a-readers", "Synced", TEAM)
    tenants.namespace(TEAM, team="none")
    tenants.reach("Experiment", "mine", "NotAllowed", TEAM)
    assert tenants.experiment("team-a/mine")["lifecycle_stage"] == "active"
    tenants.namespace(TEAM, team="a")
    tenants.reach("Experiment", "mine", "Synced", TEAM)
    assert tenants.find("Experiment", "mine", TEAM)["metadata"]["finalizers"] == [FINALIZER]
    tenants.delete("Experiment", "mine", TEAM)
    tenants.gone("Experiment", "mine", TEAM)
    assert tenants.experiment("team-a/mine")["lifecycle_stage"] == "deleted"


def test_a_tenant_cannot_take_what_another_namespace_declares(tenants: Site) -> None:
    first = experiment("shared", OPS)
    first["spec"]["name"] = "team-a/shared"
    tenants.apply(first)
    tenants.reach("Experiment", "shared", "Synced")
    time.sleep(1.1)  # creation times are whole seconds
    second = experiment("grab", TEAM, deletionPolicy="Delete")
    second["spec"]["name"] = "team-a/shared"
    tenants.apply(second)
    assert "declared already" in tenants.reach("Experiment", "grab", "Conflict", TEAM)["message"]
    tenants.delete("Experiment", "grab", TEAM)
    tenants.gone("Experiment", "grab", TEAM)
    assert tenants.experiment("team-a/shared")["lifecycle_stage"] == "active"


def test_what_is_refused_takes_nobodys_place(tenants: Site) -> None:
    tenants.apply(experiment("squatter", STRANGER, name="to-come"))
    tenants.reach("Experiment", "squatter", "NotAllowed", STRANGER)
    time.sleep(1.1)  # creation times are whole seconds
    tenants.apply(experiment("to-come", OPS))
    tenants.reach("Experiment", "to-come", "Synced")


def test_a_strangers_document_that_is_dear_to_read_stops_nobody(tenants: Site) -> None:
    """It is read before anything is known of its right to be declared."""
    spec = {"matrix": {"a": ["x"]}, "template": {"name": "{{ a }}", "tags": {"k": "{{" + " " * 4990}}}
    tenants.apply(document("ExperimentSet", "dear", spec, STRANGER))
    tenants.apply(experiment("beside-the-dear", OPS))
    tenants.reach("Experiment", "beside-the-dear", "Synced")
    assert "is not closed" in tenants.reach("ExperimentSet", "dear", "Invalid", STRANGER)["message"]


def test_a_forged_mark_has_nothing_deleted(tenants: Site, operator: Process) -> None:
    """Whoever may edit an object in MLflow can mark it as their document's; they may not delete it."""
    mine = experiment("forger", TEAM, name="team-a/forger", deletionPolicy="Delete")
    tenants.apply(mine)
    tenants.reach("Experiment", "forger", "Synced", TEAM)
    mark = tenants.experiment("team-a/forger")["tags"]["mlplatform.io/mark"]
    for name in ("team-b/live", "team-b/going"):
        tenants.api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": name})
    tenants.set_tag("team-b/live", "mlplatform.io/mark", mark)
    operator.another_round()
    tenants.set_tag("team-b/going", "mlplatform.io/mark", mark)
    tenants.delete("Experiment", "forger", TEAM)
    tenants.gone("Experiment", "forger", TEAM)
    operator.another_round()
    assert tenants.experiment("team-a/forger")["lifecycle_stage"] == "deleted"
    assert tenants.experiment("team-b/live")["lifecycle_stage"] == "active"
    assert tenants.experiment("team-b/going")["lifecycle_stage"] == "active"


def test_a_secret_is_of_the_documents_own_namespace(tenants: Site) -> None:
    """A tenant's Webhook cannot have the operator's Secrets sent to it."""
    tenants.server(allowed=[{**ALLOWED, "kinds": ["Webhook"]}])
    tenants.secret(OPS, "operators-own", token="secret-of-the-operator")
    hook = {
        "url": "https://192.0.2.1/x",
        "events": ["prompt.created"],
        "secretRef": {"name": "operators-own", "key": "token"},
    }
    tenants.apply(document("Webhook", "team-a-hook", hook, TEAM))
    found = tenants.reach("Webhook", "team-a-hook", "Waiting", TEAM)
    assert f"there is no Secret operators-own in namespace {TEAM}" in found["message"]
    tenants.delete("Webhook", "team-a-hook", TEAM)
    tenants.server()


def test_one_tenants_losses_stop_nobody_else(site: Site, operator: Process) -> None:
    """Two namespaces on one server: what one gives up is held back, whatever else happens goes on."""
    losing, other = site.namespace("brake-a", team="brakes"), site.namespace("brake-b", team="brakes")
    selector = {"matchLabels": {"team": "brakes"}}
    allowed = [{"namespaceSelector": selector, "kinds": ["Experiment"], "namePrefixes": ["brake-"]}]
    site.server("brakes", allowed=allowed, brakes={"maxLossPercent": 0, "minimumOwned": 1})
    lost = [f"brake-a-{i}" for i in range(3)]
    for name in lost:
        site.apply(experiment(name, losing, server="brakes", deletionPolicy="Delete"))
    theirs = {"server": "brakes", "deletionPolicy": "Delete"}
    site.apply(experiment("brake-b-0", other, tags={"team": "b"}, **theirs))
    for namespace, name in [(losing, name) for name in lost] + [(other, "brake-b-0")]:
        site.reach("Experiment", name, "Synced", namespace)

    for name in lost:
        site.delete("Experiment", name, losing)
    for name in lost:
        said = site.reach("Experiment", name, "BrakeStopped", losing)["message"]
        assert "the documents of the namespace brake-a delete, replace or forget" in said
    site.reach("TrackingServer", "brakes", "BrakeStopped", namespace="")
    # By hand, by a new document and by a changed one: full rounds and scoped ones.
    site.set_tag("brake-b-0", "team", "mine")
    eventually(lambda: site.experiment("brake-b-0")["tags"]["team"] == "b", "drift is corrected")
    site.apply(experiment("brake-b-1", other, **theirs))
    site.reach("Experiment", "brake-b-1", "Synced", other)
    site.apply(experiment("brake-b-0", other, tags={"team": "c"}, **theirs))
    site.reach("Experiment", "brake-b-0", "Synced", other)
    assert site.experiment("brake-b-0")["tags"]["team"] == "c"
    assert all(site.experiment(name)["lifecycle_stage"] == "active" for name in lost)
    status = site.find("TrackingServer", "brakes", "")["status"]
    site.reach("TrackingServer", "brakes", "BrakeStopped", namespace="")

    annotate = f"{ALLOW_DESTRUCTIVE}={status['stoppedPlan']}"
    site.control_plane.kubectl("annotate", "trackingserver", "brakes", annotate)
    for name in lost:
        site.gone("Experiment", name, losing)
        assert site.experiment(name)["lifecycle_stage"] == "deleted"
    site.reach("TrackingServer", "brakes", "Connected", namespace="")
    site.delete("TrackingServer", "brakes", "")
