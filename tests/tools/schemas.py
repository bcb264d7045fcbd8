"""JSON schemas for kubeconform, from Kubernetes' own OpenAPI document and from operators' CRDs.

kubeconform's usual schemas come from a web site; these come from the projects themselves, so they are of
exactly the wanted versions and need no network. A file a kind, complete in itself:
`<group>/<version>/<kind>.json`. As API servers do with `fieldValidation: Strict`, they refuse any
field that they do not know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.tools import go

Json = dict[str, Any]
_REF = "#/definitions/"
_METADATA = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
#: Types that OpenAPI calls strings and that may be numbers in a document (apimachinery's UnmarshalJSON).
_STRING_OR_NUMBER = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": ["string", "integer"],
    "io.k8s.apimachinery.pkg.api.resource.Quantity": ["string", "number"],
}
#: CustomResourceDefinitions of the kinds that the chart makes for other projects' operators.
_OPERATOR = "example/prometheus-operator-crd/monitoring.coreos.com"
_CRDS = (
    (go.GATEWAY_API, "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"),
    (go.PROMETHEUS_OPERATOR, f"{_OPERATOR}_servicemonitors.yaml"),
    (go.PROMETHEUS_OPERATOR, f"{_OPERATOR}_prometheusrules.yaml"),
    (go.CLOUDNATIVE_PG, "config/crd/bases/postgresql.cnpg.io_clusters.yaml"),
)


def write(folder: Path, kubernetes: str) -> str:
    """Write the schemas of a Kubernetes (`1.34.4`) and of operators' kinds; where kubeconform finds them."""
    document = go.module("k8s.io/kubernetes", f"v{kubernetes}") / "api/openapi-spec/swagger.json"
    definitions = json.loads(document.read_text("utf-8"))["definitions"]
    known = {name: strict(definition, name) for name, definition in definitions.items()}
    kinds = {name: d.get("x-kubernetes-group-version-kind", ()) for name, d in definitions.items()}
    for group, version, kind, schema in (*_built_in(known, kinds), *_custom(known)):
        # kubeconform takes `v1`, the whole apiVersion of the core group, for a group as well.
        target = folder / (group or version) / version / f"{kind.lower()}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(schema), "utf-8")
    return f"{folder}/{{{{ .Group }}}}/{{{{ .ResourceAPIVersion }}}}/{{{{ .ResourceKind }}}}.json"


def _built_in(
    known: Mapping[str, Json], kinds: Mapping[str, list[Json]]
) -> Iterator[tuple[str, str, str, Json]]:
    for name, named in kinds.items():
        for kind in named:
            schema = {"$ref": _REF + name, "definitions": {n: known[n] for n in _reached(known, name)}}
            yield kind["group"], kind["version"], kind["kind"], schema


def definitions() -> list[Path]:
    """The files of the operators' CustomResourceDefinitions, one kind each."""
    return [go.module(path, version) / file for (path, version), file in _CRDS]


def _custom(known: Mapping[str, Json]) -> Iterator[tuple[str, str, str, Json]]:
    for file in definitions():
        crd = yaml.load(file.read_text("utf-8"), Loader=yaml.CSafeLoader)["spec"]
        for served in crd["versions"]:
            schema = strict(served["schema"]["openAPIV3Schema"])
            # A CRD says nothing of `metadata`: the API server adds what it knows of any object.
            schema["properties"]["metadata"] = {"$ref": _REF + _METADATA}
            schema["definitions"] = {n: known[n] for n in _reached(known, _METADATA)}
            yield crd["group"], served["name"], crd["names"]["kind"], schema


def _reached(definitions: Mapping[str, Json], name: str) -> set[str]:
    """The definitions that one needs, itself among them."""
    found, todo = {name}, [name]
    while todo:
        refs = set(_refs(definitions[todo.pop()])) - found
        found |= refs
        todo.extend(refs)
    return found


def _refs(schema: Any) -> Iterator[str]:
    for key, value in schema.items() if isinstance(schema, dict) else enumerate(schema):
        if key == "$ref" and isinstance(value, str):
            yield value.removeprefix(_REF)
        elif isinstance(value, dict | list):
            yield from _refs(value)


def strict(schema: Any, name: str = "") -> Any:
    """An OpenAPI schema as a JSON schema that knows Kubernetes' extensions and refuses unknown fields."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if name in _STRING_OR_NUMBER:
        return {"type": _STRING_OR_NUMBER[name]}
    if schema.get("x-kubernetes-int-or-string"):
        return {
            "type": ["string", "integer"],
            **({"pattern": schema["pattern"]} if "pattern" in schema else {}),
        }
    result = {
        # Under `properties` a key is a field's name, not a keyword.
        key: {k: strict(v) for k, v in value.items()} if key == "properties" else strict(value)
        for key, value in schema.items()
        if key not in ("description", "default") and not key.startswith("x-kubernetes-")
    }
    if "properties" in result and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    return result
