"""Workspace: MLflow's own partition of experiments, models and prompts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from mlflow_platform.errors import Problem, Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.declared import common_document
from mlflow_platform.model.base import Document
from mlflow_platform.model.workspace import Workspace as WorkspaceDocument
from mlflow_platform.plan.objects import Action, Change, Desired, Key, Observed, Path, Traits

#: mlflow/utils/workspace_utils.py: DEFAULT_WORKSPACE_NAME.
DEFAULT = "default"

_PATH = "api/3.0/mlflow/workspaces"
DESCRIPTION: Path = ("description",)
ARTIFACT_ROOT: Path = ("defaultArtifactRoot",)
_SENT_AS = {DESCRIPTION: "description", ARTIFACT_ROOT: "default_artifact_root"}


class Workspace(Kind):
    """A workspace. Deleted only when nothing is left in it, and never the default one."""

    name: ClassVar[str] = "Workspace"
    traits: ClassVar[Traits] = Traits(rank=0, optional=(DESCRIPTION, ARTIFACT_ROOT))
    ledgered: ClassVar[bool] = True
    needs: ClassVar[Literal["", "auth", "workspaces"]] = "workspaces"

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, WorkspaceDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        values = {DESCRIPTION: spec.description, ARTIFACT_ROOT: spec.defaultArtifactRoot}
        yield Desired(
            key=Key(self.name, "", spec.name or document.metadata.name),
            origin=document.origin,
            fields={path: value for path, value in values.items() if value},
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
        )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        if not snapshot.workspaces_on:
            if wanted:
                raise Rejected(
                    f"{wanted[0].key}: workspaces are switched off on this server",
                    remedy="start it with `mlflow server --enable-workspaces`, or remove the document",
                    where=wanted[0].where,
                )
            return
        for item in snapshot.once("workspaces", lambda: snapshot.api.call("GET", _PATH)["workspaces"]):
            yield Observed(
                key=Key(self.name, "", item["name"]),
                fields={
                    DESCRIPTION: item.get("description") or None,
                    ARTIFACT_ROOT: item.get("default_artifact_root") or None,
                },
            )

    def review(self, change: Change, secrets: Mapping[Path, str]) -> Problem | None:
        if change.action is Action.DELETE and change.key.name == DEFAULT:
            return Problem(
                "the workspace 'default' cannot be deleted", "set deletionPolicy: Retain on its document"
            )
        return None

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        access.refuse(self.review(change, secrets))
        name = change.key.name
        if change.action is Action.DELETE:
            _delete(api, name)
            return
        # An empty text clears a field.
        body: dict[str, Any] = {_SENT_AS[f.path]: f.new or "" for f in change.fields}
        if change.action is Action.CREATE:
            try:
                api.call("POST", _PATH, json={"name": name, **body}, idempotent=False)
            except Rejected as error:
                if error.code != access.ALREADY_EXISTS:
                    raise
                raise access.made_meanwhile(change.key) from None
        elif body:
            api.call("PATCH", f"{_PATH}/{name}", json=body)

    def document(self, observed: Observed) -> Json | None:
        if observed.key.name == DEFAULT:
            return None
        root = observed.fields.get(ARTIFACT_ROOT)
        return common_document(observed, {"defaultArtifactRoot": root} if root else {})


def _delete(api: Api, name: str) -> None:
    # RESTRICT: CASCADE would drop rows whose artifacts nothing could then find.
    try:
        api.call("DELETE", f"{_PATH}/{name}", params={"mode": "RESTRICT"})
    except Rejected as error:
        if error.code == access.DOES_NOT_EXIST:
            return
        if error.code != "INVALID_STATE":
            raise
        raise access.plain(
            error,
            f"Workspace {name!r} is not empty and stays",
            "delete or move what is in it first; MLflow counts what is soft-deleted too: `mlflow gc` removes "
            "experiments; past deleted webhooks only a DELETE with ?mode=CASCADE by hand goes",
        ) from None
