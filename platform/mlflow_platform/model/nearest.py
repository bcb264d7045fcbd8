"""The nearest valid name, for messages about a name that is not known."""

from __future__ import annotations

import difflib
import heapq
import itertools
from collections.abc import Iterable

#: To compare two long names takes `difflib` up to a millisecond: of more names than this, only so many that
#: share most of their beginning and end are compared.
_MANY = 50


def nearest(name: str, valid: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The valid name most like `name`, whatever its case; None where nothing is like it.

    `likeness` is the smallest `difflib` ratio, 1 for the same name.
    """
    by_lower = {v.lower(): v for v in valid}
    name = name[:300].lower()
    likely = by_lower if len(by_lower) <= _MANY else heapq.nlargest(_MANY, by_lower, lambda v: _ends(name, v))
    found = difflib.get_close_matches(name, likely, n=1, cutoff=likeness)
    return by_lower[found[0]] if found else None


def _ends(one: str, other: str) -> int:
    """How many characters two names share at their beginning and at their end."""
    pairs = ((one, other), (reversed(one), reversed(other)))
    return sum(
        1 for two in pairs for _ in itertools.takewhile(lambda p: p[0] == p[1], zip(*two, strict=False))
    )


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
