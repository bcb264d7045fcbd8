"""Cron expressions as kube-apiserver reads them (github.com/robfig/cron/v3, `ParseStandard`), but for what it
lets pass and nobody means: an empty place between commas, a star that begins a range."""

from __future__ import annotations

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
