"""Cron expressions as kube-apiserver reads them (github.com/robfig/cron/v3, `ParseStandard`), but for what it
lets pass and nobody means: an empty place between commas, a star that begins a range."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple


class _Field(NamedTuple):
    noun: str
    least: int
    most: int
    names: tuple[str, ...] = ()
    """Of the values from `least` on."""


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_FIELDS = (
    _Field("minute", 0, 59),
    _Field("hour", 0, 23),
    _Field("day of the month", 1, 31),
    _Field("month", 1, 12, _MONTHS),
    _Field("day of the week", 0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


#: What to do about a mistake.
REMEDY = "write minute, hour, day of the month, month and day of the week, such as 0 2 * * 1-5"
_NAMED = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: How far cron/v3 looks ahead (spec.go, `Next`: five years).
_HORIZON_DAYS = 5 * 366


def following(schedule: str, now: datetime) -> datetime | None:
    """The first minute after `now` (UTC) of a schedule without a mistake; None where there is none."""
    texts = _NAMED.get(schedule, schedule).split()
    minutes, hours, days, months, weekdays = (
        _values(text, field) for text, field in zip(texts, _FIELDS, strict=True)
    )
    # Where one of the two says "any", both must hold, else either (spec.go, `dayMatches`).
    both = _any(texts[2]) or _any(texts[4])
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in (midnight + timedelta(days=n) for n in range(_HORIZON_DAYS)):
        of_month, of_week = day.day in days, day.isoweekday() % 7 in weekdays
        if day.month not in months or not ((of_month and of_week) if both else (of_month or of_week)):
            continue
        for hour in sorted(hours):
            for minute in sorted(minutes):
                if (found := day.replace(hour=hour, minute=minute)) > now:
                    return found
    return None


def _any(text: str) -> bool:
    """Whether a field has a bare star (parser.go, `getRange`: one with a step above 1 is none)."""
    parts = [part.partition("/") for part in text.split(",")]
    return any(span in ("*", "?") and step in ("", "1") for span, _, step in parts)


def _values(text: str, field: _Field) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, slash, step = part.partition("/")
        first, dash, last = span.partition("-")
        begin, end = (field.least, field.most) if span in ("*", "?") else (_value(first, field) or 0, None)
        if end is None:
            end = (_value(last, field) or 0) if dash else (field.most if slash else begin)
        found.update(range(begin, end + 1, int(step or 1)))
    return found


def mistake(schedule: str) -> str:
    """What is wrong with five fields of cron; empty where nothing is. Names as @daily are not looked at."""
    if schedule.startswith("@"):
        return ""
    fields = schedule.split()
    if len(fields) != len(_FIELDS):
        return f"there are {len(fields)} fields"
    found = (
        _of_part(part, field) for text, field in zip(fields, _FIELDS, strict=True) for part in text.split(",")
    )
    return next(filter(None, found), "")


def _of_part(part: str, field: _Field) -> str:
    span, slash, step = part.partition("/")
    if slash and not (step.isdecimal() and int(step) > 0):
        return f"the step of {field.noun} in {part!r} is no number above 0"
    first, dash, last = span.partition("-")
    if span in ("*", "?"):
        return ""
    values = [_value(text, field) for text in ((first, last) if dash else (first,))]
    if None in values:
        named = f" or {field.names[0]} to {field.names[-1]}" if field.names else ""
        return f"{part!r} is no {field.noun}: {field.least} to {field.most}{named}"
    begin, end = values[0], values[-1]
    if begin is not None and end is not None and begin > end:
        return f"{part!r} ends before it begins"
    return ""


def _value(text: str, field: _Field) -> int | None:
    if text.lower() in field.names:
        return field.least + field.names.index(text.lower())
    if not (text.isascii() and text.isdecimal()):
        return None
    return int(text) if field.least <= int(text) <= field.most else None
