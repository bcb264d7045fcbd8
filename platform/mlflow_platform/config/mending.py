"""A second look at a document some of whose fields are wrong, so that these hide nothing.

pydantic looks at what lies between fields only when each of them is right. So the wrong ones are replaced by
stand-ins that are right, and the document is looked at again; then texts that were wrong only in their form
are put back, so that a name which is spelt the same in two places is one name. What is said about a stand-in
is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from yaml.nodes import Node

from mlflow_platform.config.composer import Ambiguous, Step, raw
from mlflow_platform.model import DOCUMENTS, Document
from mlflow_platform.model.base import FIELDS_ALONE, Mistake
from mlflow_platform.model.schema import Schema, at, kind_schema, values

Path = tuple[Step, ...]
#: Begins every text of a stand-in; no document of a person holds it.
_MARK = "standin7f3a"
#: Most looks: a look that finds more is one at what a list that was too long, or a stand-in, hid before.
_LOOKS = 5


def second_look(
    kind: str, value: dict[str, Any], root: Node, errors: Sequence[ErrorDetails]
) -> tuple[list[ErrorDetails], list[Mistake], Document | None]:
    """What the field errors `errors` of a document hide: more field errors, and mistakes between fields.

    Also the document as it was mended, for what lies between documents; None where that was not possible.
    """
    mender = _Mender(kind, value, root)
    more: list[ErrorDetails] = []
    found = list(errors)
    for _ in range(_LOOKS):
        mender.mend(found)
        try:
            document = DOCUMENTS[kind].__pydantic_validator__.validate_python(
                mender.value, context=FIELDS_ALONE
            )
        except ValidationError as error:
            found = error.errors(include_url=False)
            fresh = [e for e in found if not mender.replaced(e["loc"])]
            more.extend({**e, "loc": mender.written(e["loc"])} for e in fresh)
            if not fresh:
                break
        else:
            return more, list(mender.mistakes(document)), document
    return more, [], None


def is_stand_in(text: str) -> bool:
    """Whether a text of a mended document is none of its own."""
    return _MARK in text


class _Mender:
    """A copy of a document's value with stand-ins for what is wrong, and the memory of what it was."""

    def __init__(self, kind: str, value: dict[str, Any], root: Node) -> None:
        self.schema = kind_schema(kind)
        self.value: Any = _copy(value)
        self.root = root
        self.count = 0
        self.wrong: set[Path] = set()
        """Texts and keys that are put back although they are wrong: one message about each is enough."""
        self.stand_ins: set[Path] = set()
        self.texts: dict[Path, str] = {}
        """Texts to put back, by their paths."""
        self.keys: dict[str, tuple[Path, str]] = {}
        """Stand-ins of keys: the path of the mapping, and the key to put back."""

    def mend(self, errors: Sequence[ErrorDetails]) -> None:
        for error in sorted(errors, key=lambda e: e["loc"][-1:] == ("[key]",)):
            path: Path = error["loc"]
            if path[-1] == "[key]":
                self.rename(path[:-1])
                continue
            parent = _walk(self.value, path[:-1])
            schema = at(self.schema, path)
            if error["type"] == "extra_forbidden" or schema is None:
                parent.pop(path[-1])
            elif error["type"] == "too_long":
                self.shorten(parent, path, schema, error["ctx"]["max_length"])
            elif error["type"] == "too_short":
                self.lengthen(parent, path, schema)
            else:
                self.replace(parent, path, schema)

    def rename(self, path: Path) -> None:
        """Replace a key; a document has each key once, so its entry is found by the path."""
        parent, key = _walk(self.value, path[:-1]), str(path[-1])
        mark = self.mark()
        self.wrong.add((*self.written(path), "[key]"))
        self.wrong.add(self.written(path))
        self.keys[mark] = (self.written(path[:-1]), key)
        _rename(parent, key, mark)

    def shorten(self, parent: Any, path: Path, schema: Schema, most: int) -> None:
        """Cut a list or a map to its bound; a stand-in is for all that was cut off."""
        old = parent[path[-1]]
        step: Step = most - 1 if isinstance(old, list) else self.mark()
        kept = list(enumerate(old) if isinstance(old, list) else old.items())[: most - 1]
        new = dict([*kept, (step, self.made_for(schema.get("items") or values(schema) or {}))])
        parent[path[-1]] = list(new.values()) if isinstance(old, list) else new
        self.stand_ins.add((*self.written(path), step))

    def lengthen(self, parent: Any, path: Path, schema: Schema) -> None:
        """Put something into an empty list or map; what is said of the list itself stays true."""
        step: Step = 0 if schema.get("type") == "array" else self.mark()
        of_one = self.made_for(schema.get("items") or values(schema) or {})
        parent[path[-1]] = [of_one] if step == 0 else {step: of_one}
        self.stand_ins.add((*self.written(path), step))

    def replace(self, parent: Any, path: Path, schema: Schema) -> None:
        old = parent.get(path[-1]) if isinstance(parent, dict) else parent[path[-1]]
        parent[path[-1]] = self.made_for(schema)
        written = self.written(path)
        text = self.text(old, written) if schema.get("type") == "string" and "enum" not in schema else ""
        if text:
            self.texts[written] = text
            if isinstance(old, str):
                self.wrong.add(written)
        else:
            self.stand_ins.add(written)

    def text(self, old: Any, path: Path) -> str:
        """A value as the text that it is or, with quotes around it, would be."""
        if isinstance(old, bool | int | float | Ambiguous):
            node = raw(self.root, path)
            return str(node.value) if node is not None else ""
        return old if isinstance(old, str) else ""

    def made_for(self, schema: Schema) -> Any:
        """The smallest value that a schema takes, except that a list has an item: it hides what else is in
        it, so that nobody may say what is not."""
        if "const" in schema or "enum" in schema:
            return schema.get("const", schema.get("enum", [None])[0])
        match schema.get("type"):
            case "string":
                address = str(schema.get("pattern", "")).startswith("^https?:")
                return f"https://{self.mark()}" if address else self.mark()
            case "integer" | "number":
                return schema.get("minimum", 1)
            case "boolean":
                return False
            case "array":
                return [self.made_for(schema["items"])]
            case "object" if "properties" not in schema:
                within = values(schema)
                return {self.mark(): self.made_for(within)} if within else {}
        wanted = schema.get("required", ())
        return {name: self.made_for(schema["properties"][name]) for name in wanted}

    def mark(self) -> str:
        self.count += 1
        return f"{_MARK}n{self.count}"

    def written(self, path: Path) -> Path:
        """A path with the keys that the document has."""
        return tuple(self.keys[s][1] if isinstance(s, str) and s in self.keys else s for s in path)

    def replaced(self, path: Path) -> bool:
        """Whether what is at a path was replaced."""
        written = self.written(path)
        return written in self.texts or self.hidden(written)

    def hidden(self, path: Path) -> bool:
        """Whether a path leads to a stand-in or below one."""
        return any(path[: len(s)] == s for s in self.stand_ins)

    def mistakes(self, document: Document) -> Iterator[Mistake]:
        """What is wrong between the fields of the mended document, whatever the wrong fields should be."""
        for mark, (path, key) in sorted(self.keys.items(), key=lambda item: len(item[1][0])):
            _rename(_walk(document, path), mark, key)
        for path, text in self.texts.items():
            _entries(_walk(document, path[:-1]))[path[-1]] = text
        for mistake in document.mistakes():
            said = (mistake.what, mistake.remedy, *mistake.among)
            if mistake.path in self.wrong or self.hidden(mistake.path):
                continue
            if not any(is_stand_in(text) for text in said):
                yield mistake


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _copy(v) for k, v in value.items()}
    return [_copy(v) for v in value] if isinstance(value, list) else value


def _walk(value: Any, path: Path) -> Any:
    """What is at a path of plain values or of a validated document."""
    for step in path:
        value = _entries(value)[step]
    return value


def _entries(value: Any) -> Any:
    return value if isinstance(value, dict | list) else value.__dict__


def _rename(mapping: dict[str, Any], old: str, new: str) -> None:
    entries = [(new if k == old else k, v) for k, v in mapping.items()]
    mapping.clear()
    mapping.update(entries)
