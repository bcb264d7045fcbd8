"""JSON Schema of the kinds: what editors, `explain`, the reference page and messages read."""

from __future__ import annotations

from functools import cache
from typing import Any

from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION

Schema = dict[str, Any]


@cache
def kind_schema(kind: str) -> Schema:
    """The JSON Schema of a kind with every reference replaced by what it refers to.

    `| None` is left out: a field that may be null is one that may be absent. Raises KeyError for an
    unknown kind.
    """
    schema = DOCUMENTS[kind].model_json_schema()
    inlined: Schema = _inline(schema, schema.get("$defs", {}))
    inlined["required"] = ["apiVersion", "kind", *inlined.get("required", [])]
    inlined["properties"]["apiVersion"] = {
        "const": API_VERSION,
        "type": "string",
        "description": "Version of this schema.",
    }
    inlined["properties"]["kind"]["description"] = "Kind of the document."
    metadata = inlined["properties"]["metadata"]
    metadata["required"] = ["name"]
    return inlined


def _inline(node: Any, definitions: Schema) -> Any:
    if isinstance(node, list):
        return [_inline(n, definitions) for n in node]
    if not isinstance(node, dict):
        return node
    out = {k: v for k, v in node.items() if k not in ("$defs", "title", "$ref", "anyOf", "default")}
    if "$ref" in node:
        found = definitions[node["$ref"].rsplit("/", 1)[1]]
        return {**_inline(found, definitions), **_inline(out, definitions)}
    if "anyOf" in node:
        some = [n for n in node["anyOf"] if n.get("type") != "null"]
        if len(some) == 1:
            return {**_inline(some[0], definitions), **_inline(out, definitions)}
        out["anyOf"] = some
    if "properties" in out:  # a field may be called `default` or `title`
        out["properties"] = {k: _inline(v, definitions) for k, v in out["properties"].items()}
        out |= {k: _inline(v, definitions) for k, v in out.items() if k != "properties"}
    else:
        out = {k: _inline(v, definitions) for k, v in out.items()}
    if "patternProperties" in out:
        out["additionalProperties"] = False
    if node.get("default") not in (None, {}, []):
        out["default"] = node["default"]
    return out


def at(schema: Schema, path: tuple[str | int, ...]) -> Schema | None:
    """The schema of the field at `path`, None where there is no such field.

    An index, or `*`, goes into the items of a list or the values of a map.
    """
    here: Schema | None = schema
    for step in path:
        if here is None:
            return None
        if "properties" in here:
            here = here["properties"].get(step)
        elif "items" in here and (isinstance(step, int) or step == "*"):
            here = here["items"]
        else:
            here = values(here)
    return here


def values(schema: Schema) -> Schema | None:
    """The schema of a map's values; None for what is no map."""
    if "patternProperties" in schema:
        found: Schema = next(iter(schema["patternProperties"].values()))
        return found
    every = schema.get("additionalProperties")
    return every if isinstance(every, dict) else None


def inside(schema: Schema) -> Schema:
    """The object in the lists and maps that hold it; the schema itself where it is neither."""
    found = schema.get("items") or ({} if "properties" in schema else values(schema)) or {}
    return inside(found) if found else schema


def any_kind() -> Schema:
    """The JSON Schema of a document of any kind: the rules of its `kind` apply to it."""
    rules = [
        {"if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]}, "then": kind_schema(kind)}
        for kind in DOCUMENTS
    ]
    return {
        "type": "object",
        "required": ["apiVersion", "kind"],
        "properties": {"apiVersion": {"const": API_VERSION}, "kind": {"enum": list(DOCUMENTS)}},
        "allOf": rules,
    }


def type_words(schema: Schema) -> str:
    """What a field holds, in words: `text, at most 256 characters`."""
    match schema.get("type"):
        case "array":
            return f"list of {_plural(schema['items'])}{_at_most(schema, 'maxItems')}"
        case "object" if "properties" not in schema:
            inner = values(schema)
            return (
                f"map of names to {_plural(inner)}{_at_most(schema, 'maxProperties')}" if inner else "mapping"
            )
        case "object":
            return "mapping"
        case "integer" | "number":
            low, high = schema.get("minimum"), schema.get("maximum")
            return f"number, {low} to {high}" if high is not None else "number"
        case "boolean":
            return "true or false"
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    most = schema.get("maxLength")
    return f"text, at most {most:,} characters" if most else "text"


def _plural(schema: Schema | None) -> str:
    if schema is None or "properties" in schema:
        return "mappings"
    if "enum" in schema:
        return type_words(schema)
    words = {"string": "texts", "object": "maps", "array": "lists", "integer": "numbers"}
    kind = schema.get("type", "string")
    if kind == "array":
        return f"lists of {_plural(schema['items'])}"
    return words.get(kind, "values")


def _at_most(schema: Schema, key: str) -> str:
    return f", at most {schema[key]:,}" if key in schema else ""


def fields(schema: Schema | None) -> list[str]:
    """Names of the fields of an object."""
    return list((schema or {}).get("properties", {}))
