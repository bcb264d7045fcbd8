"""What a namespace may declare on a tracking server. Pure.

The operator's own namespace may declare everything. Any other one may do what a single entry of the
TrackingServer's `allowed` permits as a whole, and nothing else. Users, workspaces and what jobs carry out are
never a tenant's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from mlflow_platform.errors import Problem
from mlflow_platform.model.base import Document
from mlflow_platform.model.role import MLflowRole
from mlflow_platform.model.tracking_server import Allowance, NamespaceSelector
from mlflow_platform.plan.objects import Desired, Key

#: Kinds that only the operator's namespace may declare.
OPERATORS_OWN = frozenset({"MLflowUser", "Workspace", "RetentionPolicy", "BackupSchedule"})
#: What a tenant's role may be about: objects with names that a prefix can fence in.
_FENCED = frozenset({"experiment", "registered_model", "prompt"})


def selects(selector: NamespaceSelector, labels: Mapping[str, str]) -> bool:
    """Whether a namespace with these labels is selected, as Kubernetes' label selectors are read
    (apimachinery: pkg/labels): NotIn also holds where the label is missing."""
    if any(labels.get(key) != value for key, value in selector.matchLabels.items()):
        return False
    for condition in selector.matchExpressions:
        there = condition.key in labels
        among = there and labels[condition.key] in condition.values
        held = {"In": among, "NotIn": not among, "Exists": there, "DoesNotExist": not there}
        if not held[condition.operator]:
            return False
    return True


def refusal(
    document: Document, desired: Sequence[Desired], allowed: Sequence[Allowance], labels: Mapping[str, str]
) -> Problem | None:
    """Why a namespace with these labels may not declare the document; None where it may."""
    namespace, server = document.metadata.namespace, document.spec.server
    if document.kind in OPERATORS_OWN:
        what = f"{document.kind} documents are allowed in the operator's namespace only, not in {namespace}"
        return Problem(what, "have the platform's administrators declare it")
    found = [a for a in allowed if selects(a.namespaceSelector, labels)]
    if not found:
        what = f"the namespace {namespace} may declare nothing on the server {server}"
        return Problem(what, f"have an entry added to spec.allowed of the TrackingServer {server}")
    reasons = [next(_against(document, desired, allowance), None) for allowance in found]
    if None in reasons:
        return None
    remedy = f"change the document, or have spec.allowed of the TrackingServer {server} extended"
    return Problem(f"the namespace {namespace} may not declare this: {reasons[0]}", remedy)


def reaches(kind: str, key: Key, allowed: Sequence[Allowance], labels: Mapping[str, str]) -> bool:
    """Whether a document of this kind in a namespace with these labels may be about an object. What says so
    on the server is only a tag: whoever may edit the object can write one that names their own document."""
    made = "Experiment" if kind == "ExperimentSet" else kind
    return key.kind == made and any(
        kind in a.kinds and next(_outside(kind, key, a), None) is None
        for a in allowed
        if selects(a.namespaceSelector, labels)
    )


def _against(document: Document, desired: Sequence[Desired], allowance: Allowance) -> Iterator[str]:
    if document.kind not in allowance.kinds:
        yield f"its kinds are {', '.join(allowance.kinds)}, not {document.kind}"
        return
    for item in desired:
        yield from _outside(document.kind, item.key, allowance)
    if isinstance(document, MLflowRole):
        yield from _permissions(document, allowance)
    for location in _locations(desired):
        if not location.startswith(tuple(allowance.artifactLocations)) or "/../" in f"{location}/":
            yield (
                f"{location!r} is not below {', '.join(allowance.artifactLocations)}"
                if allowance.artifactLocations
                else f"it may name no location of artifacts, such as {location!r}"
            )


def _outside(kind: str, key: Key, allowance: Allowance) -> Iterator[str]:
    if key.workspace not in allowance.workspaces:
        yield f"the workspace {key.workspace!r} is none of its own ({_list(allowance.workspaces)})"
    if kind == "MLflowRole":
        if key.name not in allowance.roles:
            yield f"the role {key.name!r} is none of its own ({_list(allowance.roles)})"
    elif not _fenced(key.name, allowance):
        yield f"the name {key.name!r} does not begin with {_prefixes(allowance)}"


def _permissions(document: MLflowRole, allowance: Allowance) -> Iterator[str]:
    for permission in document.spec.permissions:
        place = f"{permission.resourceType} {permission.resource!r}"
        if permission.resourceType not in _FENCED or permission.resource in ("*", ""):
            yield f"its roles may give permissions on single experiments, models and prompts, not on {place}"
        elif permission.resource.startswith("#") or not _fenced(permission.resource, allowance):
            names = f"names that begin with {_prefixes(allowance)}"
            yield f"its roles may give permissions on {names}, not on {place}"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) or "there are none"


def _fenced(name: str, allowance: Allowance) -> bool:
    return name.startswith(tuple(allowance.namePrefixes))


def _prefixes(allowance: Allowance) -> str:
    return " or ".join(repr(p) for p in allowance.namePrefixes) or "a prefix of its own (it has none)"


def _locations(desired: Sequence[Desired]) -> Iterator[str]:
    """Where a document says that artifacts are: MLflow reads them with its own rights on every bucket."""
    for item in desired:
        for path, value in item.fields.items():
            if path == ("artifactLocation",) or (len(path) == 3 and path[::2] == ("versions", "source")):
                yield str(value)
