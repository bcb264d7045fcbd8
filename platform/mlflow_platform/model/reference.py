"""The reference page of the documents, made from the models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.schema import Schema, inside, kind_schema, type_words

_HEAD = f"""# Documents

Made by `make docs` from `mlflow_platform.model`; do not edit.

Every document has `apiVersion: {API_VERSION}`, `kind`, `metadata` and `spec`; `status` is the operator's and
ignored when read. A field that is not known is a mistake. `mlplatform explain KIND` shows the same in a
terminal, `mlplatform schema` prints JSON Schema for editors.
"""


def page() -> str:
    """The page as Markdown: one table of fields a kind."""
    parts = [_HEAD, "## Metadata\n\nThe same for every kind.\n"]
    metadata = kind_schema(next(iter(DOCUMENTS)))["properties"]["metadata"]
    parts.append(_table(metadata, "metadata"))
    for kind, model in DOCUMENTS.items():
        schema = kind_schema(kind)
        scope = "cluster-scoped" if model.scope == "Cluster" else "namespaced"
        short = f", short {', '.join(f'`{name}`' for name in model.short_names)}" if model.short_names else ""
        parts.append(f"## {kind}\n\n{inspect.getdoc(model)}\n")
        parts.append(f"For kubectl: {scope}, `{model.plural}`{short}.\n")
        parts.append(_table(schema["properties"]["spec"], "spec"))
    return "\n".join(parts)


def rows(schema: Schema, path: str) -> Iterator[tuple[str, Schema, bool]]:
    """Every field below a schema: its dotted path, its schema, and whether it must be given.

    `[]` in a path stands for an item of a list, `<name>` for a name of a map.
    """
    required = schema.get("required", ())
    for name, field in schema.get("properties", {}).items():
        below = f"{path}.{name}"
        yield below, field, name in required
        within = inside(field)
        if within is not field and "properties" in within:
            below += "[]" if "items" in field else ".<name>"
        yield from rows(within, below)


def _table(schema: Schema, path: str) -> str:
    lines = ["| field | holds | default | |", "|---|---|---|---|"]
    for name, field, required in rows(schema, path):
        default = field.get("default")
        shown = "**required**" if required else "" if default is None else f"`{str(default).lower()}`"
        if isinstance(default, str):
            shown = f"`{default}`"
        lines.append(f"| `{name}` | {_cell(type_words(field))} | {shown} | {_cell(field['description'])} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
