"""The chart mlflow-platform: golden objects a profile, what they have in common, what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mlflow_platform.chart import Manifest, Release, find_chart, reference
from mlflow_platform.cli.chart import render_command
from mlflow_platform.errors import BadInput
from mlflow_platform.model import DOCUMENTS, TrackingServer
from tests import golden_files

CHART = find_chart()
#: What each profile, or combination of choices, is rendered with.
CASES: dict[str, tuple[str, list[str]]] = {
    "default": ("", []),
    "local": ("local", []),
    "small": ("small", ["ingress.enabled=true", "ingress.host=mlflow.example.com"]),
    "production": (
        "production",
        [
            "store.bucket=artifacts",
            "gateway={enabled: true, host: mlflow.example.com, parentRefs: [{name: public}]}",
        ],
    ),
    "external": (
        "",
        [
            "database.mode=external",
            "database.external={host: db.example.com, caSecret: db-ca}",
            "database.existingSecret=db",
            "store.mode=external",
            "store.existingSecret=s3",
            "store.external.endpoint=http://minio:9000",
            "auth.existingSecret=logins",
            "image.pullSecrets=[{name: reg}]",
            "labels={team: ml}",
            "server.extraEnv=[{name: A, value: b}]",
            "server.tolerations=[{key: gpu}]",
            "server.extraVolumes=[{name: v, emptyDir: {}}]",
            "server.extraVolumeMounts=[{name: v, mountPath: /v}]",
            "ingress={enabled: true, host: mlflow.example.com, className: nginx}",
            "ingress.tls={secretName: t, clusterIssuer: le}",
        ],
    ),
    "operator": ("", ["operator.enabled=true", "operator.secretNamespaces=[team-a]"]),
}
COMMON = {
    ("NetworkPolicy", "mlflow-default-deny"),
    ("NetworkPolicy", "mlflow-server"),
    ("NetworkPolicy", "mlflow-migrate"),
    ("NetworkPolicy", "mlflow-smoke"),
    ("PodDisruptionBudget", "mlflow-server"),
    ("ServiceAccount", "mlflow-server"),
    ("ConfigMap", "mlflow-server"),
    ("Service", "mlflow"),
    ("Deployment", "mlflow-server"),
    ("Job", "mlflow-migrate-HASH"),
}
BOOTSTRAP = {(k, "mlflow-bootstrap") for k in ("NetworkPolicy", "ServiceAccount", "Role", "RoleBinding")} | {
    ("Job", "mlflow-bootstrap-HASH")
}
BUNDLED = {
    (kind, f"mlflow-{component}")
    for kind in ("NetworkPolicy", "ServiceAccount", "Service", "StatefulSet")
    for component in ("postgres", "store")
}
SCALED = ("HorizontalPodAutoscaler", "mlflow-server")
OPERATOR = {
    (kind, "mlflow-operator")
    for kind in ("NetworkPolicy", "PodDisruptionBudget", "ServiceAccount", "ConfigMap", "Role", "RoleBinding")
} | {
    ("Deployment", "mlflow-operator"),
    ("ClusterRole", "mlflow-mlflow-operator"),
    ("ClusterRoleBinding", "mlflow-mlflow-operator"),
    ("ClusterRole", "mlflow-mlflow-operator-secrets"),
    ("RoleBinding", "mlflow-mlflow-operator-secrets-team-a"),
}
SETS = {
    "default": COMMON | BOOTSTRAP | BUNDLED,
    "operator": COMMON | BOOTSTRAP | BUNDLED | OPERATOR,
    "local": (COMMON | BOOTSTRAP | BUNDLED) - {("PodDisruptionBudget", "mlflow-server")},
    "small": COMMON | BOOTSTRAP | BUNDLED | {SCALED, ("Ingress", "mlflow")},
    "production": COMMON
    | BOOTSTRAP
    | {
        SCALED,
        ("Cluster", "mlflow-postgres"),
        ("HTTPRoute", "mlflow"),
        ("ServiceMonitor", "mlflow-server"),
    },
    "external": COMMON | {("Ingress", "mlflow")},
}


def rendered(case: str, *more: str) -> list[Manifest]:
    profile, settings = CASES[case]
    return CHART.render(CHART.values(profile=profile, settings=[*settings, *more]))


def without_hash(manifest: Manifest) -> str:
    return f"{manifest.name.rsplit('-', 1)[0]}-HASH" if manifest.kind == "Job" else manifest.name


def pods(manifests: list[Manifest]) -> Iterator[Mapping[str, Any]]:
    """Every pod template."""
    for m in manifests:
        if m.kind in ("Deployment", "StatefulSet", "Job"):
            yield m.object["spec"]["template"]


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    golden_files.check(f"chart/{case}.yaml", "".join(m.text() for m in rendered(case)))


@pytest.mark.parametrize("case", CASES)
def test_exactly_these_objects(case: str) -> None:
    assert {(m.kind, without_hash(m)) for m in rendered(case)} == SETS[case]


@pytest.mark.parametrize("case", CASES)
def test_every_pod_is_as_pod_security_restricted_asks(case: str) -> None:
    templates = list(pods(rendered(case)))
    assert templates
    for template in templates:
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"] + spec.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert {"requests", "limits"} <= set(container["resources"])
            assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("case", CASES)
def test_only_the_bootstrap_job_and_the_operator_may_speak_to_the_api(case: str) -> None:
    for template in pods(rendered(case)):
        mounted = template["spec"].get("automountServiceAccountToken", True)
        component = template["metadata"]["labels"]["app.kubernetes.io/component"]
        assert mounted == (component in ("bootstrap", "operator"))


@pytest.mark.parametrize("case", CASES)
def test_selectors_and_services_find_their_pods(case: str) -> None:
    manifests = rendered(case)
    labels = [t["metadata"]["labels"] for t in pods(manifests)]
    for m in manifests:
        if m.kind == "Service":
            selector = m.object["spec"]["selector"]
        elif m.kind in ("PodDisruptionBudget", "Deployment", "StatefulSet"):
            selector = m.object["spec"]["selector"]["matchLabels"]
        elif m.kind == "NetworkPolicy":
            selector = m.object["spec"]["podSelector"]["matchLabels"]
        else:
            continue
        if m.name == "mlflow-smoke":
            continue  # its pod is made when a deployment is tried
        assert any(selector.items() <= found.items() for found in labels), (
            f"{m.kind} {m.name} selects nothing"
        )


@pytest.mark.parametrize("case", CASES)
def test_no_secret_stands_in_an_object(case: str) -> None:
    for m in rendered(case):
        assert m.kind != "Secret"
    for template in pods(rendered(case)):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "KEY", "PASSPHRASE")):
                    assert set(variable) == {"name", "valueFrom"}


def test_release_and_namespace_are_everywhere() -> None:
    manifests = CHART.render(CHART.values(profile="small"), Release("team", "apps"))
    for m in manifests:
        assert m.name == "team" or m.name.startswith("team-")
        assert m.object["metadata"]["namespace"] == "apps"
        assert m.object["metadata"]["labels"]["app.kubernetes.io/instance"] == "team"
    assert "mlflow.apps.svc" not in "".join(m.text() for m in manifests)


def allowed_hosts(manifests: list[Manifest]) -> list[str]:
    (deployment,) = (m for m in manifests if m.kind == "Deployment")
    environment = deployment.object["spec"]["template"]["spec"]["containers"][0]["env"]
    (value,) = (e["value"] for e in environment if e["name"] == "MLFLOW_SERVER_ALLOWED_HOSTS")
    return str(value).replace("$(POD_IP)", "10.1.2.3").split(",")


def test_mlflow_itself_accepts_every_way_in_and_no_other() -> None:
    ways = {
        "mlflow": True,
        "mlflow:5000": True,
        "mlflow.mlflow.svc.cluster.local:5000": True,
        "mlflow.mlflow.svc": True,
        "10.1.2.3:5000": True,
        "localhost:31234": True,
        "mlflow.example.com": True,
        "mlflow.example.com:443": True,
        "other.example.com": False,
        "10.1.2.4:5000": False,
        "mlflow.example.com.evil.org": False,
    }
    # In a process of its own: to import MLflow's server warns of much that is not ours.
    code = (
        "import json, sys; from mlflow.server.security_utils import is_allowed_host_header as check; "
        "hosts, asked = json.load(sys.stdin); print(json.dumps({a: check(hosts, a) for a in asked}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([allowed_hosts(rendered("small")), list(ways)]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ways


def test_a_changed_configuration_rolls_the_pods_and_repeats_no_job() -> None:
    def parts(*settings: str) -> tuple[str, str]:
        manifests = rendered("default", *settings)
        (deployment,) = (m.object for m in manifests if m.kind == "Deployment")
        (job,) = (m.name for m in manifests if m.kind == "Job" and "-migrate-" in m.name)
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"], job

    same, cache, image = parts(), parts("auth.cacheSeconds=30"), parts("image.tag=next")
    assert parts() == same
    assert cache[0] != same[0]
    assert cache[1] == same[1]
    assert image[1] != same[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["database.mode=external"], "database.external.host is empty"),
        (["database.mode=external", "database.external.host=h"], "database.existingSecret is empty"),
        (["store.mode=external"], "store.existingSecret is empty"),
        (
            ["store.mode=external", "store.external.credentials=identity", "store.existingSecret=x"],
            "store.existingSecret is set, but store.external.credentials is identity",
        ),
        (["ingress.enabled=true"], "ingress.host is empty"),
        (
            ["ingress.enabled=true", "ingress.host=h", "ingress.tls.clusterIssuer=i"],
            "ingress.tls.secretName is empty",
        ),
        (["gateway.enabled=true"], "gateway.host is empty"),
        (["gateway.enabled=true", "gateway.host=h"], "gateway.parentRefs is empty"),
        (
            ["server.autoscaling={enabled: true, minReplicas: 5, maxReplicas: 2}"],
            "server.autoscaling.minReplicas 5 is more than maxReplicas 2",
        ),
        (["server.drainSeconds=60"], "server.terminationGraceSeconds 60 must be more than"),
        (
            ["server.replicas=5"],
            "database.maxConnections 100 is too small: 6 server pods .* x 18 connections [+] 5 need 113",
        ),
    ],
)
def test_impossible_combinations_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=f"templates/checks.yaml.j2:[0-9]+:0: {message}"):
        rendered("default", *settings)


def test_the_connection_budget_counts_workspaces() -> None:
    assert rendered("default", "server.replicas=4")
    with pytest.raises(BadInput, match=r"5 server pods .* x 24 connections"):
        rendered("default", "server.replicas=4", "workspaces.enabled=true")


def described(schema: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, child in schema.get("properties", {}).items():
        yield f"{path}{name}", child
        yield from described(child, f"{path}{name}.")


def defaults(values: Mapping[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        yield f"{path}{name}"
        if isinstance(value, dict):
            yield from defaults(value, f"{path}{name}.")


def test_every_value_is_described_and_has_a_default() -> None:
    found = dict(described(CHART.schema))
    for path, schema in found.items():
        assert len(schema.get("description", "")) >= 8, f"{path} has no description"
        assert schema["description"].endswith("."), path
    assert {
        path for path in set(found) - set(defaults(CHART.values().data)) if ".resources." not in path
    } == set()


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs/reference/values.md"
    assert page.read_text() == reference.page(CHART), (
        "docs/reference/values.md is old: python -m mlflow_platform.chart.reference rewrites it"
    )


def run(*arguments: str) -> Any:
    return CliRunner().invoke(render_command, list(arguments))


def test_command_prints_what_the_library_makes() -> None:
    result = run("--profile", "local")
    assert result.exit_code == 0
    assert result.output == "".join(m.text() for m in rendered("local"))


def test_command_shows_one_template_and_names_the_others() -> None:
    for name in ("service", "service.yaml", "templates/service.yaml.j2"):
        assert run("--show-only", name).output.count("kind: ") == 1
    refused = run("--show-only", "nothing")
    assert isinstance(refused.exception, BadInput)
    assert "no object comes from nothing.yaml.j2" in str(refused.exception)


def test_command_writes_a_file_an_object(tmp_path: Path) -> None:
    result = run("--output-dir", str(tmp_path / "out"), "-n", "apps", "--set", "image.tag=x")
    files = sorted((tmp_path / "out").iterdir())
    assert result.output == f"{len(files)} objects written to {tmp_path / 'out'}\n"
    expected = CHART.render(CHART.values(settings=["image.tag=x"]), Release(namespace="apps"))
    assert [f.read_text() for f in files] == [m.text() for m in expected]


def test_the_schema_is_json_with_nothing_twice() -> None:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({k for k, _ in pairs}) == len(pairs)
        return dict(pairs)

    json.loads((CHART.folder / "values.schema.json").read_text(), object_pairs_hook=once)


def test_the_operator_may_touch_documents_and_read_single_secrets_and_nothing_else() -> None:
    found = rendered("operator")
    roles = {m.name: m.object["rules"] for m in found if m.kind in ("ClusterRole", "Role")}
    documents, status, server, namespaces, events = roles["mlflow-mlflow-operator"]
    plurals = sorted(model.plural for model in DOCUMENTS.values())
    assert sorted(documents["resources"]) == plurals
    assert sorted(status["resources"]) == [f"{p}/status" for p in plurals]
    assert (status["verbs"], events["verbs"], server["verbs"]) == (["patch"], ["create"], ["create"])
    assert "secrets" not in documents["resources"] + status["resources"] + namespaces["resources"]
    for name in ("mlflow-mlflow-operator-secrets", "mlflow-operator"):
        (secrets,) = (rule for rule in roles[name] if "secrets" in rule["resources"])
        assert secrets["verbs"] == ["get"]
    bound = {m.object["roleRef"]["name"] for m in found if m.kind == "ClusterRoleBinding"}
    assert bound == {"mlflow-mlflow-operator"}, "Secrets are bound namespace by namespace"
    (config,) = (m.object for m in found if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    server = yaml.safe_load(config["data"]["default-server.yaml"])
    assert TrackingServer.model_validate(server).spec.trackingUri == "http://mlflow.mlflow.svc:5000"
