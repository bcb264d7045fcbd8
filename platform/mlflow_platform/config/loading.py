"""Files to documents: every mistake of every file at once, every place remembered cheaply.

A place is not stored for each field: a loaded document knows where in its file's text it begins, and is
composed once more when somebody asks for the place of a field. So loading is fast and small, and only a
message costs.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from mlflow_platform.config import crosscheck, source
from mlflow_platform.config.composer import MAX_DEPTH, Composed, Places, Step, build, compose
from mlflow_platform.config.project import read_project
from mlflow_platform.config.source import Source, Stretch
from mlflow_platform.config.wording import problems_of
from mlflow_platform.errors import BadDocuments, Location, Problem
from mlflow_platform.model import DOCUMENTS, Document
from mlflow_platform.model.base import API_VERSION, SERVER_FIELDS
from mlflow_platform.model.nearest import nearest, suggestion

_GROUP = API_VERSION.split("/")[0]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A document and where it is written."""

    document: Document
    source: Source
    line: int
    """Lines of the file before the document's first."""
    start: int
    """Index in the source's text of the first character of the document's first line."""

    def where(self, *path: Step) -> Location:
        """The place of the field at `path` (`"spec", "versions", 0, "source"`), or as much of the path as
        is written; without a path the document's own. A scalar's place is its own, a collection's its
        key's."""
        if not path:
            return Location(self.source.name, self.line + 1, 1)
        composed = next(compose(source.one_document(self.source, self.start)))
        return Places(self.source.name, self.line).find(composed.node, path)


@dataclass(frozen=True, slots=True)
class Configuration:
    """What the paths that were given declare."""

    documents: tuple[Loaded, ...]
    project: str | None = None
    """From `mlplatform.toml`: the owner's name on the server."""
    root: Path | None = None
    """The folder that was given, or the one of the file; None for standard input."""
    whole: bool = False
    """Only folders were given: what is not declared is meant to be gone. One file never prunes."""
    notes: tuple[str, ...] = ()
    """What was left out, for people."""


def load(paths: Sequence[Path]) -> Configuration:
    """The documents of folders, files and `-` (standard input). Raises `BadDocuments` with all mistakes."""
    was_on = gc.isenabled()
    gc.disable()  # it would visit a hundred thousand new objects, none of them garbage, again and again
    try:
        return _load([Path(p) for p in paths])
    finally:
        if was_on:
            gc.enable()


def _load(paths: Sequence[Path]) -> Configuration:
    files, problems = source.find(paths)
    folders = dict.fromkeys(p if p.is_dir() else p.parent for p in paths if str(p) != source.STDIN)
    projects: dict[str, Path] = {}
    for folder in folders:
        project, mistakes = read_project(folder)
        problems.extend(mistakes)
        if project is not None:
            projects.setdefault(project, folder)
    if len(projects) > 1:
        named = ", ".join(f"{name!r} ({folder})" for name, folder in projects.items())
        problems.append(
            Problem(f"the paths belong to different projects: {named}", "give them one at a time")
        )
    reader = _Reader(problems)
    for file in files:
        text = source.read(file)
        if isinstance(text, Problem):
            problems.append(text)
        else:
            reader.read(text)
    problems.extend(crosscheck.problems(reader.seen))
    if problems:
        raise BadDocuments(problems)
    if not reader.loaded:
        reader.notes.append(f"no documents in {', '.join(str(p) for p in paths)}")
    project, root = next(iter(projects.items()), (None, next(iter(folders), None)))
    whole = bool(paths) and all(p.is_dir() for p in paths)
    return Configuration(tuple(reader.loaded), project, root, whole, tuple(reader.notes))


class _Reader:
    """Collects the documents of several files, and what is wrong with them."""

    def __init__(self, problems: list[Problem]) -> None:
        self.loaded: list[Loaded] = []
        self.seen: list[Loaded | crosscheck.Identity] = []
        """All documents; those with mistakes as mended, or else as far as they can be identified. A mistake
        in one document hides none between two."""
        self.notes: list[str] = []
        self.problems = problems

    def read(self, text: Source) -> None:
        parts, too_large = source.stretches(text)
        self.problems.extend(too_large)
        while parts:
            part = parts.pop(0)
            places = Places(text.name, part.line)
            part_text = (
                text.text if part == Stretch(0, len(text.text), 0) else text.text[part.start : part.end]
            )
            try:
                for composed in compose(part_text):
                    self.document(text, part, composed, places)
            except (yaml.YAMLError, RecursionError) as error:
                problem, index = _malformed(error, places, part_text)
                self.problems.append(problem)
                left = source.rest(text, part, part.start + index)
                if left is not None:
                    parts.insert(0, left)

    def document(self, text: Source, part: Stretch, composed: Composed, places: Places) -> None:
        value, mistakes = build(composed.node, places)
        self.problems.extend(mistakes)
        if value is None:
            return
        where = places.of(composed.node)
        kind = self.kind(value, where, composed, places)
        if kind is None:
            return
        metadata = value.get("metadata")
        if isinstance(metadata, dict) and not SERVER_FIELDS.isdisjoint(metadata):
            value["metadata"] = {k: v for k, v in metadata.items() if k not in SERVER_FIELDS}

        def loaded(document: Document) -> Loaded:
            return Loaded(document, text, part.line + composed.line, part.start + composed.start)

        try:
            document = DOCUMENTS[kind].__pydantic_validator__.validate_python(value)
        except ValidationError as error:
            problems, mended = problems_of(error, value, kind, composed.node, places)
            self.problems.extend(problems)
            identity = crosscheck.identity(kind, value, where)
            if identity is None:
                return
            if mended is None or not crosscheck.has_names(mended):
                self.seen.append(identity)
            else:
                self.seen.append(loaded(mended))
            return
        self.loaded.append(loaded(document))
        self.seen.append(self.loaded[-1])

    def kind(self, value: Any, where: Location, composed: Composed, places: Places) -> str | None:
        """The kind of a value that is one of our documents; a problem or a note for any other."""

        def problem(what: str, remedy: str, *path: Step) -> None:
            self.problems.append(Problem(what, remedy, places.find(composed.node, path) if path else where))

        if not isinstance(value, dict):
            problem(
                "this is not a document", f"a document is a mapping: apiVersion: {API_VERSION}, kind: ..."
            )
            return None
        version, kind = value.get("apiVersion"), value.get("kind")
        if version is None and kind is None:
            problem("this is not a document: it has no apiVersion and no kind", f"begin it with {_BEGINNING}")
            return None
        if version is None:
            problem("apiVersion is missing", f"add it: apiVersion: {API_VERSION}")
            return None
        if version != API_VERSION:
            if nearest(str(version).split("/")[0], [_GROUP], likeness=0.8):
                problem(f"unknown apiVersion {version}", f"did you mean {API_VERSION}?", "apiVersion")
            else:
                self.notes.append(f"{where}: {kind} of {version} is not for this program; left out")
            return None
        if kind is None:
            problem("kind is missing", f"known: {', '.join(DOCUMENTS)}")
            return None
        if not isinstance(kind, str) or kind not in DOCUMENTS:
            problem(f"unknown kind {kind}", suggestion(str(kind), DOCUMENTS), "kind")
            return None
        return kind


_BEGINNING = f"apiVersion: {API_VERSION} and kind: ..."


def _malformed(error: Exception, places: Places, text: str) -> tuple[Problem, int]:
    """What is wrong with the YAML, and the index at which its parser gave up."""
    if isinstance(error, yaml.reader.ReaderError):
        index = int(error.position)
        line = text.count("\n", 0, index)
        where = Location(places.file, places.first_line + line + 1, index - text.rfind("\n", 0, index))
        what = f"the character U+{int(error.character):04X} is not allowed in YAML"
        return Problem(what, "remove it, or write it as an escape in double quotes", where), index
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    index = mark.index if mark else len(text)
    line, column = (mark.line, mark.column) if mark else (0, 0)
    where = Location(places.file, places.first_line + line + 1, column + 1)
    what = getattr(error, "problem", None) or "it cannot be read"
    context = getattr(error, "context", None)
    return Problem(
        f"malformed YAML: {what}{f' {context}' if context else ''}", _remedy(what, text, index), where
    ), index


def _remedy(what: str, text: str, index: int) -> str:
    start = text.rfind("\n", 0, index) + 1
    end = text.find("\n", index)
    line = text[start : end if end >= 0 else len(text)]
    if "\t" in line[: len(line) - len(line.lstrip())] or "tab character" in what:
        return "indent with spaces: YAML does not allow tabs"
    if what == "mapping values are not allowed in this context":
        return "a text that holds a colon and a space needs quotes; otherwise check the indentation"
    if what.startswith("found character that cannot start"):
        return "a text that begins with @, ` or % needs quotes"
    if what.startswith("found undefined alias"):
        return "a text that begins with * needs quotes; an anchor must come before it, in the same document"
    if "unexpected end of stream" in what:
        return "a quote or a bracket is opened and never closed"
    if what.startswith("nested more"):
        return f"no field is deeper than {MAX_DEPTH} levels"
    return "check the indentation, quotes and brackets of this line and the one before"
