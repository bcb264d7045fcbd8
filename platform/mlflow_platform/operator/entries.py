"""Documents as the API server has them, read into the models. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from mlflow_platform.errors import PlatformError, Problem
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.model import DOCUMENTS, Document
from mlflow_platform.model.base import API_VERSION, dotted
from mlflow_platform.model.crd import FINALIZER, OPERATOR
from mlflow_platform.plan.objects import Desired, Key

#: "true" on a document that is being deleted: its finalizer is dropped, and its object left as it is.
ABANDON = "mlplatform.io/abandon"
#: On a TrackingServer: the hash of a plan that may pass the brake.
ALLOW_DESTRUCTIVE = "mlplatform.io/allow-destructive-plan"
_OURS = "mlplatform.io/"


@dataclass(frozen=True, slots=True)
class Entry:
    """One document in the cluster. `document` is None where it is mistaken, and `mistake` says how."""

    kind: str
    namespace: str
    name: str
    uid: str
    version: int
    """metadata.resourceVersion: kube-apiserver's count of changes."""
    generation: int
    created: str
    deleting: bool
    finalizers: tuple[str, ...]
    annotations: Mapping[str, str]
    """Those of ours only."""
    server: str
    status: Mapping[str, Any] = field(repr=False)
    document: Document | None = field(default=None, repr=False)
    mistake: Problem | None = None
    desired: tuple[Desired, ...] = field(default=(), repr=False)

    @property
    def origin(self) -> str:
        """As in marks: `Kind/namespace/name`."""
        return f"{self.kind}/{self.namespace}/{self.name}"

    @property
    def held(self) -> bool:
        """Whether our finalizer holds it."""
        return FINALIZER in self.finalizers

    @property
    def wants_delete(self) -> bool:
        return self.document is not None and getattr(self.document.spec, "deletionPolicy", "") == "Delete"

    @property
    def abandoned(self) -> bool:
        return self.annotations.get(ABANDON) == "true"

    def same_work(self, other: Entry) -> bool:
        """Whether the other version of the document asks for nothing else: only its status differs."""
        return (self.uid, self.generation, self.deleting, self.held, self.annotations) == (
            other.uid,
            other.generation,
            other.deleting,
            other.held,
            other.annotations,
        )


def serves(operator: str, server: Entry | None) -> bool:
    """Whether this operator (`NAMESPACE/NAME`) is to look after the documents of a TrackingServer: where that
    names no other one."""
    return server is None or server.annotations.get(OPERATOR, operator) == operator


def read(kind: str, raw: Mapping[str, Any], before: Entry | None = None) -> Entry:
    """An object of the API server. What `before` had read of the same generation is taken from it."""
    metadata = raw["metadata"]
    annotations = {k: v for k, v in (metadata.get("annotations") or {}).items() if k.startswith(_OURS)}
    generation, uid = int(metadata.get("generation", 0)), metadata["uid"]
    known = before is not None and (before.uid, before.generation, before.annotations) == (
        uid,
        generation,
        annotations,
    )
    if known and before is not None:
        document, mistake, desired = before.document, before.mistake, before.desired
    else:
        document, mistake, desired = _read(kind, raw, annotations)
    spec = raw.get("spec") or {}
    return Entry(
        kind=kind,
        # A cluster-scoped object has none; a mark's origin says `default` then, as on the command line.
        namespace=metadata.get("namespace", "default"),
        name=metadata["name"],
        uid=uid,
        version=int(metadata["resourceVersion"]),
        generation=generation,
        created=metadata.get("creationTimestamp", ""),
        deleting="deletionTimestamp" in metadata,
        finalizers=tuple(metadata.get("finalizers") or ()),
        annotations=annotations,
        server=str(spec.get("server", "default")),
        status=raw.get("status") or {},
        document=document,
        mistake=mistake,
        desired=desired,
    )


def _read(
    kind: str, raw: Mapping[str, Any], annotations: Mapping[str, str]
) -> tuple[Document | None, Problem | None, tuple[Desired, ...]]:
    metadata: dict[str, Any] = {"name": raw["metadata"]["name"], "annotations": annotations}
    if "namespace" in raw["metadata"]:
        metadata["namespace"] = raw["metadata"]["namespace"]
    value = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": raw.get("spec") or {}}
    try:
        document = DOCUMENTS[kind].model_validate(value)
        desired = tuple(KINDS[kind].desired(document)) if kind in KINDS else ()
    except ValidationError as error:
        return None, _mistake(error), ()
    except PlatformError as error:
        return None, error.problem, ()
    return document, None, desired


def _mistake(error: ValidationError) -> Problem:
    """All mistakes of a document as one problem."""
    said: list[str] = []
    remedies: list[str] = []
    for found in error.errors(include_url=False, include_input=False):
        context = found.get("ctx", {})
        if found["type"] == "mistakes":
            said += [f"{dotted(m.path)}: {m.what}" for m in context["mistakes"]]
            remedies += [m.remedy for m in context["mistakes"]]
        else:
            said.append(f"{dotted(found['loc'])}: {context.get('what', found['msg'])}")
            remedies += [str(context["remedy"])] if "remedy" in context else []
    return Problem("; ".join(said[:10]), "; ".join(dict.fromkeys(remedies[:10])))


#: Prompts are registered models with a tag (mlflow/prompt/constants.py): one name, one object.
_SHARED_NAMES = {"Prompt": "RegisteredModel"}


def contested(entries: Iterable[Entry]) -> dict[str, Problem]:
    """Documents of one server whose object an older document declares already, by origin."""
    first: dict[Key, Entry] = {}
    problems: dict[str, Problem] = {}
    for entry in sorted(entries, key=lambda e: (e.created, e.uid)):
        for item in entry.desired:
            key = item.key
            if key.kind in _SHARED_NAMES:
                key = Key(_SHARED_NAMES[key.kind], key.workspace, key.name)
            other = first.setdefault(key, entry)
            if other is not entry and entry.origin not in problems:
                what = f"{item.key} is declared already, by {other.origin}"
                remedy = "remove one of the two, or give it another spec.name"
                problems[entry.origin] = Problem(what, remedy)
    return problems
