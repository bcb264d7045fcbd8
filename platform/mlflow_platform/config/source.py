"""Finds and reads the files of a configuration, within bounds."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.errors import Location, Problem

MIB = 1 << 20
#: Largest file. Ten of the largest documents, and more than any sensible file.
MAX_FILE = 10 * MIB
#: Largest document. etcd takes requests of at most 1.5 MiB (`--max-request-bytes`), and `kubectl apply`
#: sends a document with a copy of itself in an annotation; what is refused here could never be applied.
MAX_DOCUMENT = MIB
SUFFIXES = (".yaml", ".yml", ".json")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Source:
    """The text of a file. `name` is how messages call it."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a text that is to be parsed: from `start` to `end`, `line` lines into the file."""

    start: int
    end: int
    line: int


def find(paths: Sequence[Path]) -> tuple[list[Path], list[Problem]]:
    """The files of the paths, each once, those of a folder sorted; and the paths that are not there.

    In folders: `*.yaml`, `*.yml` and `*.json`, recursively, nothing hidden. A file that is named itself
    may be called anything.
    """
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for path in paths:
        if str(path) == STDIN:
            files.setdefault(STDIN, path)
        elif path.is_dir():
            for file in _walk(path, problems):
                files.setdefault(os.path.realpath(file), file)
        elif path.exists():
            files.setdefault(os.path.realpath(path), path)
        else:
            problems.append(
                Problem("there is no such file or folder", "correct the path", Location(str(path)))
            )
    return list(files.values()), problems


def _walk(folder: Path, problems: list[Problem]) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        problems.append(_unreadable(str(error.filename), error))

    # links are followed, since a document that is not seen is one whose object may be given up
    seen: set[str] = set()
    for parent, folders, names in os.walk(folder, onerror=unreadable, followlinks=True):
        if os.path.realpath(parent) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(parent))
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(names):
            if name.endswith(SUFFIXES) and not name.startswith("."):
                yield Path(parent, name)


def read(path: Path) -> Source | Problem:
    """The text of a file, or why there is none. At most `MAX_FILE` bytes are read."""
    name = "<stdin>" if str(path) == STDIN else str(path)
    try:
        if str(path) == STDIN:
            data = sys.stdin.buffer.read(MAX_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
    except OSError as error:
        return _unreadable(name, error)
    if len(data) > MAX_FILE:
        what = f"the file is larger than {MAX_FILE // MIB} MiB"
        return Problem(what, "split it into several files", Location(name))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line = before.count(b"\n") + 1
        column = len(before[before.rfind(b"\n") + 1 :].decode("utf-8", "replace")) + 1
        what = f"the file is not UTF-8: byte 0x{data[error.start]:02x}"
        return Problem(what, "save it as UTF-8", Location(name, line, column))
    return Source(name, _without_surrogates(text) if name.endswith(".json") else text)


def _unreadable(name: str, error: OSError) -> Problem:
    return Problem(f"cannot be read: {error.strerror}", "", Location(name))


_SURROGATES = re.compile(
    r"(?<!\\)((?:\\\\)*)((?:\\u[dD][89a-bA-B][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})+)"
)


def _without_surrogates(text: str) -> str:
    """JSON writes characters beyond U+FFFF as two escapes, which YAML does not know."""
    if "\\ud" not in text and "\\uD" not in text:
        return text

    def joined(match: re.Match[str]) -> str:
        units = bytes.fromhex(match[2].replace("\\u", ""))
        return match[1] + units.decode("utf-16-be", "replace")

    return _SURROGATES.sub(joined, text)


#: A line that begins a document. It cannot occur within one, not even in a block of text (YAML 1.2, 9.1.2).
_BEGIN = re.compile(r"^---(?=\s|$)", re.MULTILINE)


def stretches(source: Source) -> tuple[list[Stretch], list[Problem]]:
    """A source without its documents that are too large; found without parsing them."""
    text = source.text
    begins = [m.start() for m in _BEGIN.finditer(text)] if len(text) * 4 > MAX_DOCUMENT else []
    bounds = [0, *(b for b in begins if b), len(text)]
    found: list[Stretch] = []
    problems = []
    start = line = lines_to = counted = 0
    for begin, end in itertools.pairwise(bounds):
        size = end - begin
        if size * 4 <= MAX_DOCUMENT or len(text[begin:end].encode()) <= MAX_DOCUMENT:
            continue
        line = counted = counted + text.count("\n", lines_to, begin)
        lines_to = begin
        what = f"the document is larger than {MAX_DOCUMENT // MIB} MiB, so no cluster could take it"
        remedy = "split it; a set of experiments is written as an ExperimentSet"
        problems.append(Problem(what, remedy, Location(source.name, line + 1, 1)))
        if begin > start:
            found.append(Stretch(start, begin, text.count("\n", 0, start)))
        start = end
    if start < len(text):
        found.append(Stretch(start, len(text), text.count("\n", 0, start)))
    return found, problems


def one_document(source: Source, start: int) -> str:
    """The text from `start`, in or before a document's first line, to the end of that document."""
    match = _BEGIN.search(source.text, start + 1)
    return source.text[start : match.start() if match else None]


def rest(source: Source, stretch: Stretch, after: int) -> Stretch | None:
    """What of a stretch begins with the first document after the index `after`."""
    match = _BEGIN.search(source.text, max(after, stretch.start + 1), stretch.end)
    if match is None:
        return None
    lines = source.text.count("\n", stretch.start, match.start())
    return Stretch(match.start(), stretch.end, stretch.line + lines)
