"""pydantic's errors in plain English, with the place of each and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.nodes import Node

from mlflow_platform.config.composer import Ambiguous, Places, Step, meaning, raw
from mlflow_platform.config.mending import second_look
from mlflow_platform.errors import Problem
from mlflow_platform.model import DOCUMENTS, Document
from mlflow_platform.model.base import FIELDS_ALONE, PATTERNS, Mistake, dotted
from mlflow_platform.model.nearest import suggestion
from mlflow_platform.model.schema import Schema, at, fields, kind_schema

_BOUNDS = {
    "greater_than_equal": ("ge", "must be at least"),
    "less_than_equal": ("le", "must be at most"),
    "greater_than": ("gt", "must be more than"),
    "less_than": ("lt", "must be less than"),
}
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def problems_of(
    error: ValidationError, value: Any, kind: str, root: Node, places: Places
) -> tuple[list[Problem], Document | None]:
    """What is wrong with the document `value` of a kind, and the document itself with what could be mended.

    pydantic looks at what lies between fields only when each of them is right; the rest is found by a
    second look.
    """
    errors = error.errors(include_url=False)
    if errors[0]["type"] == "mistakes":
        problems = list(_located(errors[0].get("ctx", {})["mistakes"], root, places))
        return problems, DOCUMENTS[kind].model_validate(value, context=FIELDS_ALONE)
    more, mistakes, document = second_look(kind, value, root, errors)
    problems = list(_translated([*errors, *more], kind, root, places))
    return [*problems, *_located(mistakes, root, places)], document


def _located(mistakes: Iterable[Mistake], root: Node, places: Places) -> Iterator[Problem]:
    for mistake in mistakes:
        yield Problem(mistake.what, mistake.remedy, places.find(root, mistake.path))


def _translated(errors: list[ErrorDetails], kind: str, root: Node, places: Places) -> Iterator[Problem]:
    schema = kind_schema(kind)
    for found in errors:
        path: tuple[Step, ...] = found["loc"]
        context = found.get("ctx", {})
        of_key = bool(path) and path[-1] == "[key]"
        path = path[:-1] if of_key else path
        of_key = of_key or found["type"] == "extra_forbidden"
        what, remedy = _words(found["type"], path, found["input"], context, schema, root, of_key)
        yield Problem(what, remedy, places.find(root, path, key=of_key))


def _words(
    type_: str,
    path: tuple[Step, ...],
    value: Any,
    context: dict[str, Any],
    schema: Schema,
    root: Node,
    key: bool,
) -> tuple[str, str]:
    name = dotted(path)
    subject = f"the name {name}" if key else name
    here = at(schema, path) or {}
    match type_:
        case "mistake":
            return f"{name}: {context['what']}", str(context["remedy"])
        case "missing":
            return f"{name} is missing", f"add it: {_first(here.get('description', 'it is required'))}"
        case "extra_forbidden":
            return f"unknown field {name}", suggestion(str(path[-1]), fields(at(schema, path[:-1])))
        case "literal_error":
            valid = [str(v) for v in here.get("enum", [here.get("const", "")])]
            written = _written(root, path, value)
            return f"{name} cannot be {written}", f"{suggestion(written, valid, limit=40)}"
        case "string_too_long" if type(value) is str:
            most = context["max_length"]
            return f"{subject} has {len(value)} characters; at most {most} are possible", "shorten it"
        case "string_too_short":
            return (
                f"{subject} is too short: {_count(context['min_length'], 'character')} or more",
                "write more",
            )
        case "string_pattern_mismatch":
            return f"{subject}: {_shown(value)} is not possible", PATTERNS.get(
                context["pattern"], context["pattern"]
            )
        case "too_long":
            most, actual = context["max_length"], context["actual_length"]
            return f"{name} has {actual} entries; at most {most} are possible", "split the document"
        case "too_short":
            return f"{name} needs {_count(context['min_length'], 'entry')} or more", "add one"
    if type_ in _BOUNDS:
        bound, words = _BOUNDS[type_]
        return f"{name} {words} {context[bound]}, not {value}", "correct the number"
    if type_ in _WANTED and isinstance(value, str) and str(path[-1]).lower().endswith("secretref"):
        return f"{subject} must be a mapping, not a text", "write name: and key:, of the Secret it is in"
    if type_ in _WANTED:
        return _wrong_type(_WANTED[type_], subject, value, _written(root, path, value))
    return f"{name}: {context.get('what', 'this value is not possible')}", str(context.get("remedy", ""))


def _wrong_type(wanted: str, subject: str, value: Any, written: str) -> tuple[str, str]:
    if value is None:
        remedy = (
            'write "" for an empty text, or remove the field' if wanted == "text" else "fill it, or remove it"
        )
        return f"{subject} must be {wanted}, but it is empty", remedy
    if wanted == "text" and isinstance(value, bool | int | float | Ambiguous):
        return (
            f"{subject} must be text, but {written} without quotes is {meaning(value)} in YAML",
            f'write "{written}"',
        )
    if isinstance(value, str):
        quoted = wanted != "a list" and wanted != "a mapping"
        remedy = f"write it without quotes, as {wanted}" if quoted else f"write {wanted} under it"
        return f"{subject} must be {wanted}, not the text {_shown(value)}", remedy
    if isinstance(value, dict | list):
        return f"{subject} must be {wanted}, not {meaning(value)}", f"write {wanted}"
    return f"{subject} must be {wanted}, not {written}", f"write {wanted}"


def _written(root: Node, path: tuple[Step, ...], value: Any) -> str:
    """A value as the file has it (`0755`, not 493), cut to a readable length."""
    node = raw(root, path)
    return _cut(str(node.value) if node is not None else str(value))


def _shown(value: Any) -> str:
    return repr(_cut(str(value)))


def _cut(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def _first(text: str) -> str:
    """The first sentence of a description."""
    return text.split(". ")[0].rstrip(".")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun.replace('entry', 'entrie')}s"
