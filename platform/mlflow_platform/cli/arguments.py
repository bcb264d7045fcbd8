"""Arguments that several commands take, so that each means the same everywhere."""

from __future__ import annotations

from pathlib import Path

import click

#: Type of PATHS: folders and files of documents, and `-` for standard input. One that is not there is wrong
#: usage (exit code 64).
PATHS = click.Path(exists=True, allow_dash=True, path_type=Path)
