"""The pure parts of a deployment: phases, what is added and removed, the smoke test's Job, the files."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_platform.chart import Manifest, Release, find_chart
from mlflow_platform.deploy import external, phases, preflight, smoke
from mlflow_platform.deploy import manifests as files
from mlflow_platform.deploy.differences import Change, Difference
from mlflow_platform.server import bootstrap
from tests.unit.test_chart_mlflow_platform import CASES, rendered

MANIFESTS = Path(__file__).parents[2] / "manifests"


def deployment_of(found: list[Manifest]) -> Any:
    (one,) = (m.object for m in found if m.kind == "Deployment" and m.name == "mlflow-server")
    return one


@pytest.mark.parametrize("case", CASES)
def test_every_object_is_in_one_phase_and_nothing_waits_for_a_later_one(case: str) -> None:
    objects = rendered(case)
    found = phases.phases(objects)
    assert sorted(phases.key(o) for p in found for o in p.objects) == sorted(
        (m.kind, m.name) for m in objects
    )
    order = [
        "rules and addresses",
        "secrets",
        "database and store",
        "schema",
        "servers",
        "scaling",
        "operator",
    ]
    assert [p.name for p in found] == [n for n in order if n in [p.name for p in found]]
    workloads = {p.name: [o["kind"] for o in p.objects if o["kind"] in phases.WORKLOADS] for p in found}
    assert workloads["rules and addresses"] == []
    assert workloads["schema"] == ["Job"]
    assert set(workloads["servers"]) == {"Deployment"}
    assert workloads.get("secrets", ["Job"]) == ["Job"]


@pytest.mark.parametrize("case", CASES)
def test_what_can_be_pruned_is_all_that_is_rendered_but_what_holds_data(case: str) -> None:
    kinds = {(m.object["apiVersion"], m.kind) for m in rendered(case)}
    assert kinds - {*phases.PRUNED, *phases.OUTSIDE} <= {("postgresql.cnpg.io/v1", "Cluster")}
    assert not {k for _, k in phases.PRUNED} & {"Secret", "PersistentVolumeClaim", "Cluster", "Namespace"}


def test_leftovers_are_what_is_no_longer_rendered_and_nobody_elses() -> None:
    def there(name: str, **metadata: Any) -> dict[str, Any]:
        return {"kind": "Job", "metadata": {"name": name, **metadata}}

    old, kept, owned = there("old"), there("kept"), there("owned", ownerReferences=[{"kind": "CronJob"}])
    assert phases.leftovers([old, kept, owned], [there("kept"), there("new")]) == [old]


def test_a_changed_secret_rolls_the_pods_that_read_it() -> None:
    deployment = deployment_of(rendered("default"))
    names = ["mlflow-auth", "mlflow-database", "mlflow-store"]
    assert sorted(phases.secrets_of(deployment)) == names

    def stamp(**versions: str) -> Any:
        done = phases.completed(deployment, None, {f"mlflow-{k}": v for k, v in versions.items()})
        return done["spec"]["template"]["metadata"]["annotations"][phases.SECRETS_ANNOTATION]

    same = stamp(auth="u/1", database="u/2", store="u/3")
    assert stamp(auth="u/1", database="u/2", store="u/3", other="u/9") == same
    assert stamp(auth="u/1", database="u/2", store="u/4") != same
    assert phases.SECRETS_ANNOTATION not in deployment["spec"]["template"]["metadata"]["annotations"]


def test_postgres_and_store_are_not_restarted_for_what_they_read_once() -> None:
    sets = {m.name: m.object for m in rendered("default") if m.kind == "StatefulSet"}
    versions = {"mlflow-database": "u/1", "mlflow-store": "u/2"}
    for name in ("mlflow-postgres", "mlflow-store"):
        assert phases.secrets_of(sets[name])
        done = phases.completed(sets[name], None, versions)["spec"]["template"]["metadata"]
        assert phases.SECRETS_ANNOTATION not in done.get("annotations", {})


def test_a_secret_that_may_be_absent_is_read_again_and_again_and_rolls_nothing() -> None:
    deployment = deployment_of(rendered("default"))
    volumes = deployment["spec"]["template"]["spec"]["volumes"]
    assert {"secretName": "mlflow-auth-rotation", "optional": True} in [v.get("secret") for v in volumes]
    assert "mlflow-auth-rotation" not in phases.secrets_of(deployment)


def test_the_autoscalers_number_of_pods_stays() -> None:
    scaled = deployment_of(rendered("small"))
    assert "replicas" not in scaled["spec"]
    assert phases.completed(scaled, {"spec": {"replicas": 4}}, {})["spec"]["replicas"] == 4
    assert phases.completed(scaled, {"spec": {"replicas": 0}}, {})["spec"]["replicas"] == 1
    assert "replicas" not in phases.completed(scaled, None, {})["spec"]
    fixed = deployment_of(rendered("default"))
    assert phases.completed(fixed, {"spec": {"replicas": 4}}, {})["spec"]["replicas"] == 2


def test_secrets_that_somebody_must_bring() -> None:
    assert set(phases.made_by_bootstrap(rendered("default"))) == {
        "mlflow-auth",
        "mlflow-database",
        "mlflow-store",
    }
    assert set(phases.made_by_bootstrap(rendered("external"))) == set()
    (job,) = (m.object for m in rendered("external") if m.kind == "Job")
    assert phases.secrets_of(job) == {
        "db": {"username", "password"},
        "db-ca": {"ca.crt"},
        "s3": {"accessKeyId", "secretAccessKey"},
    }


def test_the_bootstraps_webhook_key_is_one_and_others_are_not() -> None:
    made = bootstrap.content({"fernet": 32})
    assert preflight.is_fernet_key(base64.b64encode(made.encode()).decode())
    for key in (b"", b"nofernet", made.encode()[:-4], b"\xff" * 44, b"a" * 43):
        assert not preflight.is_fernet_key(base64.b64encode(key).decode())


@pytest.mark.parametrize("case", CASES)
def test_the_smoke_test_runs_as_the_servers_do_and_asks_their_service(case: str) -> None:
    found = rendered(case)
    job = smoke.job(found, "mlflow")
    server = deployment_of(found)["spec"]["template"]["spec"]
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    for name in ("image", "imagePullPolicy", "securityContext"):
        assert container[name] == server["containers"][0][name]
    assert pod["securityContext"] == server["securityContext"]
    assert pod["automountServiceAccountToken"] is False
    # A quota that counts a resource refuses pods that do not name it.
    for part, named in server["containers"][0]["resources"].items():
        assert named.keys() <= container["resources"][part].keys()
    environment = {e["name"]: e for e in container["env"]}
    assert environment["MLFLOW_TRACKING_URI"]["value"] == "http://mlflow.mlflow.svc:5000"
    secret = "logins" if case == "external" else "mlflow-auth"
    for name, key in (("USERNAME", "username"), ("PASSWORD", "password")):
        reference = environment[f"MLFLOW_TRACKING_{name}"]["valueFrom"]["secretKeyRef"]
        assert reference == {"name": secret, "key": key}
    labels = job["spec"]["template"]["metadata"]["labels"]
    policies = {
        m.name: m.object["spec"]["podSelector"]["matchLabels"] for m in found if m.kind == "NetworkPolicy"
    }
    chosen = {name for name, selector in policies.items() if selector.items() <= labels.items()}
    assert chosen == {"mlflow-default-deny", "mlflow-smoke"}


def test_the_smoke_test_runs_where_servers_may() -> None:
    placed = {
        "nodeSelector": {"pool": "ml"},
        "tolerations": [{"key": "ml"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
    }
    chart = find_chart()
    values = chart.values(settings=[f"server.{name}={json.dumps(value)}" for name, value in placed.items()])
    pod = smoke.job(chart.render(values), "mlflow")["spec"]["template"]["spec"]
    assert {name: pod[name] for name in placed} == placed


def test_the_smoke_test_goes_where_its_release_is() -> None:
    chart = find_chart()
    found = chart.render(chart.values(settings=["service.port=80"]), Release("team", "apps"))
    job = smoke.job(found, "team")
    assert (job["metadata"]["name"], job["metadata"]["namespace"]) == ("team-smoke", "apps")
    environment = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert environment[0]["value"] == "http://team.apps.svc:80"


@pytest.mark.parametrize("case", CASES)
def test_what_is_external_is_tried_with_the_servers_own_settings(case: str) -> None:
    found, (profile, settings) = rendered(case), CASES[case]
    job = external.job(found, find_chart().values(profile=profile, settings=settings).data)
    if case not in ("external", "production"):
        assert job is None
        return
    assert job is not None
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {e["name"]: e for e in container["env"]}
    assert ("PGHOST" in environment) == (case == "external")  # CloudNativePG's database is the chart's
    assert environment["MLFLOW_ARTIFACTS_DESTINATION"]["value"].startswith("s3://")
    assert environment["MLPLATFORM_CONNECTIONS"]["value"] == {"external": "250", "production": "300"}[case]
    # Nothing that the deployment has still to make: not its Secrets, not its ConfigMap.
    made = {"mlflow-auth", "mlflow-server", "mlflow-postgres-app"}
    assert not made & set(phases.secrets_of(job))
    assert not [v for v in pod["volumes"] if "configMap" in v]
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
    assert pod["serviceAccountName"] == external.account(found)["metadata"]["name"]


def test_differences_do_not_count_the_api_servers_bookkeeping() -> None:
    live = {"metadata": {"name": "a", "resourceVersion": "1", "managedFields": []}, "data": {"k": "v"}}
    same = {"metadata": {"name": "a", "resourceVersion": "2"}, "data": {"k": "v"}, "status": {"x": 1}}
    other = {**same, "data": {"k": "w"}}
    assert Difference("ConfigMap", "a", live, same).change is Change.UNCHANGED
    assert Difference("ConfigMap", "a", live, same).text() == ""
    changed = Difference("ConfigMap", "a", live, other)
    assert changed.change is Change.CHANGED
    assert changed.text().splitlines()[2:] == [
        "@@ -1,4 +1,4 @@",
        " data:",
        "-  k: v",
        "+  k: w",
        " metadata:",
        "   name: a",
    ]
    assert Difference("ConfigMap", "a", None, other).change is Change.CREATED
    assert Difference("ConfigMap", "a", live, None).change is Change.DELETED


def test_the_files_of_manifests_are_current() -> None:
    made = files.files(find_chart())
    for name, text in made.items():
        assert (MANIFESTS / name).read_text("utf-8") == text, f"manifests/{name} is old: make manifests"
    production = {str(p.relative_to(MANIFESTS)) for p in (MANIFESTS / "production").iterdir()}
    assert production == {name for name in made if name.startswith("production/")}


def test_the_quickstart_has_its_namespace_first_and_no_custom_object() -> None:
    documents = list(yaml.safe_load_all((MANIFESTS / "quickstart.yaml").read_text("utf-8")))
    assert [d["kind"] for d in documents[:1]] == ["Namespace"]
    assert documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    groups = {d["apiVersion"].rpartition("/")[0] for d in documents}
    assert all("." not in g or g.endswith(".k8s.io") for g in groups)
    assert {d["metadata"]["namespace"] for d in documents[1:]} == {documents[0]["metadata"]["name"]}


def test_the_kustomization_names_the_other_files() -> None:
    folder = MANIFESTS / "production"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    assert set(kustomization["resources"]) == {p.name for p in folder.iterdir()} - {"kustomization.yaml"}
