"""Writes the reference pages: `python -m mlflow_platform.cli.reference [FOLDER]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from mlflow_platform.cli.root import COMMANDS, root
from mlflow_platform.model import reference

_HEAD = """# Command line

Made by `make docs` from the commands themselves; do not edit.

Exit codes: 0 done, 1 error, 2 there are differences (`plan`, `drift`), 3 a brake stopped it, 64 wrong usage.
"""
#: Columns of the help texts.
_WIDTH = 100


def page() -> str:
    """The help of every command as Markdown."""
    width: dict[str, Any] = {"terminal_width": _WIDTH, "max_content_width": _WIDTH}
    top = click.Context(root, info_name="mlplatform", **width, **root.context_settings)
    parts = [_HEAD, f"```text\n{root.get_help(top).rstrip()}\n```\n"]
    for name in COMMANDS:
        command = root.get_command(top, name)
        if command is None:
            raise LookupError(name)
        context = click.Context(command, info_name=name, parent=top, **width)
        parts.append(f"## mlplatform {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
        for below, part in getattr(command, "commands", {}).items():
            inner = click.Context(part, info_name=below, parent=context, **width)
            parts.append(f"### mlplatform {name} {below}\n\n```text\n{part.get_help(inner).rstrip()}\n```\n")
    return "\n".join(parts)


#: The generated pages of `docs/reference`.
PAGES = {"documents.md": reference.page, "cli.md": page}


def write(folder: Path) -> None:
    """Write every page into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in PAGES.items():
        (folder / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference"))
