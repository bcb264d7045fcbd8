"""Golden files: compared by tests, rewritten by `UPDATE_GOLDEN=1 pytest`, reviewed as diffs."""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def check(name: str, text: str) -> None:
    """Compare a text with the file `name` of the golden folder."""
    path = FOLDER / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    assert path.read_text("utf-8") == text, f"{name} differs; UPDATE_GOLDEN=1 rewrites it"
