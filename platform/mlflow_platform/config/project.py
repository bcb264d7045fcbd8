"""`mlplatform.toml`: what a configuration folder says about itself."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mlflow_platform.errors import BadInput, Location, Problem
from mlflow_platform.model.nearest import suggestion

FILE = "mlplatform.toml"
_KNOWN = ("project",)
#: Part of every owner's mark on the server; the shape of a Kubernetes label.
PROJECT = re.compile(r"[a-z0-9][-a-z0-9]{0,62}")
_REMEDY = "use 1 to 63 lower-case letters, digits and dashes, the first not a dash"


def check_name(name: str) -> str:
    """The project's name as it was given. Raises `BadInput` where no project can have it."""
    if not PROJECT.fullmatch(name):
        raise BadInput(f"{name!r} cannot be a project's name", remedy=_REMEDY)
    return name


def read_project(folder: Path) -> tuple[str | None, list[Problem]]:
    """The project's name in the folder's `mlplatform.toml`, None without one; and its mistakes."""
    path = folder / FILE
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except FileNotFoundError:
        return None, []
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        return None, [Problem(f"{FILE} cannot be read: {why}", "", Location(str(path)))]
    except tomllib.TOMLDecodeError as error:
        found = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = Location(str(path), *(int(g) for g in found.groups())) if found else Location(str(path))
        what = str(error).split(" (at ")[0]
        return None, [Problem(f"not valid TOML: {what}", 'write: project = "name"', where)]
    problems = [
        Problem(f"unknown setting {key!r}", suggestion(key, _KNOWN), _line(path, text, key))
        for key in content
        if key not in _KNOWN
    ]
    project = content.get("project")
    if project is not None and not (isinstance(project, str) and PROJECT.fullmatch(project)):
        what = f"{project!r} cannot be a project's name"
        problems.append(Problem(what, f"{_REMEDY}, in quotes", _line(path, text, "project")))
        project = None
    return project, problems


def _line(path: Path, text: str, key: str) -> Location:
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip(" \t[\"'").startswith(key):
            return Location(str(path), number, 1)
    return Location(str(path))
