"""Templates in Helm's manner, written in Jinja2.

A template sees `values`, `release` (name, namespace), `chart` (name, version, appVersion),
`capabilities` (kubeVersion, atLeast(major, minor)) and `partials` (the macros of
`_partials.yaml.j2`). On top of Jinja's own it may use

========================  ===================================================================
`x | toYaml`              YAML text without a final newline
`x | toJson`, `x | quote` JSON text; `quote` turns anything into a quoted string
`t | indent(n)`           every line moved right by n; `nindent(n)` starts a new line first
`x | required("...")`     x, or the message as an error when x is null or empty
`t | sha256sum`           hexadecimal digest; `t | b64enc` is base64
`fail("...")`             stops with the message
`include("name.yaml.j2")` another template's text, for checksums
`file("files/x")`         the text of a file of the chart
========================  ===================================================================

An undefined name is an error. So is printing null, a list or a map, which would give Python's
notation instead of YAML's.
"""

from __future__ import annotations

import base64
import hashlib
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

from mlflow_platform.errors import BadInput, Location

Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
PARTIALS = "_partials.yaml.j2"


class Tree(dict[str, Any]):
    """A map of values that knows its path, so that a missing key is named in full."""

    def __init__(self, data: Mapping[str, Any], path: str) -> None:
        super().__init__({key: _tree(value, f"{path}.{key}") for key, value in data.items()})
        self.path = path


class _Dumper(Dumper):  # type: ignore[misc] # the C class is not typed
    """Knows that a Tree is a map."""


_Dumper.add_multi_representer(dict, yaml.SafeDumper.represent_dict)


class TemplateStopped(Exception):
    """`fail` or `required` in a template: the message is for the user."""


def to_yaml(value: Any) -> str:
    """YAML text of plain data, keys in their own order, without a final newline."""
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, default_flow_style=False, width=110, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...")


class Templates:
    """The templates of one chart, ready to be rendered with one set of values."""

    def __init__(self, folder: Path, names: Mapping[str, Any]) -> None:
        self.folder = folder
        self.environment = _Environment(
            loader=jinja2.FileSystemLoader(folder / "templates"),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=_printable,
        )
        self.environment.filters |= {
            "toYaml": to_yaml,
            "toJson": lambda value: json.dumps(value, ensure_ascii=False),
            "quote": lambda value: json.dumps(str(_printable(value)), ensure_ascii=False),
            "indent": _indent,
            "nindent": lambda text, width: "\n" + _indent(text, width),
            "required": _required,
            "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
            "b64enc": lambda text: base64.b64encode(text.encode()).decode(),
        }
        self.environment.globals |= {"fail": _fail, "include": self._text, "file": self._file}
        self.environment.globals |= {k: _tree(v, k) for k, v in names.items()}

    def names(self) -> list[str]:
        """The templates that make manifests, in order of name; those starting with `_` only serve others."""
        return sorted(
            p.name for p in (self.folder / "templates").glob("*.yaml.j2") if not p.name.startswith("_")
        )

    def render(self, name: str) -> str:
        """The text a template makes. `BadInput` names template, line and what was wrong."""
        try:
            if "partials" not in self.environment.globals and (self.folder / "templates" / PARTIALS).exists():
                self.environment.globals["partials"] = self.environment.get_template(PARTIALS).module
            return self._text(name)
        except jinja2.TemplateSyntaxError as error:
            raise BadInput(
                error.message or "syntax error", where=Location(f"templates/{error.name}", error.lineno)
            ) from error
        except jinja2.TemplateNotFound as error:
            raise BadInput(f"no template {error.name} in {self.folder / 'templates'}") from error
        except Exception as error:
            raise BadInput(_message(error), where=self._where(error, name)) from error

    def _text(self, name: str) -> str:
        return self.environment.get_template(name).render()

    def _file(self, name: str) -> str:
        path = self.folder / name
        if not path.is_file():
            raise TemplateStopped(f"the chart has no file {name}")
        return path.read_text(encoding="utf-8")

    def _where(self, error: Exception, name: str) -> Location:
        """The innermost line of a template that the error passed through."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
        if not frames:
            return Location(f"templates/{name}")
        return Location(f"templates/{Path(frames[-1].filename).name}", frames[-1].lineno or 0)


class _Environment(jinja2.Environment):
    """Keys of values win over the methods of `dict`: `values.items` is a value named items."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self._key(obj, attribute) if isinstance(obj, Tree) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        return self._key(obj, argument) if isinstance(obj, Tree) else super().getitem(obj, argument)

    def _key(self, obj: Tree, key: str) -> Any:
        return obj[key] if key in obj else self.undefined(f"{obj.path}.{key} is not defined")


def _tree(value: Any, path: str) -> Any:
    if isinstance(value, Mapping):
        return Tree(value, path)
    if isinstance(value, list):
        return [_tree(item, f"{path}[{i}]") for i, item in enumerate(value)]
    return value


def _printable(value: Any) -> Any:
    if value is None:
        raise TemplateStopped("null would be printed here: give a value, or guard the line with `if`")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict | list):
        raise TemplateStopped("a map or list would be printed here: use `| toYaml` or `| toJson`")
    return value


def _indent(text: str, width: int) -> str:
    pad = " " * width
    return "\n".join(pad + line if line else line for line in text.split("\n"))


def _required(value: Any, message: str) -> Any:
    if value is None or value == "" or value == [] or value == {}:
        raise TemplateStopped(message)
    return value


def _fail(message: str) -> None:
    raise TemplateStopped(message)


def _message(error: Exception) -> str:
    if isinstance(error, TemplateStopped | jinja2.UndefinedError):
        return str(error)
    return f"{type(error).__name__}: {error}"
