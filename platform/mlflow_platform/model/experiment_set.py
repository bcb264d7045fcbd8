"""ExperimentSet: experiments from a matrix, so that one template is the naming convention."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints, ValidationError
from pydantic_core import ErrorDetails

from mlflow_platform.model.base import (
    PATTERNS,
    Document,
    Mistake,
    Model,
    Name,
    ResourceName,
    Spec,
    Step,
    dotted,
    repeated,
)
from mlflow_platform.model.experiment import ExperimentSpec
from mlflow_platform.model.fields import Description, Grants, Tags
from mlflow_platform.model.nearest import nearest, suggestion

MAX_MEMBERS = 5000
#: Most combinations before `exclude`: what can be gone through in a blink.
MAX_COMBINATIONS = 100_000
Axis = Annotated[str, StringConstraints(min_length=1, max_length=63, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
AxisValue = Annotated[str, StringConstraints(min_length=1, max_length=128)]
#: Most characters that the members may have together in texts with placeholders: each has its own copy.
MAX_FILLED = 16_000_000
#: Most tags and grants that they may have together: some 200 bytes of the operator's memory each.
MAX_FIELDS = 250_000
#: Of so many mistakes of one list, the nearest right value is looked for: it costs up to a millisecond each.
_GUESSES = 3
#: No `\s*` before and after, which takes cubic time where it does not match: documents are anybody's.
_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")

AxisValues = dict[str, str]


class ExperimentTemplate(Model):
    """A member of the set; every value may hold placeholders such as `{{ brand }}`."""

    name: Name = Field(description="Name of a member, for example `{{ brand }}/{{ tier }}`.")
    workspace: Annotated[str, StringConstraints(min_length=2, max_length=256)] = Field(
        "default", description="As in Experiment."
    )
    description: Description | None = Field(None, description="As in Experiment.")
    tags: Tags = Field(default_factory=dict, description="As in Experiment; values take placeholders.")
    artifactLocation: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        None, description="As in Experiment."
    )
    grants: Grants = Field(default_factory=list, description="As in Experiment.")


class ExperimentSetSpec(Spec):
    """Axes, the template, and the combinations to leave out."""

    server: ResourceName = Field("default", description="The TrackingServer that holds the members.")
    deletionPolicy: Literal["Retain", "Delete"] = Field("Retain", description="As in Experiment.")
    managementPolicy: Literal["Full", "ObserveOnly"] = Field("Full", description="As in Experiment.")
    matrix: Annotated[
        dict[Axis, Annotated[list[AxisValue], Field(min_length=1, max_length=MAX_MEMBERS)]],
        Field(min_length=1, max_length=8),
    ] = Field(description="Values of each axis; members are their product, at most 5,000.")
    template: ExperimentTemplate = Field(description="What each member is.")
    exclude: Annotated[
        list[Annotated[dict[Axis, AxisValue], Field(max_length=8)]], Field(max_length=1000)
    ] = Field(
        default_factory=list,
        description="Combinations without a member; an axis that is left out matches all its values.",
    )

    def combinations(self) -> Iterator[AxisValues]:
        """The axis values of each member, in the order of the matrix, the last axis fastest. Lazy."""
        axes = list(self.matrix)
        # entries over the same axes are one set, so that a thousand of them cost no more than one
        excluded: dict[tuple[str, ...], set[tuple[str, ...]]] = {}
        for entry in self.exclude:
            over = tuple(a for a in axes if a in entry)
            excluded.setdefault(over, set()).add(tuple(entry[a] for a in over))
        for chosen in itertools.product(*self.matrix.values()):
            values = dict(zip(axes, chosen, strict=True))
            if not any(tuple(values[a] for a in over) in gone for over, gone in excluded.items()):
                yield values

    def names(self) -> Iterator[str]:
        """The members' names."""
        return (fill(self.template.name, values) for values in self.combinations())

    def members(self) -> Iterator[tuple[AxisValues, ExperimentSpec]]:
        """The axis values of each member and what it should be. Lazy.

        Raises pydantic's ValidationError for a member that is no valid experiment; a set that was loaded
        has none.
        """
        content = self._content()
        for values in self.combinations():
            yield values, ExperimentSpec.model_validate(_fill_all(content, values))

    def _content(self) -> dict[str, Any]:
        """What all members have, placeholders unfilled."""
        return self.model_dump(include=set(_OWN)) | self.template.model_dump(exclude_unset=True)

    def mistakes(self, default_name: str) -> Iterator[Mistake]:  # noqa: ARG002 - names come from the template
        users = [grant.user for grant in self.template.grants]
        twice = [mistake.under("template") for mistake in repeated("grants", users, "user")]
        found = [*self._axis_mistakes(), *self._placeholder_mistakes(), *twice]
        yield from found
        total = math.prod(len(v) for v in self.matrix.values())
        if total > MAX_COMBINATIONS:
            what = f"the matrix makes {total:,} combinations; at most {MAX_MEMBERS:,} members are possible"
            yield Mistake(("matrix",), what, "split the set, or take values out of an axis")
        elif not found and (fields := self._fields(min(total, MAX_MEMBERS))) > MAX_FIELDS:
            what = f"the members have {fields:,} tags and grants; at most {MAX_FIELDS:,} are possible"
            yield Mistake(("template",), what, "give permissions by a role, or split the set")
        elif not found and (filled := self._filled(min(total, MAX_MEMBERS))) > MAX_FILLED:
            what = f"texts with placeholders make {filled:,} characters; at most {MAX_FILLED:,} are possible"
            yield Mistake(("template",), what, "shorten these texts, or split the set")
        elif not found:
            yield from self._member_mistakes()

    def _fields(self, members: int) -> int:
        """How many tags and grants so many members have."""
        return members * (len(self.template.tags) + len(self.template.grants))

    def _filled(self, members: int) -> int:
        """About how many characters so many members have in texts with placeholders."""
        mean = {axis: math.fsum(map(len, values)) / len(values) for axis, values in self.matrix.items()}
        each = 0.0
        for _, text in _strings(self.template.model_dump(exclude_unset=True), ()):
            if names := _placeholders(text):
                each += len(_PLACEHOLDER.sub("", text)) + sum(mean[name] for name in names)
        return round(each * members)

    def _axis_mistakes(self) -> Iterator[Mistake]:
        for axis, values in self.matrix.items():
            for mistake in repeated(axis, values, "value"):
                yield mistake.under("matrix")
        axes = tuple(self.matrix)
        known = {axis: dict.fromkeys(values) for axis, values in self.matrix.items()}
        there = {axis: tuple(values) for axis, values in known.items()}
        guesses = 0
        for i, entry in enumerate(self.exclude):
            if not entry:
                yield Mistake(
                    ("exclude", i), "an empty entry would exclude every member", "name an axis in it"
                )
            for axis, value in entry.items():
                if axis not in self.matrix:
                    what = f"exclude names the axis {axis}, which the matrix does not have"
                    yield Mistake(("exclude", i, axis), what, suggestion(axis, self.matrix), axes)
                elif value not in known[axis]:
                    what = f"exclude names the value {value!r}, which the axis {axis} does not have"
                    guesses += 1
                    remedy = suggestion(value, there[axis]) if guesses <= _GUESSES else "correct or remove it"
                    yield Mistake(("exclude", i, axis), what, remedy, there[axis])

    def _placeholder_mistakes(self) -> Iterator[Mistake]:
        for path, text in _strings(self.template.model_dump(exclude_unset=True), ("template",)):
            for name in dict.fromkeys(_placeholders(text)):
                if name not in self.matrix:
                    what = f"the placeholder {{{{ {name} }}}} names no axis of the matrix"
                    yield Mistake(path, what, suggestion(name, self.matrix), tuple(self.matrix))
            left = _PLACEHOLDER.sub("", text)
            if "{{" in left or "}}" in left:
                yield Mistake(path, "a placeholder is not closed", "write it as {{ axis }}")
        placed = _placeholders(self.template.name)
        for axis, values in self.matrix.items():
            if len(values) > 1 and axis not in placed:
                what = (
                    f"the axis {axis} is not part of the name, so its {len(values)} members would share one"
                )
                close = nearest(axis, placed)
                if close is None or close in self.matrix:  # else the unknown placeholder is the mistake
                    yield Mistake(
                        ("template", "name"), what, f"add {{{{ {axis} }}}} to it, or remove the axis"
                    )

    def _member_mistakes(self) -> Iterator[Mistake]:
        content = self._content()
        names: dict[str, AxisValues] = {}
        wrong: set[tuple[Step, ...]] = set()
        count = 0
        for values in self.combinations():
            count += 1
            if count > MAX_MEMBERS:
                continue  # too many in any case
            found = []
            try:
                member = ExperimentSpec.model_validate(_fill_all(content, values))
                name = member.name or ""
                if name in names:
                    what = f"{_said(names[name])} and {_said(values)} would both be named {name!r}"
                    found.append(Mistake(("name",), what, "put something between the placeholders"))
                names.setdefault(name, values)
                for mistake in member.mistakes(name):
                    what = f"{mistake.what} (the member {_said(values)})"
                    found.append(replace(mistake, what=what))
            except ValidationError as error:
                for one in error.errors(include_url=False):
                    if one["loc"][0] in _OWN:  # no placeholder makes these wrong
                        continue
                    what = f"{dotted(one['loc'])} of the member {_said(values)} {_wrong(one)}"
                    found.append(Mistake(one["loc"], what, _REMEDY))
            for mistake in found:
                if mistake.path not in wrong:
                    wrong.add(mistake.path)
                    yield mistake if mistake.path[0] in _OWN else mistake.under("template")
        if count > MAX_MEMBERS:
            what = f"the matrix makes {count:,} members; at most {MAX_MEMBERS:,} are possible"
            yield Mistake(("matrix",), what, "split the set, or exclude more")
        elif count == 0:
            yield Mistake(("exclude",), "every member is excluded", "exclude less, or remove the document")


#: Fields of the set itself that every member has, too.
_OWN = ("server", "deletionPolicy", "managementPolicy")
_REMEDY = "correct the template or the values of the axis"


class ExperimentSet(Document):
    """Experiments by a naming convention: the product of the axes, at most 5,000."""

    plural: ClassVar[str] = "experimentsets"
    short_names: ClassVar[tuple[str, ...]] = ("expset",)
    kind: Literal["ExperimentSet"] = "ExperimentSet"
    spec: ExperimentSetSpec


def fill(text: str, values: AxisValues) -> str:
    """A text with its placeholders filled. Raises KeyError for one that names no axis."""
    return _PLACEHOLDER.sub(lambda match: values[match[1].strip()], text) if "{{" in text else text


def _placeholders(text: str) -> list[str]:
    """The axes that a text names, in its order."""
    return [name.strip() for name in _PLACEHOLDER.findall(text)]


def _fill_all(content: Any, values: AxisValues) -> Any:
    if isinstance(content, str):
        return fill(content, values)
    if isinstance(content, dict):
        return {k: _fill_all(v, values) for k, v in content.items()}
    if isinstance(content, list):
        return [_fill_all(v, values) for v in content]
    return content


def _strings(content: Any, path: tuple[Step, ...]) -> Iterator[tuple[tuple[Step, ...], str]]:
    """Every text in a nested value, and where it is."""
    if isinstance(content, str):
        yield path, content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _strings(value, (*path, key))
    elif isinstance(content, list):
        for i, value in enumerate(content):
            yield from _strings(value, (*path, i))


def _wrong(error: ErrorDetails) -> str:
    """What filling a placeholder can make wrong, in words."""
    context = error.get("ctx", {})
    match error["type"]:
        case "string_too_long":
            return f"has {len(error['input'])} characters; at most {context['max_length']} are possible"
        case "string_pattern_mismatch":
            return f"cannot be {error['input']!r}: {PATTERNS[context['pattern']]}"
    return f"is not possible: {context.get('what', error['msg'])}"


def _said(values: AxisValues) -> str:
    return ", ".join(f"{axis}={value}" for axis, value in values.items())
