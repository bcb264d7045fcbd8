"""Checks values against `values.schema.json` and says what a person needs to mend them.

The part of JSON Schema that charts use: `type`, `enum`, `pattern`, bounds, `properties`,
`required`, `additionalProperties`, `items`. A keyword outside it is a mistake in the schema and
refused, so that no rule is silently not applied. Written here because a general validator says
"'replicaz' was unexpected" without the nearest name, and takes longer to import than we to render.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_platform.chart.values import Values
from mlflow_platform.errors import BadDocuments, Problem

#: JSON Schema's type names and Python's types; bool is no integer here, as in JSON.
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}
ANNOTATIONS = {"$schema", "$id", "title", "description", "examples", "default"}
RULES = {
    "type", "enum", "pattern", "minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems",
    "properties", "required", "additionalProperties", "items",
}  # fmt: skip
Path = tuple[str | int, ...]


def check(values: Values, schema: Mapping[str, Any]) -> None:
    """Raise `BadDocuments` with every value that the schema refuses; otherwise nothing."""
    problems = [
        Problem(f"{dotted(path)}: {what}", remedy, values.place(path))
        for path, what, remedy in violations(values.data, schema, ())
    ]
    if problems:
        raise BadDocuments(problems)


def dotted(path: Path) -> str:
    """`("a", "b", 0)` as `a.b[0]`."""
    text = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return text.removeprefix(".") or "values"


def violations(value: Any, schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str, str]]:
    """Each rule that is broken: path, what is wrong, what to do about it."""
    if unknown := set(schema) - RULES - ANNOTATIONS:
        raise ValueError(
            f"values.schema.json uses {sorted(unknown)} at {dotted(path)}, which is not supported"
        )
    wanted = schema.get("type")
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(is_of(value, name) for name in names):
            yield path, f"must be {' or '.join(names)}, found {shown(value)}", _type_remedy(value, names)
            return
    if "enum" in schema and value not in schema["enum"]:
        options = ", ".join("null" if e is None else str(e) for e in schema["enum"])
        yield path, f"{shown(value)} is not one of {options}", nearest(value, schema["enum"])
    if isinstance(value, str):
        yield from _string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _bounds(value, schema, path, "minimum", "maximum", "")
    elif isinstance(value, list):
        yield from _bounds(len(value), schema, path, "minItems", "maxItems", " items")
        for i, item in enumerate(value):
            yield from violations(item, schema.get("items", {}), (*path, i))
    elif isinstance(value, dict):
        yield from _object(value, schema, path)


def is_of(value: Any, name: str) -> bool:
    """Whether a value is of a JSON Schema type."""
    if isinstance(value, bool) and name in ("integer", "number"):
        return False
    return isinstance(value, TYPES[name])


def nearest(name: Any, names: Any) -> str:
    """`did you mean ...?`, or the empty string when nothing is near."""
    found = difflib.get_close_matches(str(name), [str(n) for n in names], n=1, cutoff=0.6)
    return f"did you mean {found[0]}?" if found else ""


def shown(value: Any) -> str:
    """A value in a message: short, and never the content of a long text."""
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list):
        return "a list"
    text = (
        {None: "null", True: "true", False: "false"}.get(value)
        if value is None or value is True or value is False
        else None
    )
    return text or (repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}...")


def _string(value: str, schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str, str]]:
    yield from _bounds(len(value), schema, path, "minLength", "maxLength", " characters")
    pattern = schema.get("pattern")
    if pattern is not None and not re.search(pattern, value):
        examples = " or ".join(str(e) for e in schema.get("examples", ()))
        remedy = f"for example {examples}" if examples else ""
        yield path, f"{shown(value)} does not match {pattern}", remedy


def _bounds(
    number: float, schema: Mapping[str, Any], path: Path, least: str, most: str, unit: str
) -> Iterator[tuple[Path, str, str]]:
    if least in schema and number < schema[least]:
        yield path, f"must be at least {schema[least]}{unit}, found {number}", ""
    if most in schema and number > schema[most]:
        yield path, f"must be at most {schema[most]}{unit}, found {number}", ""


def _object(value: dict[str, Any], schema: Mapping[str, Any], path: Path) -> Iterator[tuple[Path, str, str]]:
    known = schema.get("properties", {})
    other = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield (*path, name), "is required", ""
    for name, item in value.items():
        if name in known:
            yield from violations(item, known[name], (*path, name))
        elif other is False:
            hint = nearest(name, known) or f"known here: {', '.join(sorted(known))}"
            yield (*path, name), "no such value", hint
        elif isinstance(other, dict):
            yield from violations(item, other, (*path, name))


def _type_remedy(value: Any, names: list[str]) -> str:
    if "string" in names and isinstance(value, int | float):
        return f'quote it: "{value}"'
    if isinstance(value, str) and {"integer", "number", "boolean"} & set(names):
        return "write it without quotes"
    return ""
