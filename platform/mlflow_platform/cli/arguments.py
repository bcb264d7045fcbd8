"""Arguments that several commands take, so that each means the same everywhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click

#: Type of PATHS: folders and files of documents, and `-` for standard input. One that is not there is wrong
#: usage (exit code 64).
PATHS = click.Path(exists=True, allow_dash=True, path_type=Path)


class Number(click.FloatRange):
    """A number in a range; NaN, which click takes, as it is neither below nor above, is in none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if math.isnan(found):
            self.fail(f"{value!r} is no number", param, ctx)
        return found
