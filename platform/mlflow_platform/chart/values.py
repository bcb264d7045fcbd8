"""Values of a chart: read with their places, merged in order, checked against the schema.

Later layers win: the chart's defaults, the profile, each `-f` file, each `--set`. Maps are
merged key by key; lists and scalars are replaced whole. `null` is a value like any other and
is refused where the schema does not list it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlflow_platform.errors import BadDocuments, BadInput, Location, Problem

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

#: Where each value was written, by its path; a path is the keys and list indexes that lead to it.
Places = dict[tuple[str | int, ...], Location]


@dataclass
class Values:
    """Merged values and where each was written."""

    data: dict[str, Any] = field(default_factory=dict)
    places: Places = field(default_factory=dict)

    def add_file(self, path: Path, shown_as: str = "") -> None:
        """Merge a YAML file; `BadInput` if it cannot be read, `BadDocuments` with every mistake in it."""
        name = shown_as or str(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise BadInput(f"cannot read values file {name}: {reason}") from error
        data, places = parse(text, name)
        self._merge(data, places)

    def add_setting(self, setting: str) -> None:
        """Merge one `path=value` of `--set`; the value is YAML, a dot within a key is written `\\.`."""
        path, equals, text = setting.partition("=")
        keys = [k.replace("\\.", ".") for k in re.split(r"(?<!\\)\.", path)]
        if not equals or not all(keys):
            raise BadInput(
                f"--set {setting.partition('=')[0]}: expected path=value",
                remedy="for example: --set server.replicas=3",
            )
        where = Location(f"--set {path}")
        try:
            value, inside = _read(text, where.file, tuple(keys))
        except yaml.YAMLError as error:
            raise BadInput(
                "the value is not YAML",
                where=where,
                remedy="quote it twice: --set 'path=\"text: with a colon\"'",
            ) from error
        for key in reversed(keys):
            value = {key: value}
        paths = {tuple(keys[: i + 1]) for i in range(len(keys))} | set(inside)
        self._merge(value, dict.fromkeys(paths, where))

    def place(self, path: Sequence[str | int]) -> Location | None:
        """Where a value, or the nearest thing around it, was written."""
        for end in range(len(path), 0, -1):
            if found := self.places.get(tuple(path[:end])):
                return found
        return None

    def _merge(self, data: Mapping[str, Any], places: Places) -> None:
        self.data = merged(self.data, data)
        self.places |= places


def read_yaml(text: str) -> Any:
    """One YAML document as plain data; `yaml.YAMLError` if it is none."""
    return Loader(text).get_single_data()


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`below` with every key of `above` laid over it; neither is changed."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        both_maps = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both_maps else value  # type: ignore[arg-type] # checked above
    return result


def parse(text: str, name: str) -> tuple[dict[str, Any], Places]:
    """A YAML mapping and the place of each of its values. `BadDocuments` names every duplicate key."""
    try:
        data, places = _read(text, name, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Location(name, mark.line + 1, mark.column + 1) if mark else Location(name)
        raise BadInput(f"not YAML: {error.problem or error.context}", where=where) from error
    except yaml.YAMLError as error:
        raise BadInput(f"not YAML: {error}", where=Location(name)) from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise BadDocuments([Problem("values must be a map of names to values", where=Location(name, 1, 1))])
    return data, places


def _read(text: str, name: str, path: tuple[str | int, ...]) -> tuple[Any, Places]:
    """What a text says that stands at `path` of the values, and the places of all in it. `yaml.YAMLError` if
    it is no YAML, `BadDocuments` with every duplicate key, `BadInput` if it contains itself."""
    reader = _Reader(name)
    loader = Loader(text)
    try:
        node = loader.get_single_node()
        data = None if node is None else reader.read(loader, node, path)
    except RecursionError as error:
        reason = "nested too deeply, or an alias within what it stands for"
        raise BadInput(reason, where=Location(name)) from error
    finally:
        loader.dispose()
    if reader.problems:
        raise BadDocuments(reader.problems)
    return data, reader.places


class _Reader:
    def __init__(self, name: str) -> None:
        self.name = name
        self.places: Places = {}
        self.problems: list[Problem] = []

    def read(self, loader: Any, node: Any, path: tuple[str | int, ...]) -> Any:
        if path and path not in self.places:
            self.places[path] = self.location(node)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(loader, item, (*path, i)) for i, item in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            written: set[str] = set()
            for key_node, _ in node.value:
                if key_node.value in written:
                    self.problems.append(
                        Problem(f"key {key_node.value!r} is written twice", where=self.location(key_node))
                    )
                written.add(key_node.value)
            loader.flatten_mapping(node)  # `<<` first, so that the map's own keys win
            result: dict[str, Any] = {}
            for key_node, value_node in node.value:
                key = str(key_node.value)
                self.places[(*path, key)] = self.location(key_node)
                result[key] = self.read(loader, value_node, (*path, key))
            return result
        return loader.construct_object(node)

    def location(self, node: Any) -> Location:
        return Location(self.name, node.start_mark.line + 1, node.start_mark.column + 1)
