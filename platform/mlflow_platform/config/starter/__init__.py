"""Starter documents: the files beside this module, and a project's name."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from mlflow_platform.config.project import FILE, PROJECT
from mlflow_platform.errors import BadInput

NAMES = (FILE, "experiments.yaml", "models.yaml", "prompts.yaml", "access.yaml")


def write(folder: Path, project: str | None = None) -> list[Path]:
    """Write the starter files into a folder, which is made if need be; the paths written.

    The project's name is the folder's unless it is given. Raises `BadInput`, and writes nothing, where one
    of the files exists, the name is not possible or the folder cannot be written.
    """
    name = project or re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-")[:63]
    if not PROJECT.fullmatch(name):
        raise BadInput(
            f"{name!r} cannot be a project's name",
            remedy="pass --project with 1 to 63 lower-case letters, digits and dashes",
        )
    paths = [folder / file for file in NAMES]
    there = [str(path) for path in paths if path.exists() or path.is_symlink()]
    if there:
        raise BadInput(
            f"{', '.join(there)} exists already; nothing was written", remedy="name another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            text = files(__name__).joinpath(path.name).read_text(encoding="utf-8")
            with path.open("x", encoding="utf-8") as file:
                file.write(text.replace("PROJECT", name))
    except OSError as error:
        raise BadInput(
            f"{error.filename or folder} cannot be written: {error.strerror}", remedy="name another folder"
        ) from None
    return paths
