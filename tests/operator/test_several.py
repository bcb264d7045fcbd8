"""Several operators in one cluster, and in one namespace: each serves its own tracking servers."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Chart, Release, find_chart
from mlflow_platform.deploy import Deployment, Outcome, settling, undeploy
from mlflow_platform.errors import Transient
from mlflow_platform.model.crd import FINALIZER, OPERATOR
from tests.operator.running import OPS, Process, Site, document, eventually, experiment

A, B = Release("a", "both"), Release("b", "both")


def test_two_in_one_namespace_lead_and_each_serves_its_own(site: Site, operator: Process) -> None:
    for server, name in (("of-first", "mlplatform"), ("of-second", "second")):
        site.server(server)
        patch = {"metadata": {"annotations": {OPERATOR: f"{OPS}/{name}"}}}
        site.cluster.patch("mlplatform.io/v1alpha1", "TrackingServer", "", server, patch)
    site.apply(experiment("mine", server="of-first"), experiment("theirs", server="of-second"))
    site.reach("Experiment", "mine", "Synced")
    operator.another_round(2)
    assert site.find("Experiment", "theirs").get("status", {}).get("conditions", []) == []
    assert site.experiment("theirs") == {}

    with site.running("--name", "second"):
        site.reach("Experiment", "theirs", "Synced")
        assert operator.leading
    # What is handed over is served by the next.
    patch["metadata"] = {"annotations": {OPERATOR: f"{OPS}/mlplatform"}}
    site.cluster.patch("mlplatform.io/v1alpha1", "TrackingServer", "", "of-second", patch)
    site.set_tag("theirs", "team", "mine")
    site.apply(experiment("theirs", server="of-second", tags={"team": "search"}))
    eventually(lambda: site.experiment("theirs")["tags"].get("team") == "search", "the first serves it")


def deployed(cluster: Cluster, chart: Chart, release: Release) -> None:
    """The objects of a release with its operator, whose pods nobody starts here."""
    values = chart.values(profile="local", settings=["operator.enabled=true"])
    for manifest in chart.render(values, release):
        cluster.apply(manifest.object)


def held(cluster: Cluster, name: str) -> bool:
    found = cluster.get("mlplatform.io/v1alpha1", "Experiment", "both", name)
    assert found is not None
    return FINALIZER in found["metadata"].get("finalizers", ())


def test_undeploy_settles_what_nobody_serves_afterwards_and_nothing_else(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "both"}})
    chart = find_chart()
    for release in (A, B):
        deployed(cluster, chart, release)
    spec = {"trackingUri": "http://mlflow.invalid"}
    cluster.apply(document("TrackingServer", "of-a", spec, "", operator="both/a"))
    cluster.apply(document("TrackingServer", "of-b", spec, "", operator="both/b"))
    cluster.apply(document("TrackingServer", "of-any", spec, ""))

    def declared(name: str, server: str) -> dict[str, Any]:
        one = experiment(name, "both", server=server, deletionPolicy="Delete")
        return {**one, "metadata": {**one["metadata"], "finalizers": [FINALIZER]}}

    for server in ("of-a", "of-b", "of-any", "of-none"):
        cluster.apply(declared(server, server))
    cluster.apply(declared("going", "of-b"))
    cluster.delete("mlplatform.io/v1alpha1", "Experiment", "both", "going")
    names = ("of-a", "of-b", "of-any", "of-none", "going")

    def meanwhile(*_: Any, **__: Any) -> None:
        """An operator that has not ended yet makes again what it had for a document."""
        labels = next(m.object for m in chart.render(chart.values(profile="local"), A))["metadata"]["labels"]
        owner = {"apiVersion": "mlplatform.io/v1alpha1", "kind": "RetentionPolicy", "name": "x", "uid": "1"}
        metadata = {
            "name": "a-retention-x",
            "namespace": "both",
            "labels": labels,
            "ownerReferences": [owner],
        }
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})

    try:
        # Not waited for: b's operator deletes it, when it can.
        with monkeypatch.context() as ending:
            ending.setattr(settling, "wait_for_pods", meanwhile)
            assert "Deployment/a-operator" in undeploy(cluster, A, chart, delete_data=False, timeout=60)
        assert cluster.get("v1", "ConfigMap", "both", "a-retention-x") is None
        assert {n for n in names if held(cluster, n)} == {"of-b", "of-any", "of-none", "going"}
        with pytest.raises(Transient, match="Experiment/going is being deleted"):
            undeploy(cluster, B, chart, delete_data=False, timeout=1)
        patch: dict[str, Any] = {"metadata": {"finalizers": []}}
        cluster.patch("mlplatform.io/v1alpha1", "Experiment", "both", "going", patch)
        assert "Deployment/b-operator" in undeploy(cluster, B, chart, delete_data=False, timeout=60)
        assert not [n for n in names[:-1] if held(cluster, n)]
    finally:
        for name in names:
            cluster.patch(
                "mlplatform.io/v1alpha1", "Experiment", "both", name, {"metadata": {"finalizers": []}}
            )
            cluster.delete("mlplatform.io/v1alpha1", "Experiment", "both", name)
        for name in ("of-a", "of-b", "of-any"):
            cluster.delete("mlplatform.io/v1alpha1", "TrackingServer", "", name)


def test_a_deployment_without_the_operator_settles_its_documents(cluster: Cluster) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "both"}})
    chart = find_chart()
    deployed(cluster, chart, A)
    cluster.apply(document("TrackingServer", "of-a", {"trackingUri": "http://mlflow.invalid"}, ""))
    patch: dict[str, Any] = {"metadata": {"annotations": {OPERATOR: "both/a"}}}
    cluster.patch("mlplatform.io/v1alpha1", "TrackingServer", "", "of-a", patch)
    one = experiment("staying", "both", server="of-a", deletionPolicy="Delete")
    cluster.apply({**one, "metadata": {**one["metadata"], "finalizers": [FINALIZER]}})
    # A CronJob that the operator has made, with the document as its owner.
    uid = cluster.get("mlplatform.io/v1alpha1", "Experiment", "both", "staying")
    assert uid is not None
    made = cluster.get("v1", "ConfigMap", "both", "a-operator")
    assert made is not None
    owner = {"apiVersion": "mlplatform.io/v1alpha1", "kind": "Experiment", "name": "staying"}
    owner["uid"] = uid["metadata"]["uid"]
    # The chart has one of the same name as the second.
    for name in ("a-retention-x", "a-retention-y"):
        metadata = {"name": name, "namespace": "both", "labels": made["metadata"]["labels"]}
        cluster.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**metadata, "ownerReferences": [owner]}}
        )
    policy = {"name": "y", "spec": {"schedule": "@daily", "rules": {"runs": {"softDeletedFor": "30d"}}}}
    values = chart.values(profile="local", settings=[f"retention.policies={json.dumps([policy])}"])

    def off(timeout: float) -> Outcome:
        outcome = Outcome()
        Deployment(cluster, chart, values, A, timeout).remove_leftovers(outcome)
        return outcome

    try:
        cluster.delete("mlplatform.io/v1alpha1", "Experiment", "both", "staying")
        with pytest.raises(Transient, match="Experiment/staying is being deleted"):
            off(1)
        assert cluster.get("apps/v1", "Deployment", "both", "a-operator") is not None
        gone: dict[str, Any] = {"metadata": {"finalizers": []}}
        cluster.patch("mlplatform.io/v1alpha1", "Experiment", "both", "staying", gone)
        one["metadata"]["finalizers"] = [FINALIZER]
        cluster.apply(one)
        outcome = off(60)
        assert not held(cluster, "staying")
        # Of this one at least: servers that name no operator are of every one, and other tests have some.
        assert re.search(r"Finalizers were taken off [1-9]\d* of them", outcome.warnings[0])
        assert {"Deployment/a-operator", "ConfigMap/a-retention-x"} <= set(outcome.changes)
        assert cluster.get("v1", "ConfigMap", "both", "a-retention-x") is None
        kept = cluster.get("v1", "ConfigMap", "both", "a-retention-y")
        assert kept is not None
        assert "softDeletedFor" in kept["data"]["documents.yaml"]
        assert "ownerReferences" not in kept["metadata"]
        assert cluster.get("v1", "ServiceAccount", "both", "a-operator") is None
        assert cluster.get("apps/v1", "Deployment", "both", "a-server") is not None
        assert off(60).changes == {}
    finally:
        cluster.delete("mlplatform.io/v1alpha1", "Experiment", "both", "staying")
        cluster.delete("mlplatform.io/v1alpha1", "TrackingServer", "", "of-a")
        undeploy(cluster, A, chart, delete_data=False, timeout=60)
