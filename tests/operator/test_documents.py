"""Documents through kubectl and a running operator: Ready, corrected, deleted, or stalled alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.crd import FINALIZER
from mlflow_platform.operator.entries import ALLOW_DESTRUCTIVE
from tests.operator.running import OPS, Process, Site, document, eventually, experiment

ROOT = Path(__file__).parents[2]


def references(value: Any) -> list[tuple[str, str]]:
    """(name, key) of every Secret that a document refers to."""
    if isinstance(value, list):
        return [r for item in value for r in references(item)]
    if not isinstance(value, dict):
        return []
    mine = [(v["name"], v["key"]) for k, v in value.items() if k.endswith("SecretRef") or k == "secretRef"]
    return [*mine, *(r for item in value.values() for r in references(item))]


def test_all_examples_become_ready_and_nothing_is_written_again(site: Site, operator: Process) -> None:
    files = sorted((ROOT / "manifests" / "examples").glob("*.yaml"))
    documents = [d for path in files for d in yaml.safe_load_all(path.read_text("utf-8")) if d]
    secrets: dict[str, dict[str, str]] = {}
    for name, key in references(documents):
        secrets.setdefault(name, {})[key] = "correct horse battery staple"
    for name, values in secrets.items():
        site.secret(OPS, name, **values)
    folder = str(ROOT / "manifests" / "examples")
    site.control_plane.kubectl("-n", OPS, "apply", "-f", folder)
    # --field-manager of kubectl differs from the operator's: a status patch must not take its fields.
    site.control_plane.kubectl("-n", OPS, "wait", "--for=condition=Ready", "-f", folder, "--timeout=90s")
    assert site.find("ExperimentSet", "analytics-agents")["status"]["members"] == 15

    operator.another_round()  # the TrackingServer counts what is owned in its next round
    writes, patches = operator.metric("requests_total", 'kind="writes"'), operator.metric("patches_total")
    operator.another_round()
    # The experiments' list is a POST to MLflow, which the adapter counts as the read that it is.
    assert operator.metric("requests_total", 'kind="writes"') == writes
    assert operator.metric("patches_total") == patches
    assert operator.ask("/readyz") == (200, "ok")
    assert operator.ask("/nothing")[0] == 404


def test_drift_is_corrected_and_an_event_says_what_differed(site: Site, operator: Process) -> None:
    site.apply(experiment("drifting", tags={"team": "search"}))
    site.reach("Experiment", "drifting", "Synced")
    site.set_tag("drifting", "team", "mine")
    rounds = operator.rounds()
    eventually(lambda: site.experiment("drifting")["tags"]["team"] == "search", "it is corrected")
    # One may have looked before, the next one corrects, and one more while this test was not at it.
    assert operator.rounds() <= rounds + 3
    said = site.event("drifting", "DriftCorrected")
    assert 'tags.team: "mine" -> "search"' in said
    assert "mlplatform.io/mark" in site.experiment("drifting")["tags"]
    assert site.experiment("drifting")["tags"]["mlplatform.io/mark"].startswith('{"owner": "k8s:')


def test_a_document_that_goes_leaves_or_takes_its_object_as_it_says(site: Site, operator: Process) -> None:
    site.apply(experiment("stays"), experiment("goes", deletionPolicy="Delete"))
    for name in ("stays", "goes"):
        site.reach("Experiment", name, "Synced")
    assert site.find("Experiment", "goes")["metadata"]["finalizers"] == [FINALIZER]
    assert "finalizers" not in site.find("Experiment", "stays")["metadata"]
    for name in ("stays", "goes"):
        site.delete("Experiment", name)
        site.gone("Experiment", name)
    assert site.experiment("goes")["lifecycle_stage"] == "deleted"
    eventually(lambda: "mlplatform.io/mark" not in site.experiment("stays")["tags"], "it is still marked")
    assert site.experiment("stays")["lifecycle_stage"] == "active"
    assert "deleted Experiment 'goes'" in site.event("goes", "Deleted")

    site.apply(experiment("goes", deletionPolicy="Delete"))
    site.reach("Experiment", "goes", "Synced")
    assert site.experiment("goes")["lifecycle_stage"] == "active"
    # Another mind: the finalizer goes with the policy.
    site.apply(experiment("goes", deletionPolicy="Retain"))
    eventually(lambda: "finalizers" not in site.find("Experiment", "goes")["metadata"], "it is still held")


def test_a_document_is_made_again_while_its_finalizer_is_pending(site: Site, operator: Process) -> None:
    """As a GitOps tool does, which applies again and again what somebody deletes."""
    site.server("pending")
    wanted = experiment("again", server="pending", deletionPolicy="Delete", tags={"a": "b"})
    site.apply(wanted)
    site.reach("Experiment", "again", "Synced")
    first = site.find("Experiment", "again")["metadata"]["uid"]
    id_ = site.experiment("again")["experiment_id"]
    site.server("pending", trackingUri="http://127.0.0.1:9")
    site.reach("TrackingServer", "pending", "ServerUnavailable", namespace="")
    site.delete("Experiment", "again")
    text = yaml.safe_dump(wanted)

    def applied() -> str:
        # Refused where the document goes between kubectl's look and its patch.
        site.control_plane.try_kubectl("apply", "-f", "-", stdin=text)
        return str(site.find("Experiment", "again").get("metadata", {}).get("uid", ""))

    assert applied() == first, "it is held until its object is deleted"
    assert "deletionTimestamp" in site.find("Experiment", "again")["metadata"]
    assert site.experiment("again")["lifecycle_stage"] == "active"
    site.server("pending")
    eventually(lambda: applied() not in ("", first), "it is made again")
    site.reach("Experiment", "again", "Synced")
    found = site.experiment("again")
    assert (found["experiment_id"], found["lifecycle_stage"], found["tags"]["a"]) == (id_, "active", "b")
    assert site.find("Experiment", "again")["metadata"]["finalizers"] == [FINALIZER]
    site.delete("Experiment", "again")
    site.gone("Experiment", "again")
    site.delete("TrackingServer", "pending", "")


def test_another_document_takes_over_while_a_finalizer_is_pending(site: Site, operator: Process) -> None:
    site.apply(experiment("heirloom", deletionPolicy="Delete"))
    site.reach("Experiment", "heirloom", "Synced")
    site.cluster.patch(  # held by somebody else, too
        *(API_VERSION, "Experiment", OPS, "heirloom"),
        {"metadata": {"finalizers": [FINALIZER, "example.com/other"]}},
    )
    site.delete("Experiment", "heirloom")
    eventually(
        lambda: site.find("Experiment", "heirloom")["metadata"]["finalizers"] == ["example.com/other"],
        "ours is gone",
    )
    assert site.experiment("heirloom")["lifecycle_stage"] == "deleted"
    site.apply(experiment("heir", name="heirloom", tags={"of": "heir"}))
    site.reach("Experiment", "heir", "Synced")
    site.cluster.patch(API_VERSION, "Experiment", OPS, "heirloom", {"metadata": {"finalizers": []}})
    site.gone("Experiment", "heirloom")
    operator.another_round()
    found = site.experiment("heirloom")
    assert (found["lifecycle_stage"], found["tags"]["of"]) == ("active", "heir")


def test_a_set_that_loses_a_member_gives_it_up_as_it_says(site: Site, operator: Process) -> None:
    def a_set(*tiers: str) -> dict[str, Any]:
        spec = {
            "deletionPolicy": "Delete",
            "matrix": {"tier": list(tiers)},
            "template": {"name": "set/{{ tier }}"},
        }
        return document("ExperimentSet", "tiers", spec)

    site.apply(a_set("gold", "silver", "bronze"))
    site.reach("ExperimentSet", "tiers", "Synced")
    site.apply(a_set("gold", "silver"))
    eventually(lambda: site.experiment("set/bronze")["lifecycle_stage"] == "deleted", "bronze is there")
    site.reach("ExperimentSet", "tiers", "Synced")
    status = site.find("ExperimentSet", "tiers")["status"]
    assert (status["members"], status["ready"], status["failures"]) == (2, 2, [])
    site.delete("ExperimentSet", "tiers")
    site.gone("ExperimentSet", "tiers")
    assert site.experiment("set/gold")["lifecycle_stage"] == "deleted"


def test_what_is_mistaken_stalls_alone_with_what_and_remedy(site: Site, operator: Process) -> None:
    spec = {"matrix": {"tier": ["gold"]}, "template": {"name": "x/{{ tear }}"}}
    # An Event's name is made of the first 200 characters, and may not end in a dash there.
    name = f"mistaken{'x' * 191}-y"
    site.apply(document("ExperimentSet", name, spec), experiment("beside"))
    found = site.reach("ExperimentSet", name, "Invalid")
    assert "{{ tear }} names no axis" in found["message"]
    assert "Did you mean tier?" in found["message"]
    assert site.condition("ExperimentSet", name, type_="Stalled")["status"] == "True"
    assert site.condition("ExperimentSet", name, type_="Reconciling")["status"] == "False"
    site.reach("Experiment", "beside", "Synced")
    site.event(name, "Invalid")


def test_what_mlflow_refuses_stalls_alone(site: Site, operator: Process) -> None:
    hook = {"url": "https://192.0.2.1/hook", "events": ["prompt.created"]}
    site.secret(OPS, "short", password="short")
    user = {"passwordSecretRef": {"name": "short", "key": "password"}}
    local = {"versions": [{"key": "k", "source": "/somewhere", "runId": "0123"}]}
    site.apply(
        document("MLflowUser", "refused", user),
        document("RegisteredModel", "refused", local),
        document("Webhook", "fine", hook),
    )
    found = site.reach("MLflowUser", "refused", "Rejected")
    assert "shorter than MLflow's minimum of 12 characters. Put a longer one there" in found["message"]
    found = site.reach("RegisteredModel", "refused", "Rejected")
    assert "Invalid model version source: '/somewhere'" in found["message"]
    site.reach("Webhook", "fine", "Synced")
    site.delete("RegisteredModel", "refused")  # every full round would try it again


def test_of_two_documents_for_one_object_the_older_one_has_it(site: Site, operator: Process) -> None:
    site.apply(experiment("first", name="contested", tags={"of": "first"}))
    site.reach("Experiment", "first", "Synced")
    time.sleep(1.1)  # creation times are whole seconds
    site.apply(experiment("second", name="contested", tags={"of": "second"}))
    found = site.reach("Experiment", "second", "Conflict")
    assert f"declared already, by Experiment/{OPS}/first" in found["message"]
    assert site.experiment("contested")["tags"]["of"] == "first"
    site.delete("Experiment", "first")
    site.reach("Experiment", "second", "Synced")
    assert site.experiment("contested")["tags"]["of"] == "second"


def test_an_object_of_another_owner_is_a_conflict(site: Site, operator: Process) -> None:
    mark = '{"owner": "project:other", "object": "Experiment/default/foreign", "deletion": "Retain"}'
    body = {"name": "foreign", "tags": [{"key": "mlplatform.io/mark", "value": mark}]}
    site.api.call("POST", "api/2.0/mlflow/experiments/create", json=body)
    site.apply(experiment("foreign", deletionPolicy="Delete", tags={"a": "b"}))
    assert "is owned by project:other" in site.reach("Experiment", "foreign", "Conflict")["message"]
    site.delete("Experiment", "foreign")
    site.gone("Experiment", "foreign")
    assert site.experiment("foreign")["lifecycle_stage"] == "active"


def test_what_waits_goes_on_when_what_it_waits_for_is_there(site: Site, operator: Process) -> None:
    site.apply(experiment("granting", grants=[{"user": "waited-for", "permission": "EDIT"}]))
    found = site.reach("Experiment", "granting", "Waiting")
    assert "waited-for" in found["message"]
    user = {"passwordSecretRef": {"name": "late", "key": "password"}}
    site.apply(document("MLflowUser", "waited-for", user))
    assert "there is no Secret late" in site.reach("MLflowUser", "waited-for", "Waiting")["message"]
    site.secret(OPS, "late", password="correct horse battery staple")
    site.reach("MLflowUser", "waited-for", "Synced")
    site.reach("Experiment", "granting", "Synced")


def test_a_rotated_secret_is_noticed(site: Site, operator: Process) -> None:
    site.secret(OPS, "rotating", password="the first of two passwords")
    user = {"passwordSecretRef": {"name": "rotating", "key": "password"}}
    site.apply(document("MLflowUser", "rotated", user))
    site.reach("MLflowUser", "rotated", "Synced")
    site.secret(OPS, "rotating", password="the second of two passwords")
    said = site.event("rotated", "DriftCorrected")
    assert "value not shown" in said
    assert "passwords" not in said + operator.log.read_text()


def test_observe_only_says_what_differs_and_writes_nothing(site: Site, operator: Process) -> None:
    site.api.call("POST", "api/2.0/mlflow/experiments/create", json={"name": "watched"})
    site.apply(experiment("watched", managementPolicy="ObserveOnly", tags={"a": "b"}))
    assert 'tags.a: "b"' in site.reach("Experiment", "watched", "Differs")["message"]
    assert "a" not in site.experiment("watched")["tags"]
    site.set_tag("watched", "a", "b")
    site.reach("Experiment", "watched", "Synced")


def test_a_server_that_is_not_there_and_a_document_that_is_let_go(site: Site, operator: Process) -> None:
    site.apply(experiment("lost", server="nowhere", deletionPolicy="Delete"))
    assert "no TrackingServer 'nowhere'" in site.reach("Experiment", "lost", "ServerNotFound")["message"]
    site.server("nowhere", trackingUri="http://127.0.0.1:9")
    found = site.reach("TrackingServer", "nowhere", "ServerUnavailable", namespace="")
    assert "connection refused" in found["message"]
    site.server("nowhere")
    site.reach("Experiment", "lost", "Synced")
    site.server("nowhere", trackingUri="http://127.0.0.1:9")
    site.reach("TrackingServer", "nowhere", "ServerUnavailable", namespace="")
    assert site.condition("Experiment", "lost")["status"] == "True"  # nothing else is known of it
    site.delete("Experiment", "lost")
    eventually(
        lambda: "mlplatform.io/abandon" in site.condition("Experiment", "lost").get("message", ""),
        "it says how it can be let go",
    )
    site.apply(
        document("Experiment", "lost", {"server": "nowhere", "deletionPolicy": "Delete"}, abandon="true")
    )
    site.gone("Experiment", "lost")
    assert site.experiment("lost")["lifecycle_stage"] == "active"
    round_ = ("last_round_timestamp_seconds", 'server="nowhere"')
    assert operator.metric(*round_) > 0
    site.delete("TrackingServer", "nowhere", "")
    eventually(
        lambda: operator.metric(*round_) == 0, "its last round is not told any more, else it would age"
    )


def test_the_brake_stops_a_plan_until_its_hash_is_allowed(site: Site, operator: Process) -> None:
    site.server("braked", brakes={"maxLossPercent": 0, "minimumOwned": 1})
    names = [f"braked-{i}" for i in range(3)]
    for name in names:
        site.apply(experiment(name, server="braked", deletionPolicy="Delete"))
    for name in names:
        site.reach("Experiment", name, "Synced")
    for name in names:
        site.delete("Experiment", name)
    found = site.reach("TrackingServer", "braked", "BrakeStopped", namespace="")
    stopped = site.find("TrackingServer", "braked", "")["status"]["stoppedPlan"]
    assert f"{ALLOW_DESTRUCTIVE}={stopped}" in found["message"]
    assert all(site.experiment(name)["lifecycle_stage"] == "active" for name in names)
    site.reach("Experiment", names[0], "BrakeStopped")

    def allow() -> bool:
        # The plan may have another hash by now: the documents were deleted one by one.
        hash_ = site.find("TrackingServer", "braked", "")["status"].get("stoppedPlan")
        if hash_:
            site.control_plane.kubectl(
                "annotate", "trackingserver", "braked", "--overwrite", f"{ALLOW_DESTRUCTIVE}={hash_}"
            )
        return not any(site.find("Experiment", name) for name in names)

    eventually(allow, "they are deleted")
    assert all(site.experiment(name)["lifecycle_stage"] == "deleted" for name in names)
    site.delete("TrackingServer", "braked", "")


def test_a_restart_writes_nothing(site: Site, operator: Process) -> None:
    site.apply(experiment("through-restarts", deletionPolicy="Delete", tags={"a": "b"}))
    site.reach("Experiment", "through-restarts", "Synced")
    before = site.find("Experiment", "through-restarts")["metadata"]["resourceVersion"]
    operator.another_round()
    operator.end()
    with site.running() as again:
        eventually(lambda: again.rounds() >= 2, "two rounds")
        assert again.metric("requests_total", 'kind="writes"') == 0
        assert site.find("Experiment", "through-restarts")["metadata"]["resourceVersion"] == before
