"""The document that declares an observed object: what the documents of all kinds have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Json
from mlflow_platform.kinds.names import resource_name
from mlflow_platform.model.base import API_VERSION
from mlflow_platform.model.fields import RESERVED_TAG_PREFIXES
from mlflow_platform.plan.objects import Observed, Value

#: model/fields.py: the bounds of `Tags`, `TagValue` and `Description`.
_MAX_TAGS, _MAX_VALUE = 64, 5000


def common_document(observed: Observed, spec: Json) -> Json:
    """The document of an observed object, with what is particular to its kind in `spec`.

    An object of ours keeps its document's name and deletion policy, so that its owner's plan is empty too.
    """
    key, mark = observed.key, observed.mark
    namespace, name = "default", resource_name(*access.name_parts(key))
    if mark and "#" not in mark.origin and mark.origin.count("/") == 2:
        _, namespace, name = mark.origin.split("/")
    metadata: Json = {"name": name} if namespace == "default" else {"name": name, "namespace": namespace}
    common: Json = {} if name == key.name else {"name": key.name}
    if key.workspace not in ("", "default"):
        common["workspace"] = key.workspace
    if mark and mark.deletion == "Delete":
        common["deletionPolicy"] = "Delete"
    description = importable_text(observed.fields.get(("description",)))
    if description is not None:
        common["description"] = description
    return {"apiVersion": API_VERSION, "kind": key.kind, "metadata": metadata, "spec": {**common, **spec}}


def importable(tags: Iterable[tuple[str, Value]]) -> dict[str, str]:
    """The tags that a document may declare: neither MLflow's own nor ours, within a document's bounds.
    What is left out is left alone, as every tag is that no document declares."""
    fitting = ((k, v) for k, v in _theirs(tags).items() if len(v) <= _MAX_VALUE)
    return dict(list(fitting)[:_MAX_TAGS])


def importable_text(text: Value) -> str | None:
    """A description that a document may declare; None where there is none, or it is too long."""
    return text if isinstance(text, str) and 0 < len(text) <= _MAX_VALUE else None


def lost_tags(tags: Iterable[tuple[str, Value]], of: str = "") -> list[str]:
    """What to say of tags that people made and that `importable` leaves out; `of` is ` of version 3`."""
    theirs = _theirs(tags)
    lost = sorted(set(theirs) - set(importable(theirs.items())))
    why = f"more than {_MAX_TAGS}, or longer than {_MAX_VALUE} characters"
    return [f"{listed('tag', lost)}{of} ({why})"] if lost else []


def lost_text(text: Value, name: str = "description", of: str = "") -> list[str]:
    """What to say of a text that `importable_text` leaves out."""
    too_long = isinstance(text, str) and len(text) > _MAX_VALUE
    return [f"the {name}{of} (longer than {_MAX_VALUE} characters)"] if too_long else []


def no_document(observed: Observed, why: str) -> str:
    """What to say of an object that cannot be declared."""
    return f"{observed.key} has no document: {why}"


def sentence(observed: Observed, lost: Sequence[str], unknown: Sequence[str] = ()) -> str | None:
    """One sentence of all that is lost of an object, and of what the server does not know of it."""
    said = [f"left out: {', '.join(lost)}"] if lost else []
    said += [f"{what} is not known to the server: put it back" for what in unknown]
    return f"{observed.key}: {'; '.join(said)}" if said else None


def listed(what: str, names: Sequence[str], plural: str = "s") -> str:
    """`the tags a, b`."""
    return f"the {what}{plural if len(names) > 1 else ''} {', '.join(names)}"


def _theirs(tags: Iterable[tuple[str, Value]]) -> dict[str, str]:
    """The tags that people made."""
    return {k: v for k, v in sorted(tags) if isinstance(v, str) and not k.startswith(RESERVED_TAG_PREFIXES)}
