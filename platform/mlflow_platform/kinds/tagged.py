"""What experiments, registered models and prompts have in common: tags, and the mark among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mlflow_platform.errors import BadInput, Rejected
from mlflow_platform.kinds.base import Json
from mlflow_platform.plan.objects import (
    MARK_MAX_LENGTH,
    MARK_TAG,
    Change,
    FieldChange,
    Mark,
    Path,
    Traits,
    Value,
    matches,
)

#: A mark holds nine characters for each optional field, and owner and origin beside them.
MAX_OPTIONAL = (MARK_MAX_LENGTH - 600) // 9


def declared_tags(tags: Mapping[str, str], head: Path = ()) -> dict[Path, Value]:
    """The fields of declared tags, those of a version below `head`."""
    return {(*head, "tags", key): value for key, value in tags.items()}


def check_optional(fields: Iterable[Path], traits: Traits) -> None:
    """Raise `BadInput` where the mark could not name all optional fields."""
    count = sum(1 for path in fields if matches(path, traits.optional))
    if count > MAX_OPTIONAL:
        raise BadInput(
            f"{count} tags, aliases, descriptions and grants in one document; at most {MAX_OPTIONAL} fit",
            remedy="declare fewer tags",
        )


def tag_map(tags: Sequence[Json] | None) -> dict[str, str]:
    """MLflow's list of tags as a mapping."""
    return {tag["key"]: tag.get("value", "") for tag in tags or ()}


def tag_list(tags: Mapping[str, str]) -> list[Json]:
    """A mapping as MLflow's list of tags."""
    return [{"key": key, "value": value} for key, value in tags.items()]


def new_tags(fields: Iterable[FieldChange]) -> dict[str, str]:
    """The object's own tags that are to be set."""
    return {f.path[1]: str(f.new) for f in fields if _is_tag(f.path) and f.new is not None}


def gone_tags(fields: Iterable[FieldChange]) -> list[str]:
    """The object's own tags that are to be removed."""
    return [f.path[1] for f in fields if _is_tag(f.path) and f.new is None]


def _is_tag(path: Path) -> bool:
    return len(path) == 2 and path[0] == "tags"


def stale_mark(change: Change) -> str | None:
    """The mark's new text where it differs from the one observed (the handle's `mark`), else None.

    Written after what leaves the object is removed and before what is new is set: whatever the moment of a
    kill, the mark then names at least the fields of ours that the object has.
    """
    text = change.mark.to_text() if change.mark else None
    return text if text != change.handle.get("mark") else None


def check_created(error: Rejected, change: Change, tags: Mapping[str, str]) -> None:
    """Return where the object that a refused create (RESOURCE_ALREADY_EXISTS) met, which has these tags, is
    the one this change creates: the request had arrived, and only its answer was lost.

    Raises the refusal, with a remedy, where somebody else made the object.
    """
    if change.mark and tags.get(MARK_TAG) == change.mark.to_text():
        return
    mark = Mark.from_text(tags.get(MARK_TAG))
    by = f" and belongs to {mark.owner} (its {mark.origin})" if mark else ""
    raise Rejected(
        f"{change.key} has appeared since the plan was made{by}: {error.problem.what}",
        code=error.code,
        remedy="plan again",
    ) from None
