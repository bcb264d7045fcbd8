"""CustomResourceDefinitions of the documents, made from the models; `make manifests` writes them.

kube-apiserver checks a document with them before it is kept: types, bounds, patterns, and, as CEL, most of
what the models check between fields (`model.rules`). What CEL cannot say, or only at a cost that the API
server refuses, the operator says in the document's condition `Stalled`.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import yaml

from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.rules import LIST_KEYS, RULES, Rule, key_rule
from mlflow_platform.model.schema import Schema, kind_schema

GROUP, VERSION = API_VERSION.split("/")
#: `kubectl get mlplatform` lists every kind.
CATEGORY = "mlplatform"
#: On documents whose object is deleted with them, until it is.
FINALIZER = f"{GROUP}/delete"
#: On a TrackingServer: the operator that serves it, `NAMESPACE/NAME`. Without it, every operator does.
OPERATOR = f"{GROUP}/operator"
_READY = '.status.conditions[?(@.type=="Ready")]'
#: Longest text of a condition: metav1.Condition allows 32,768 characters of message and 1,024 of reason.
MAX_MESSAGE, MAX_REASON = 32_768, 1_024
#: How many failed members the status of an ExperimentSet names.
MAX_FAILURES = 20
#: Characters that it keeps of what each says: with the document they must fit into etcd's 1.5 MB.
MAX_FAILURE = 2_000


def definition(kind: str) -> Schema:
    """The CustomResourceDefinition of a kind. Raises KeyError for an unknown one."""
    model = DOCUMENTS[kind]
    names = {
        "kind": kind,
        "listKind": f"{kind}List",
        "plural": model.plural,
        "singular": kind.lower(),
        "categories": [CATEGORY],
    }
    if model.short_names:
        names["shortNames"] = list(model.short_names)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{model.plural}.{GROUP}",
            "labels": {"app.kubernetes.io/part-of": "mlflow-platform"},
        },
        "spec": {
            "group": GROUP,
            "names": names,
            "scope": model.scope,
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": _schema(kind)},
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": list(_columns(kind)),
                }
            ],
        },
    }


def definitions() -> list[Schema]:
    """Those of all kinds, in the order of the reference page; a test holds that the operator knows each."""
    return [definition(kind) for kind in DOCUMENTS]


def files() -> dict[str, str]:
    """File name -> text, as `manifests/crds` holds them."""
    found = {f"{d['spec']['names']['plural']}.yaml": d for d in definitions()}
    return {name: _HEAD + yaml.safe_dump(d, sort_keys=False, width=110) for name, d in found.items()}


_HEAD = "# Made by `make manifests` from mlflow_platform.model; do not edit.\n"


def _schema(kind: str) -> Schema:
    model = DOCUMENTS[kind]
    spec = _structural(kind_schema(kind)["properties"]["spec"], kind, ("spec",))
    required = model.model_fields["spec"].is_required()
    if not required:
        spec["default"] = {}
    schema: Schema = {
        "type": "object",
        "description": inspect.getdoc(model),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": _status(kind),
        },
    }
    if required:
        schema["required"] = ["spec"]
    return _with_rules(schema, RULES.get((kind,), ()))


def _structural(node: Schema, kind: str, path: tuple[str, ...]) -> Schema:
    """A JSON Schema as a structural one: no `const`, no `patternProperties`, no `additionalProperties: false`
    (the API server prunes what it does not know, or refuses it where it is asked to)."""
    out: Schema = {
        k: v
        for k, v in node.items()
        if k
        not in ("const", "patternProperties", "propertyNames", "additionalProperties", "properties", "items")
    }
    rules = list(RULES.get((kind, *path), ()))
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "const" in node:
        out["enum"] = [node["const"]]
    if "properties" in node:
        out["properties"] = {
            name: _structural(field, kind, (*path, name)) for name, field in node["properties"].items()
        }
    if "items" in node:
        out["items"] = _structural(node["items"], kind, (*path, "[]"))
        keys = LIST_KEYS.get((kind, *path))
        if keys == ():
            out["x-kubernetes-list-type"] = "set"
        elif keys:
            out["x-kubernetes-list-type"] = "map"
            out["x-kubernetes-list-map-keys"] = list(keys)
        else:
            out["x-kubernetes-list-type"] = "atomic"
    values = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
    if isinstance(values, dict):
        out["additionalProperties"] = _structural(values, kind, (*path, "{}"))
        names, pattern = node.get("propertyNames", {}), next(iter(node.get("patternProperties", {})), None)
        rules = [key_rule(path, pattern, names.get("maxLength")), *rules]
    return _with_rules(out, rules)


def _with_rules(schema: Schema, rules: Any) -> Schema:
    if rules:
        schema["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
    return schema


def _validation(rule: Rule) -> Schema:
    found: Schema = {"rule": rule.cel, "message": rule.message}
    if rule.field:
        found["fieldPath"] = rule.field
    return found


def _status(kind: str) -> Schema:
    text = {"type": "string", "maxLength": MAX_MESSAGE}
    count = {"type": "integer", "format": "int64", "minimum": 0}
    condition = {
        "type": "object",
        "required": ["type", "status", "reason", "message", "lastTransitionTime"],
        "properties": {
            "type": {"type": "string", "maxLength": 316, "description": "Ready, Reconciling or Stalled."},
            "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
            "reason": {"type": "string", "minLength": 1, "maxLength": MAX_REASON, "description": "One word."},
            "message": {**text, "description": "What, and what to do."},
            "observedGeneration": {**count, "description": "The metadata.generation that it is about."},
            "lastTransitionTime": {"type": "string", "format": "date-time"},
        },
    }
    properties: Schema = {
        "observedGeneration": {**count, "description": "The metadata.generation that was last worked on."},
        "conditions": {
            "type": "array",
            "maxItems": 16,
            "items": condition,
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["type"],
        },
    }
    if kind == "ExperimentSet":
        failure = {
            "type": "object",
            "required": ["name", "message"],
            "properties": {"name": {"type": "string", "maxLength": 256}, "message": text},
        }
        properties["members"] = {**count, "description": "Experiments that the set makes."}
        properties["ready"] = {**count, "description": "Of these, how many are as declared."}
        properties["failures"] = {
            "type": "array",
            "maxItems": MAX_FAILURES,
            "items": failure,
            "x-kubernetes-list-type": "atomic",
            "description": f"The first {MAX_FAILURES} members that are not, and why.",
        }
    time = {"type": "string", "format": "date-time"}
    if _scheduled(kind):
        properties["cronJob"] = {"type": "string", "maxLength": 253, "description": "CronJob that runs it."}
        properties["lastRunTime"] = {**time, "description": "When a job last ended, well or not."}
        properties["lastSuccessfulTime"] = {**time, "description": "When a job last ended well."}
        properties["nextRunTime"] = {**time, "description": "When the next job begins."}
    if kind == "BackupSchedule":
        name = {"type": "string", "maxLength": 253}
        properties["drillCronJob"] = {**name, "description": "CronJob that tries a restore."}
        properties["lastDrillTime"] = {**time, "description": "When a drill last ended, well or not."}
        properties["lastSuccessfulDrillTime"] = {**time, "description": "When a drill last ended well."}
        properties["nextDrillTime"] = {**time, "description": "When the next drill begins."}
    if kind == "TrackingServer":
        properties["version"] = {"type": "string", "maxLength": 64, "description": "Of MLflow."}
        properties["declared"] = {**count, "description": "Objects that documents declare on it."}
        properties["owned"] = {**count, "description": "Objects on it that are this cluster's."}
        properties["stoppedPlan"] = {
            "type": "string",
            "maxLength": 12,
            "description": "Hash of the plan that the brake stopped.",
        }
    return {"type": "object", "description": "Written by the operator.", "properties": properties}


def _scheduled(kind: str) -> bool:
    """Whether documents of a kind are carried out by jobs at set times."""
    return "schedule" in kind_schema(kind)["properties"]["spec"]["properties"]


def _columns(kind: str) -> Iterator[Schema]:
    def column(name: str, path: str, type_: str = "string", *, wide: bool = False) -> Schema:
        found: Schema = {"name": name, "type": type_, "jsonPath": path}
        return {**found, "priority": 1} if wide else found

    if kind == "TrackingServer":
        yield column("URI", ".spec.trackingUri")
        yield column("Version", ".status.version")
        yield column("Owned", ".status.owned", "integer")
    elif _scheduled(kind):
        yield column("Server", ".spec.server")
        yield column("Schedule", ".spec.schedule")
        yield column("Last success", ".status.lastSuccessfulTime", "date")
    else:
        yield column("Server", ".spec.server")
        yield column("Deletion", ".spec.deletionPolicy", wide=True)
    if kind == "ExperimentSet":
        yield column("Members", ".status.members", "integer")
    yield column("Ready", f"{_READY}.status")
    yield column("Reason", f"{_READY}.reason")
    yield column("Message", f"{_READY}.message", wide=True)
    yield column("Age", ".metadata.creationTimestamp", "date")
