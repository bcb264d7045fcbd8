"""The chart mlflow-platform: golden objects a profile, and what they have in common."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from mlflow_platform.chart import Manifest, Release, find_chart
from mlflow_platform.deploy import external, smoke
from mlflow_platform.deploy.phases import secrets_of
from mlflow_platform.errors import BadInput
from mlflow_platform.model import DOCUMENTS, TrackingServer, crd
from mlflow_platform.operator import process
from tests import golden_files

CHART = find_chart()
NIGHTLY = "{name: nightly, spec: {schedule: 0 2 * * *, rules: {runs: {keepLast: 9}}}}"
LOOK = "{name: look, spec: {schedule: '@weekly', suspend: true, dryRun: true, rules: {orphans: {}}}}"
_KEYS = "accessKeySecretRef: {name: s, key: id}, secretKeySecretRef: {name: s, key: secret}"
ARCHIVED = (
    "{name: kept, spec: {schedule: '@daily', rules: {traces: {olderThan: 9d}}, "
    f"archive: {{destination: 's3://archive/x', endpoint: 'https://s3.example.com', {_KEYS}}}}}}}"
)
BACKUP = (
    f"{{name: weekly, spec: {{schedule: '@weekly', destination: {{uri: 's3://backups/x', {_KEYS}}}, "
    "encryptionKeySecretRef: {name: s, key: key}, drill: {schedule: 0 5 * * 0}}}"
)
DRILLED = (
    "{name: weekly, spec: {schedule: '@weekly', suspend: true, destination: {uri: 's3://backups/x', "
    "accessKeySecretRef: {name: store, key: id}, secretKeySecretRef: {name: store, key: secret}}, "
    "drill: {schedule: 0 5 * * 0, databaseUriSecretRef: {name: scratch, key: uri}}}}"
)
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
            f"image.digest=sha256:{'0' * 64}",
            "labels={team: ml}",
            "annotations={example.com/owner: ml}",
            "server.extraEnv=[{name: A, value: b}]",
            "server.jobs={enabled: true, redis: {existingSecret: redis, port: 6380}}",
            "database.maxConnections=250",
            "auth.authorizationFunction=my_company.login:authenticate",
            "server.tolerations=[{key: gpu}]",
            "server.extraVolumes=[{name: v, emptyDir: {}}]",
            "server.extraVolumeMounts=[{name: v, mountPath: /v}]",
            "ingress={enabled: true, host: mlflow.example.com, className: nginx}",
            "ingress.tls={secretName: t, clusterIssuer: le}",
            f"retention.policies=[{NIGHTLY}, {LOOK}]",
            "retention.egress=[{ports: [{port: 9000}]}]",
            f"backup.schedules=[{BACKUP}]",
            "backup.egress=[{ports: [{port: 9001}]}]",
            "jobs.extraEnv=[{name: A, value: b}]",
        ],
    ),
    "operator": ("", ["operator.enabled=true", "operator.secretNamespaces=[team-a]"]),
}
COMMON = {
    ("NetworkPolicy", "mlflow-default-deny"),
    ("NetworkPolicy", "mlflow-server"),
    ("NetworkPolicy", "mlflow-migrate"),
    ("NetworkPolicy", "mlflow-smoke"),
    ("NetworkPolicy", "mlflow-rotate"),
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
    ("Service", "mlflow-operator"),
    ("NetworkPolicy", "mlflow-scheduled"),
    ("Deployment", "mlflow-operator"),
    ("ClusterRole", "mlflow-mlflow-operator-93fff73e"),
    ("ClusterRoleBinding", "mlflow-mlflow-operator-93fff73e"),
    ("ClusterRole", "mlflow-mlflow-operator-93fff73e-secrets"),
    ("RoleBinding", "mlflow-mlflow-operator-93fff73e-secrets-team-a"),
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
        ("NetworkPolicy", "mlflow-postgres"),
        ("HTTPRoute", "mlflow"),
        ("ServiceMonitor", "mlflow-server"),
        ("PrometheusRule", "mlflow-server"),
        ("ConfigMap", "mlflow-dashboard"),
    },
    "external": COMMON
    | {("Ingress", "mlflow"), ("Deployment", "mlflow-jobs"), ("NetworkPolicy", "mlflow-jobs")}
    | {("NetworkPolicy", "mlflow-scheduled")}
    | {(k, f"mlflow-retention-{name}") for k in ("ConfigMap", "CronJob") for name in ("nightly", "look")}
    | {("ConfigMap", "mlflow-backup-weekly"), ("CronJob", "mlflow-backup-weekly")}
    | {("CronJob", "mlflow-drill-weekly")},
}


@functools.cache
def rendered(case: str, *more: str) -> list[Manifest]:
    """The objects of a case with more settings; shared, so not to be changed."""
    profile, settings = CASES[case]
    return CHART.render(CHART.values(profile=profile, settings=[*settings, *more]))


def without_hash(manifest: Manifest) -> str:
    return f"{manifest.name.rsplit('-', 1)[0]}-HASH" if manifest.kind == "Job" else manifest.name


def pods(manifests: list[Manifest]) -> Iterator[Mapping[str, Any]]:
    """Every pod template."""
    for m in manifests:
        if m.kind in ("Deployment", "StatefulSet", "Job"):
            yield m.object["spec"]["template"]
        elif m.kind == "CronJob":
            yield m.object["spec"]["jobTemplate"]["spec"]["template"]
        elif (m.kind, m.name) == ("ConfigMap", "mlflow-operator"):
            yield job_template(m)["cronJob"]["spec"]["jobTemplate"]["spec"]["template"]


def job_template(config: Manifest) -> Any:
    """What the operator makes CronJobs from."""
    return yaml.safe_load(config.object["data"]["jobs.yaml"])


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
            # A drill's Postgres is in a pod of the platform's user, and has the one that its image knows.
            own = {"runAsUser": 999} if container.get("restartPolicy") == "Always" else {}
            assert container["securityContext"] == {
                **own,
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
        if m.name in ("mlflow-smoke", "mlflow-rotate") or "cnpg.io/cluster" in selector:
            continue  # their pods are made by a deployment's test, by a rotation, by CloudNativePG
        assert any(selector.items() <= found.items() for found in labels), (
            f"{m.kind} {m.name} selects nothing"
        )


def test_the_pods_of_cloudnative_pg_are_open_to_clients_peers_and_their_operator() -> None:
    """They bear the release's labels, so the policy that denies all selects them too."""
    policies = {m.name: m.object["spec"] for m in rendered("production") if m.kind == "NetworkPolicy"}
    (cluster,) = (m.object for m in rendered("production") if m.kind == "Cluster")
    inherited = cluster["spec"]["inheritedMetadata"]["labels"]
    assert policies["mlflow-default-deny"]["podSelector"]["matchLabels"].items() <= inherited.items()
    own = policies["mlflow-postgres"]
    assert own["podSelector"]["matchLabels"] == {"cnpg.io/cluster": cluster["metadata"]["name"]}
    clients, operator, metrics = own["ingress"]
    assert clients["from"][0]["podSelector"]["matchLabels"].items() <= inherited.items()
    assert operator["from"][0]["namespaceSelector"] == {}
    for rule, ports in ((clients, {5432, 8000}), (operator, {5432, 8000}), (metrics, {9187})):
        assert {p["port"] for p in rule["ports"]} == ports


def test_whatever_uses_the_store_may_go_where_its_login_comes_from() -> None:
    """Workload identity asks an address on the node; others are for the user to name."""
    metadata = {"to": [{"ipBlock": {"cidr": "169.254.169.254/32"}}]}
    ways = f"networkPolicy.serverEgress={json.dumps([metadata])}"
    objects = rendered("external", ways, "store.external.credentials=identity", "store.existingSecret=''")
    policies = {m.name: m.object["spec"] for m in objects if m.kind == "NetworkPolicy"}
    agent = {"ipBlock": {"cidr": "169.254.170.23/32"}}
    users = {f"mlflow-{component}" for component in ("server", "jobs", "migrate", "rotate", "scheduled")}
    for name, policy in policies.items():
        egress = policy.get("egress", [])
        assert any(agent in rule.get("to", ()) for rule in egress) == (name in users), name
        assert (metadata in egress) == (name in users), name
    # What is tried before anything is made goes the migration's ways.
    job = external.job(objects, CHART.values(settings=CASES["external"][1]).data)
    assert job is not None
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert policies["mlflow-migrate"]["podSelector"]["matchLabels"].items() <= labels.items()
    assert agent["ipBlock"]["cidr"] not in "".join(m.text() for m in rendered("external"))  # with keys


@pytest.mark.parametrize("case", CASES)
def test_no_secret_stands_in_an_object(case: str) -> None:
    for m in rendered(case):
        assert m.kind != "Secret"
    for template in pods(rendered(case)):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            for variable in container.get("env", []):
                if any(word in variable["name"] for word in ("PASSWORD", "SECRET", "KEY", "PASSPHRASE")):
                    assert set(variable) == {"name", "valueFrom"}


def test_two_releases_never_share_a_name_outside_of_their_namespaces() -> None:
    values = CHART.values(settings=["operator.enabled=true", "operator.secretNamespaces=[team-a]"])

    def outside(name: str, namespace: str) -> set[tuple[str, str]]:
        return {
            (m.kind, m.name)
            for m in CHART.render(values, Release(name, namespace))
            if m.object["metadata"].get("namespace") != namespace
        }

    assert len(outside("c", "a-b")) == 4
    assert not outside("c", "a-b") & outside("c-a", "b")


def test_each_release_has_an_operator_of_its_own() -> None:
    found = CHART.render(CHART.values(settings=["operator.enabled=true"]), Release("b", "a"))
    (role,) = (m.object for m in found if (m.kind, m.name) == ("Role", "b-operator"))
    (pod,) = (m.object for m in found if (m.kind, m.name) == ("Deployment", "b-operator"))
    (settings,) = (m.object for m in found if (m.kind, m.name) == ("ConfigMap", "b-operator"))
    arguments = pod["spec"]["template"]["spec"]["containers"][0]["args"]
    own = process.Settings(namespace="a", name=arguments[arguments.index("--name") + 1])
    assert [r["resourceNames"] for r in role["rules"] if "resourceNames" in r] == [[own.lease]]
    server = yaml.safe_load(settings["data"]["default-server.yaml"])
    assert server["metadata"]["annotations"] == {crd.OPERATOR: "a/b"}


#: Each workload that the chart runs: the values that are its own, and the component of its pods.
WORKLOADS = {
    "server": ("server",),
    "jobs": ("bootstrap", "migrate", "scheduled"),
    "database.bundled": ("postgres",),
    "store.bundled": ("store",),
    "operator": ("operator",),
}


@pytest.mark.parametrize("values", WORKLOADS)
def test_every_workload_is_placed_and_marked_as_its_values_say(values: str) -> None:
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    placement = {
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "affinity": affinity,
        "priorityClassName": "high",
    }
    marks = {"podLabels": {"team": "ml"}, "podAnnotations": {"sidecar.istio.io/inject": "false"}}
    settings = [f"{values}.{name}={json.dumps(value)}" for name, value in {**placement, **marks}.items()]
    found = {
        t["metadata"]["labels"]["app.kubernetes.io/component"]: t
        for t in pods(rendered("operator", *settings))
    }
    assert set(found) == {component for components in WORKLOADS.values() for component in components}
    for component, template in found.items():
        mine = component in WORKLOADS[values]
        assert {k: template["spec"].get(k) for k in placement} == (
            placement if mine else dict.fromkeys(placement)
        )
        assert (template["metadata"]["labels"].get("team") == "ml") == mine
        annotations = template["metadata"].get("annotations", {})
        assert ("sidecar.istio.io/inject" in annotations) == mine


@pytest.mark.parametrize("values", ["server", "jobs"])
def test_environment_and_volumes_reach_every_container_that_asks_the_database(values: str) -> None:
    """A client certificate for the database is a volume and some of libpq's variables."""
    extra = {
        "extraEnv": [{"name": "PGSSLCERT", "value": "/client/tls.crt"}],
        "extraVolumes": [{"name": "client", "secret": {"secretName": "client"}}],
        "extraVolumeMounts": [{"name": "client", "mountPath": "/client"}],
    }
    settings = [f"{values}.{name}={json.dumps(value)}" for name, value in extra.items()]
    component = {"server": "server", "jobs": "migrate"}[values]
    for template in pods(rendered("default", *settings)):
        spec, mine = (
            template["spec"],
            template["metadata"]["labels"]["app.kubernetes.io/component"] == component,
        )
        assert (extra["extraVolumes"][0] in spec.get("volumes", [])) == mine
        for container in spec["containers"] + spec.get("initContainers", []):
            assert (extra["extraEnv"][0] in container.get("env", [])) == mine
            assert (extra["extraVolumeMounts"][0] in container.get("volumeMounts", [])) == mine


def test_common_labels_annotations_and_the_digest_are_everywhere() -> None:
    manifests = rendered("external", "operator={enabled: true, secretNamespaces: [team-a]}")
    for m in manifests:
        assert m.object["metadata"]["labels"]["team"] == "ml"
        assert m.object["metadata"]["annotations"]["example.com/owner"] == "ml"
    (ingress,) = (m.object for m in manifests if m.kind == "Ingress")
    assert ingress["metadata"]["annotations"]["cert-manager.io/cluster-issuer"] == "le"
    for template in pods(manifests):
        others = [c for c in template["spec"].get("initContainers", []) if c["name"] != "postgres"]
        for container in template["spec"]["containers"] + others:
            assert container["image"] == f"mlflow-platform:3.17.2@sha256:{'0' * 64}"


@pytest.mark.parametrize("case", CASES)
def test_every_container_says_what_it_needs_of_cpu_memory_and_disk(case: str) -> None:
    for template in pods(rendered(case)):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}
            assert set(container["resources"]["limits"]) == {"memory", "ephemeral-storage"}


def test_existing_secrets_are_used_wherever_a_secret_is_read() -> None:
    """Nothing makes a Secret then, and none but those that were named is read."""
    named = {"auth.existingSecret": "a", "database.existingSecret": "d", "store.existingSecret": "s"}
    manifests = rendered("default", *(f"{k}={v}" for k, v in named.items()))
    assert not any("bootstrap" in m.name for m in manifests)
    read = {name for m in manifests for name in secrets_of(m.object)}
    assert read == set(named.values())


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


def test_jobs_run_in_one_pod_and_are_taken_by_all() -> None:
    def environment(deployment: Mapping[str, Any]) -> dict[str, Any]:
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        return {e["name"]: e.get("value", e.get("valueFrom")) for e in container["env"]}

    found = {m.name: m.object for m in rendered("external") if m.kind == "Deployment"}
    jobs, server = found["mlflow-jobs"], found["mlflow-server"]
    assert jobs["spec"]["replicas"] == 1
    assert jobs["spec"]["strategy"] == {"type": "Recreate"}
    for deployment in (jobs, server):
        variables = environment(deployment)
        assert variables["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "true"
        url = {"secretKeyRef": {"name": "redis", "key": "url"}}
        assert variables["MLFLOW_SERVER_JOB_HUEY_REDIS_URL"] == url
    # A job speaks to its own server by the address that MLflow makes of --host.
    assert "0.0.0.0:*" in environment(jobs)["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    (service,) = (m.object for m in rendered("external") if m.kind == "Service")
    assert not service["spec"]["selector"].items() <= jobs["spec"]["template"]["metadata"]["labels"].items()
    for name in ("mlflow-jobs", "mlflow-server"):
        (policy,) = (m.object for m in rendered("external") if (m.kind, m.name) == ("NetworkPolicy", name))
        assert {"ports": [{"port": 6380, "protocol": "TCP"}]} in policy["spec"]["egress"]
        assert ("ingress" in policy["spec"]) == (name == "mlflow-server")
    smoke_test = smoke.job(rendered("external"), "mlflow")
    assert smoke_test["metadata"]["labels"]["app.kubernetes.io/component"] == "smoke"
    off = next(m.object for m in rendered("default") if m.kind == "Deployment")
    assert environment(off)["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"


def test_another_function_says_who_asks() -> None:
    for case, function in (
        ("default", "mlflow.server.auth:authenticate_request_basic_auth"),
        ("external", "my_company.login:authenticate"),
    ):
        (config,) = (m.object for m in rendered(case) if "auth.ini" in m.object.get("data", {}))
        assert f"authorization_function = {function}\n" in config["data"]["auth.ini"]
    with pytest.raises(BadInput, match=r"auth\.authorizationFunction"):
        rendered("default", "auth.authorizationFunction=no function")


def test_the_operator_may_touch_documents_and_read_single_secrets_and_nothing_else() -> None:
    found = rendered("operator")
    roles = {m.name: m.object["rules"] for m in found if m.kind in ("ClusterRole", "Role")}
    documents, status, server, namespaces, events = roles["mlflow-mlflow-operator-93fff73e"]
    plurals = sorted(DOCUMENTS[kind].plural for kind in DOCUMENTS)
    assert sorted(documents["resources"]) == plurals
    assert sorted(status["resources"]) == [f"{p}/status" for p in plurals]
    assert (status["verbs"], events["verbs"], server["verbs"]) == (["patch"], ["create"], ["create"])
    assert "secrets" not in documents["resources"] + status["resources"] + namespaces["resources"]
    assert roles["mlflow-operator"][3:] == [
        {"apiGroups": ["batch"], "resources": ["cronjobs"], "verbs": ["list", "create", "update", "delete"]},
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list", "create", "update", "delete"]},
    ]
    for name in ("mlflow-mlflow-operator-93fff73e-secrets", "mlflow-operator"):
        (secrets,) = (rule for rule in roles[name] if "secrets" in rule["resources"])
        assert secrets["verbs"] == ["get"]
    bound = {m.object["roleRef"]["name"] for m in found if m.kind == "ClusterRoleBinding"}
    assert bound == {"mlflow-mlflow-operator-93fff73e"}, "Secrets are bound namespace by namespace"
    (config,) = (m.object for m in found if (m.kind, m.name) == ("ConfigMap", "mlflow-operator"))
    server = yaml.safe_load(config["data"]["default-server.yaml"])
    assert TrackingServer.model_validate(server).spec.trackingUri == "http://mlflow.mlflow.svc:5000"
