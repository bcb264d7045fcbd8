"""Which objects are applied in which phase, and what is added to them. Pure."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_platform.chart import Manifest

COMPONENT = "app.kubernetes.io/component"
#: On pods that read Secrets: a digest of those Secrets' resourceVersions, so that a changed one rolls them.
SECRETS_ANNOTATION = "mlplatform.io/secrets"
#: Components that read their Secret only when they start, for what must exist from then on: the official
#: Postgres image when it makes its data, the store for the pair of keys that it adds to those it has. A
#: rotation changes both while they run, and a restart would only interrupt.
READ_ONCE = frozenset({"postgres", "store"})
#: Kinds a deployment waits for.
WORKLOADS = ("Job", "StatefulSet", "Deployment", "Cluster")
#: Everything else that belongs to the servers: a way in only leads to pods that are there.
_WITH_SERVERS = ("Deployment", "CronJob", "Ingress", "HTTPRoute", "ServiceMonitor")
#: What the chart may have made before, under other values or in another version, with no content of its
#: own: a deployment removes what is no longer rendered. Never Secrets, volumes or a CloudNativePG Cluster,
#: whose volumes go with it.
PRUNED = (
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    ("v1", "ServiceAccount"),
    ("v1", "ConfigMap"),
    ("rbac.authorization.k8s.io/v1", "Role"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
    ("v1", "Service"),
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("networking.k8s.io/v1", "Ingress"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "ServiceMonitor"),
    ("monitoring.coreos.com/v1", "PrometheusRule"),
)

#: What the chart makes outside of its namespace, with this label to find it by.
OUTSIDE = (
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io/v1", "RoleBinding"),
)
NAMESPACE_LABEL = "mlplatform.io/release-namespace"
OPERATOR = "operator"

#: An object among all of a namespace.
Key = tuple[str, str]


@dataclass(frozen=True)
class Phase:
    """Objects that are applied together and then waited for."""

    name: str
    objects: tuple[Mapping[str, Any], ...]


def phases(manifests: Sequence[Manifest]) -> list[Phase]:
    """The objects in phases, in order; a phase without objects is left out."""
    found: dict[str, list[Mapping[str, Any]]] = {
        name: []
        for name in (
            "rules and addresses",
            "secrets",
            "database and store",
            "schema",
            "servers",
            "scaling",
            OPERATOR,
        )
    }
    for manifest in manifests:
        found[_phase(manifest)].append(manifest.object)
    return [Phase(name, tuple(objects)) for name, objects in found.items() if objects]


def _phase(manifest: Manifest) -> str:
    component = manifest.object["metadata"].get("labels", {}).get(COMPONENT)
    if manifest.kind in _WITH_SERVERS:
        return OPERATOR if component == OPERATOR else "servers"
    if manifest.kind == "HorizontalPodAutoscaler":
        return "scaling"  # held until all servers are of the new version
    if manifest.kind in ("StatefulSet", "Cluster"):
        return "database and store"
    if manifest.kind == "Job":
        return "secrets" if component == "bootstrap" else "schema"
    return "rules and addresses"


def servers(manifests: Iterable[Manifest]) -> Mapping[str, Any]:
    """The servers' Deployment among a chart's objects."""
    (found,) = (
        m.object
        for m in manifests
        if m.kind == "Deployment" and m.object["metadata"]["labels"][COMPONENT] == "server"
    )
    return found


def has_operator(manifests: Iterable[Manifest]) -> bool:
    """Whether the documents' definitions are needed, too."""
    return any(m.object["metadata"].get("labels", {}).get(COMPONENT) == OPERATOR for m in manifests)


def namespace_object(name: str) -> dict[str, Any]:
    """A namespace that asks of every pod what the chart's pods are."""
    rules = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": rules}}


def labels(release: str, chart: str) -> dict[str, str]:
    """Those that every object of a release carries (the chart's partial `selector`)."""
    return {
        "app.kubernetes.io/name": chart,
        "app.kubernetes.io/instance": release,
        "app.kubernetes.io/managed-by": "mlplatform",
    }


def key(found: Mapping[str, Any]) -> Key:
    return str(found["kind"]), str(found["metadata"]["name"])


def leftovers(
    existing: Iterable[Mapping[str, Any]], wanted: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Objects that are there and no longer rendered; not those that belong to another one."""
    kept = {key(w) for w in wanted}
    return [e for e in existing if key(e) not in kept and not e["metadata"].get("ownerReferences")]


def secrets_of(found: Mapping[str, Any]) -> dict[str, set[str]]:
    """Secret -> keys, as the pods of an object read them when they start.

    Not those that may be absent: they are mounted to be read again and again, and change without a restart.
    """
    names: dict[str, set[str]] = {}
    pod = found.get("spec", {}).get("template", {}).get("spec", {})
    for container in [*pod.get("initContainers", []), *pod.get("containers", [])]:
        for variable in container.get("env", []):
            if reference := variable.get("valueFrom", {}).get("secretKeyRef"):
                names.setdefault(reference["name"], set()).add(reference["key"])
    for volume in pod.get("volumes", []):
        if (secret := volume.get("secret")) and not secret.get("optional"):
            names.setdefault(secret["secretName"], set()).update(i["key"] for i in secret.get("items", []))
    return names


def secrets_digest(found: Mapping[str, Any], versions: Mapping[str, str]) -> str:
    """Of the `versions` (name -> uid and resourceVersion) of the Secrets that an object's pods read; empty
    where a changed Secret is no reason to replace them."""
    names = sorted(secrets_of(found))
    if not names or found["metadata"].get("labels", {}).get(COMPONENT) in READ_ONCE:
        return ""
    text = "\n".join(f"{name}={versions.get(name, '')}" for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def made_by_bootstrap(manifests: Iterable[Manifest]) -> Iterator[str]:
    """Names of the Secrets that the bootstrap Job makes if they are absent."""
    import json

    for manifest in manifests:
        if manifest.kind == "Job" and manifest.object["metadata"]["labels"][COMPONENT] == "bootstrap":
            (container,) = manifest.object["spec"]["template"]["spec"]["containers"]
            yield from json.loads(container["args"][0])


def completed(
    wanted: Mapping[str, Any], live: Mapping[str, Any] | None, versions: Mapping[str, str]
) -> Mapping[str, Any]:
    """The object as it is applied: with the digest of its Secrets' `versions` (name -> uid and
    resourceVersion), and with the number of replicas that an autoscaler has chosen."""
    if wanted["kind"] not in ("Deployment", "StatefulSet"):
        return wanted
    result = copy.deepcopy(dict(wanted))
    if digest := secrets_digest(wanted, versions):
        annotations = result["spec"]["template"]["metadata"].setdefault("annotations", {})
        annotations[SECRETS_ANNOTATION] = digest
    if "replicas" not in result["spec"] and live is not None:
        # Server-side apply takes a field away that its owner no longer names: it would become 1.
        # None, after a restored dump, would stay none: an autoscaler leaves it alone.
        result["spec"]["replicas"] = live["spec"].get("replicas") or 1
    return result
