"""YAML text to plain values, with the place of every one of them, for input that is not trusted.

PyYAML's C parser composes nodes; what is built from them differs from `yaml.safe_load` on purpose:

- a plain scalar that YAML 1.1 (and so kubectl) reads as something other than text keeps that type, and
  one that readers disagree about becomes `Ambiguous`, which no field takes: both get a message that says
  to quote it;
- duplicate keys, tags of a language (`!!python/...`) and keys that are not text are mistakes;
- nesting and the growth by anchors are bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml.cyaml import CParser  # type: ignore[attr-defined]
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from mlflow_platform.errors import Location, Problem

#: Deepest nesting. The deepest field of a document is at 6; PyYAML's composer recurses on the C stack and
#: crashes the process at some ten thousand.
MAX_DEPTH = 50
#: Most values in one document, anchors expanded. The largest valid one (an ExperimentSet with eight full
#: axes) has 40,000.
MAX_VALUES = 200_000

Step = str | int


class Ambiguous:
    """A plain scalar that one YAML reader takes for text and another for a date or a number."""

    __slots__ = ("meaning", "text")

    def __init__(self, text: str, meaning: str) -> None:
        self.text = text
        self.meaning = meaning

    def __repr__(self) -> str:
        return self.text


class Composed(NamedTuple):
    """One document of a text: its node, where it begins, and its value unless it is mistaken."""

    node: Node
    line: int
    """Lines of the text before the one `start` is in."""
    start: int
    """Index of the first character of the document's first line in the text."""


class _Nodes(CParser):
    """PyYAML's C composer without its resolver in Python: `_Builder` resolves, at a third of the time."""

    def __init__(self, text: str) -> None:
        CParser.__init__(self, text)
        self.depth = 0

    def descend_resolver(self, parent: Node | None, index: Any) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            mark = getattr(index or parent, "start_mark", None)
            raise yaml.MarkedYAMLError(problem=f"nested more than {MAX_DEPTH} levels deep", problem_mark=mark)

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def resolve(self, kind: type[Node], value: Any, implicit: Any) -> str:  # noqa: ARG002 - PyYAML's signature
        return ""


def compose(text: str) -> Iterator[Composed]:
    """The documents of a text one after the other. Raises `yaml.YAMLError` where it is malformed."""
    nodes = _Nodes(text)
    while nodes.check_node():
        node: Node = nodes.get_node()  # type: ignore[assignment]
        mark = node.start_mark
        yield Composed(node, mark.line, text.rfind("\n", 0, mark.index) + 1)


class Places:
    """Marks of a composed document as locations in its file."""

    def __init__(self, file: str, first_line: int = 0) -> None:
        self.file = file
        self.first_line = first_line
        """Lines of the file before the text that was composed."""

    def of(self, node: Node) -> Location:
        mark = node.start_mark
        return Location(self.file, self.first_line + mark.line + 1, mark.column + 1)

    def find(self, root: Node, path: tuple[Step, ...], *, key: bool = False) -> Location:
        """Where the value at `path` is, or as much of the path as there is.

        A scalar's place is its own; that of a collection or an empty value is its key's, as is every
        place with `key=True`.
        """
        node, at = root, root
        for step in path:
            found = _child(node, step)
            if found is None:
                break
            at, node = found
        plain = isinstance(node, ScalarNode) and (node.value or node.style)
        return self.of(node if plain and not key else at)


def raw(root: Node, path: tuple[Step, ...]) -> ScalarNode | None:
    """The scalar at `path` as it was written; None where there is none."""
    node: Node = root
    for step in path:
        found = _child(node, step)
        if found is None:
            return None
        node = found[1]
    return node if isinstance(node, ScalarNode) else None


def _child(node: Node, step: Step) -> tuple[Node, Node] | None:
    """The key and the value of a mapping, or the item of a list twice."""
    if isinstance(node, SequenceNode):
        inside = isinstance(step, int) and 0 <= step < len(node.value)
        return (node.value[step], node.value[step]) if inside else None
    if not isinstance(node, MappingNode):
        return None
    for key, value in node.value:
        if isinstance(key, ScalarNode) and key.value == str(step):
            return key, value
    for merged in _merged(node):
        found = _child(merged, step)
        if found is not None:
            return found
    return None


def _merged(node: MappingNode) -> Iterator[MappingNode]:
    """The mappings that `<<` merges into a mapping, the one that wins first."""
    for key, value in node.value:
        if _is_merge(key):
            for source in value.value if isinstance(value, SequenceNode) else (value,):
                if isinstance(source, MappingNode) and source is not node:
                    yield source


def _is_merge(key: Node) -> bool:
    return key.value == "<<" and isinstance(key, ScalarNode) and not key.style


class TooMuch(Exception):
    """A document grows beyond `MAX_VALUES` or contains itself."""


def build(root: Node, places: Places) -> tuple[Any, list[Problem]]:
    """A document's value (dicts, lists, scalars, `Ambiguous`) and the mistakes in its YAML."""
    builder = _Builder(places)
    try:
        return builder.value(root), builder.problems
    except TooMuch:
        what = f"the document holds more than {MAX_VALUES:,} values, its anchors expanded, or contains itself"
        problem = Problem(what, "write out what is meant, without aliases of aliases", places.of(root))
        return None, [problem]


class _Builder:
    def __init__(self, places: Places) -> None:
        self.places = places
        self.problems: list[Problem] = []
        self.left = MAX_VALUES
        self.depth = 0

    def value(self, node: Node) -> Any:
        if isinstance(node, ScalarNode):
            text = node.value
            if node.tag:
                return self.tagged(node)
            if node.style:
                return text if "\0" not in text else self.nul(node)
            return plain(text) if not text or text[0] in _SUSPECT else text
        self.left -= len(node.value) + 1
        self.depth += 1
        if self.left < 0 or self.depth > MAX_DEPTH:
            raise TooMuch
        if node.tag not in ("", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"):
            self.unknown_tag(node)
        out: Any = (
            self.mapping(node) if isinstance(node, MappingNode) else [self.value(item) for item in node.value]
        )
        self.depth -= 1
        return out

    def mapping(self, node: MappingNode) -> dict[str, Any]:
        out: dict[str, Any] = {}
        merges = False
        for key, value in node.value:
            if _is_merge(key):
                merges = True
                continue
            name = self.value(key)
            if type(name) is not str:
                self.key(key, name)
            elif name in out:
                first = self.places.of(next(k for k, _ in node.value if k.value == name))
                what = f"the key {name!r} is given twice (first at line {first.line})"
                self.problems.append(Problem(what, "remove one of the two", self.places.of(key)))
            else:
                out[name] = self.value(value)
        if merges:
            self.merge(node, out)
        return out

    def merge(self, node: MappingNode, out: dict[str, Any]) -> None:
        for key, value in node.value:
            sources = value.value if isinstance(value, SequenceNode) else [value]
            if _is_merge(key) and not all(isinstance(s, MappingNode) for s in sources):
                what = "<< merges mappings, and this is not one"
                self.problems.append(
                    Problem(what, "write `<<: *anchor` of a mapping, or a list of them", self.places.of(key))
                )
        for source in _merged(node):
            merged = self.value(source)
            for name, value in merged.items():
                out.setdefault(name, value)

    def key(self, key: Node, name: Any) -> None:
        if not isinstance(key, ScalarNode):
            what, remedy = "a key must be text, and this one is a collection", "write a plain name"
        elif key.value == "":
            what, remedy = "a key is empty", "write a name before the colon"
        else:
            what = f"the key {key.value} without quotes is {meaning(name)} in YAML"
            remedy = f'if text is meant, write "{key.value}"'
        self.problems.append(Problem(what, remedy, self.places.of(key)))

    def nul(self, node: ScalarNode) -> str:
        what = "the text holds the character NUL, which Postgres cannot store"
        self.problems.append(Problem(what, "remove it", self.places.of(node)))
        return str(node.value).replace("\0", "")

    def tagged(self, node: ScalarNode) -> Any:
        text: str = node.value
        match node.tag.removeprefix("tag:yaml.org,2002:"):
            case "str" | "!":
                return text
            case "int" | "float" | "bool" | "null":
                return plain(text)
        return self.unknown_tag(node)

    def unknown_tag(self, node: Node) -> None:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        what = f"the tag {tag} is not known here"
        self.problems.append(Problem(what, "remove the tag", self.places.of(node)))


#: First characters of the plain scalars that may be something else than text; the empty one is null.
_SUSPECT = frozenset("0123456789+-.~nNtTfFyYoO")
_NULL = frozenset(("", "~", "null", "Null", "NULL"))
#: YAML 1.1 booleans. `y` and `n` are among them for go-yaml v2, which kubectl reads with.
_BOOL = {
    form: value
    for word, value in (
        ("y", True),
        ("yes", True),
        ("true", True),
        ("on", True),
        ("n", False),
        ("no", False),
        ("false", False),
        ("off", False),
    )
    for form in (word, word.capitalize(), word.upper())
}
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9_]*)")
_BASED = re.compile(r"[-+]?(?:0[0-7_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|0b[01_]+)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
)
_SPECIAL = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}.*)?")
_BASE_60 = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")


def plain(text: str) -> Any:
    """What a scalar without quotes means: null, a boolean, a number, text, or `Ambiguous`."""
    if text in _NULL:
        return None
    if text in _BOOL:
        return _BOOL[text]
    if _INT.fullmatch(text):
        # Python refuses to convert numbers of thousands of digits; no field takes one either
        return int(text.replace("_", "")) if len(text) < 100 else Ambiguous(text, "a number")
    if _BASED.fullmatch(text):
        return Ambiguous(text, "a number that is not decimal")
    if _FLOAT.fullmatch(text):
        return float(text.replace("_", "")) if text.strip("+-._") else text
    if _SPECIAL.fullmatch(text):
        return float(text.replace(".", "").lower())
    if _DATE.fullmatch(text):
        return Ambiguous(text, "a date")
    if _BASE_60.fullmatch(text):
        return Ambiguous(text, "a number in base 60")
    return text


def meaning(value: Any) -> str:
    """What a value is, in words."""
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case Ambiguous():
            return value.meaning
        case dict():
            return "a mapping"
        case list():
            return "a list"
    return "text"
