"""What can be known before the first write: the cluster's kinds, Secrets, storage, quotas."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Manifest
from mlflow_platform.deploy import quota
from mlflow_platform.deploy.phases import made_by_bootstrap, secrets_of
from mlflow_platform.errors import BadDocuments, Problem, Rejected

#: Who brings a kind that Kubernetes itself does not have, and what does without it.
PROVIDERS = {
    "Cluster": ("the CloudNativePG operator", "database.mode=bundled or external"),
    "HTTPRoute": ("the Gateway API", "gateway.enabled=false"),
    "ServiceMonitor": ("the Prometheus operator", "server.metrics.serviceMonitor=false"),
    "PrometheusRule": ("the Prometheus operator", "server.metrics.prometheusRule=false"),
}
_DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"


def check(cluster: Cluster, manifests: Sequence[Manifest], namespace: str) -> None:
    """`BadDocuments` with everything that is missing."""
    problems = [*_kinds(cluster, manifests), *_secrets(cluster, manifests, namespace)]
    problems += [*_storage(cluster, manifests), *_quota(cluster, manifests, namespace)]
    if problems:
        raise BadDocuments(problems)


def _kinds(cluster: Cluster, manifests: Sequence[Manifest]) -> list[Problem]:
    unknown = {
        (m.object["apiVersion"], m.kind)
        for m in manifests
        if cluster.resource(m.object["apiVersion"], m.kind) is None
    }
    problems = []
    for version, kind in sorted(unknown):
        provider, setting = PROVIDERS.get(kind, ("nobody", "another Kubernetes"))
        problems.append(
            Problem(
                f"the cluster knows no {kind} ({version})",
                f"it comes with {provider}; do without it: {setting}",
            )
        )
    return problems


def _secrets(cluster: Cluster, manifests: Sequence[Manifest], namespace: str) -> list[Problem]:
    """Secrets that the values name must be there, with their keys; of no value is anything said."""
    made = set(made_by_bootstrap(manifests))
    made |= {f"{m.name}-app" for m in manifests if m.kind == "Cluster"}  # CloudNativePG makes it
    wanted: dict[str, set[str]] = {}
    for manifest in manifests:
        for name, keys in secrets_of(manifest.object).items():
            wanted.setdefault(name, set()).update(keys)
    problems = []
    for name in sorted(set(wanted) - made):
        needed = sorted(wanted[name])
        found = cluster.get("v1", "Secret", namespace, name)
        remedy = f"kubectl -n {namespace} create secret generic {name} " + " ".join(
            f"--from-file={key}=FILE" for key in needed
        )
        if found is None:
            problems.append(Problem(f"there is no Secret {name} in namespace {namespace}", remedy))
        elif missing := sorted(set(needed) - set(found.get("data", {}))):
            problems.append(Problem(f"Secret {name} has no key {', '.join(missing)}", "add what is missing"))
        elif "webhookKey" in needed and not is_fernet_key(found["data"]["webhookKey"]):
            # MLflow could not even be imported with it.
            make = "python -c 'import base64, os; print(base64.urlsafe_b64encode(os.urandom(32)).decode())'"
            problems.append(Problem(f"Secret {name}: webhookKey is no Fernet key", f"make one: {make}"))
    return problems


def is_fernet_key(encoded: str) -> bool:
    """Whether a Secret's value, in base64 as Kubernetes has it, is 32 bytes in URL-safe base64 (the form of
    MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, see cryptography.fernet)."""
    try:
        return len(base64.urlsafe_b64decode(base64.b64decode(encoded))) == 32
    except ValueError:
        return False


def _storage(cluster: Cluster, manifests: Sequence[Manifest]) -> list[Problem]:
    named: set[str] = set()
    for manifest in manifests:
        for claim in manifest.object.get("spec", {}).get("volumeClaimTemplates", []):
            named.add(claim["spec"].get("storageClassName", ""))
    if not named:
        return []
    try:
        found = cluster.find("storage.k8s.io/v1", "StorageClass", "")
    except Rejected as error:
        if error.code != "403":
            raise
        return []  # a login for the namespace alone: the volumes will tell
    classes = {
        c["metadata"]["name"]: c["metadata"].get("annotations", {}).get(_DEFAULT_CLASS) == "true"
        for c in found
    }
    problems = []
    if "" in named and not any(classes.values()):
        problems.append(
            Problem(
                "the cluster has no default StorageClass",
                f"name one in database.bundled.storage.className and store.bundled.storage.className: "
                f"{', '.join(sorted(classes)) or 'there is none'}",
            )
        )
    problems += [
        Problem(f"there is no StorageClass {name}", f"there are: {', '.join(sorted(classes)) or 'none'}")
        for name in sorted(named - {""} - set(classes))
    ]
    return problems


def _quota(cluster: Cluster, manifests: Sequence[Manifest], namespace: str) -> list[Problem]:
    try:
        quotas = cluster.find("v1", "ResourceQuota", namespace)
        ranges = cluster.find("v1", "LimitRange", namespace)
        if not quotas and not ranges:
            return []
        labels = {
            k: v
            for k, v in manifests[0].object["metadata"]["labels"].items()
            if k in ("app.kubernetes.io/name", "app.kubernetes.io/instance")
        }
        own = cluster.find("v1", "Pod", namespace, labels)
        own += cluster.find("v1", "PersistentVolumeClaim", namespace, labels)
    except Rejected as error:
        if error.code != "403":
            raise
        return []  # a login that may not look: the controllers' events will tell
    return quota.check([m.object for m in manifests], own, quotas, ranges)
