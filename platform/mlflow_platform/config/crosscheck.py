"""What can only be wrong between documents: two of one identity, two for one object of MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from mlflow_platform.config.mending import is_stand_in
from mlflow_platform.errors import Location, Problem
from mlflow_platform.model import DOCUMENTS
from mlflow_platform.model.base import Document, ObjectSpec, Step
from mlflow_platform.model.experiment_set import ExperimentSet

if TYPE_CHECKING:
    from mlflow_platform.config.loading import Loaded

#: Kinds whose objects share names in MLflow: prompts are registered models with a tag
#: (mlflow/prompt/constants.py: IS_PROMPT_TAG_KEY), members of a set are experiments.
_NAMES = {
    "ExperimentSet": "experiment",
    "Experiment": "experiment",
    "RegisteredModel": "registered model or prompt",
    "Prompt": "registered model or prompt",
    "MLflowUser": "user",
    "MLflowRole": "role",
    "Webhook": "webhook",
    "Workspace": "workspace",
}


class Identity(NamedTuple):
    """A document's kind, namespace and name, also where the rest of it is mistaken."""

    kind: str
    namespace: str
    name: str
    where: Location


def identity(kind: str, value: dict[str, Any], where: Location) -> Identity | None:
    """The identity of a document that is not valid, as far as it has one."""
    metadata = value.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        return None
    namespace = metadata.get("namespace", "default")
    if DOCUMENTS[kind].scope == "Cluster" or not isinstance(namespace, str):
        namespace = "default"
    return Identity(kind, namespace, metadata["name"], where)


def has_names(document: Document) -> bool:
    """Whether the names that a mended document declares can be told: a set with mistakes has none."""
    return not isinstance(document, ExperimentSet) or next(document.mistakes(), None) is None


def problems(seen: Sequence[Loaded | Identity]) -> Iterator[Problem]:
    """Documents that are declared twice, and objects of MLflow that two documents declare."""
    first: dict[tuple[str, str, str], Location | Loaded] = {}
    objects: dict[tuple[str, str, str, str], Loaded] = {}
    for one in seen:
        if isinstance(one, Identity):
            key = (one.kind, one.namespace, one.name)
            if key in first:
                yield _twice(key, first[key], one.where)
            first.setdefault(key, one.where)
            continue
        document = one.document
        cluster = document.scope == "Cluster"
        key = (document.kind, "default" if cluster else document.metadata.namespace, document.metadata.name)
        if key in first:
            yield _twice(key, first[key], one.where("metadata", "name"))
            continue
        if not any(is_stand_in(part) for part in key):
            first[key] = one
        what = _NAMES.get(document.kind)
        if what is None:
            continue
        server, workspace = document.spec.server, _workspace(document)
        for name, path in _names(document):
            place = (server, workspace, what, name)
            if any(is_stand_in(part) for part in place):
                continue
            other = objects.setdefault(place, one)
            if other is not one:
                yield _same(document, name, what, other, one.where(*path))


def _names(document: Document) -> Iterator[tuple[str, tuple[Step, ...]]]:
    """The names in MLflow of the objects that a document declares, and the field each comes from."""
    if isinstance(document, ExperimentSet):
        for name in document.spec.names():
            yield name, ("spec", "template", "name")
    elif isinstance(document.spec, ObjectSpec):
        given = document.spec.name is not None
        yield (
            document.spec.name or document.metadata.name,
            ("spec", "name") if given else ("metadata", "name"),
        )


def _workspace(document: Document) -> str:
    spec = document.spec.template if isinstance(document, ExperimentSet) else document.spec
    return str(getattr(spec, "workspace", ""))


def _twice(key: tuple[str, str, str], first: Location | Loaded, where: Location) -> Problem:
    place = first if isinstance(first, Location) else first.where("metadata", "name")
    kind, namespace, name = key
    what = f"{kind} {name!r} of namespace {namespace!r} is declared twice, first at {place}"
    return Problem(what, "remove or rename one of the two", where)


def _same(document: Document, name: str, what: str, other: Loaded, where: Location) -> Problem:
    origin = other.document
    first = f"{origin.kind} {origin.metadata.name!r} at {other.where()}"
    shared = "" if origin.kind == document.kind else f" ({origin.kind} and {document.kind} share their names)"
    text = f"the {what} {name!r} is declared already, by {first}{shared}"
    return Problem(text, "remove one of the two, or give it another spec.name", where)
