"""The nearest valid name, for messages about a name that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, valid: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The valid name most like `name`, whatever its case; None where nothing is like it.

    `likeness` is the smallest `difflib` ratio, 1 for the same name.
    """
    by_lower = {v.lower(): v for v in valid}
    found = difflib.get_close_matches(name[:300].lower(), by_lower, n=1, cutoff=likeness)
    return by_lower[found[0]] if found else None


def suggestion(name: str, valid: Iterable[str], *, limit: int = 30) -> str:
    """`did you mean X?`, or else the names there are (the first `limit` of them)."""
    names = list(valid)
    found = nearest(name, names)
    if found is not None:
        return f"did you mean {found}?"
    if not names:
        return "none is known here"
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"known: {', '.join(names[:limit])}{more}"
