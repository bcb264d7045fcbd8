"""Experiments: marked by a tag in the create call itself, deleted softly, restored rather than doubled.

The mark stays on a soft-deleted experiment: MLflow lets nobody edit its tags, and to remove the mark before
would leave, after a kill in between, an experiment that is neither deleted nor anybody's. So one that is
restored by hand is still its owner's, and the next plan says so.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.declared import common_document, importable, lost_tags, lost_text, sentence
from mlflow_platform.kinds.lists import LEDGER_EXPERIMENT, experiments
from mlflow_platform.kinds.tagged import (
    check_created,
    check_optional,
    declared_tags,
    gone_tags,
    new_tags,
    stale_mark,
    tag_list,
    tag_map,
)
from mlflow_platform.model.base import MAX_NAME, Document
from mlflow_platform.model.experiment import Experiment as ExperimentDocument
from mlflow_platform.model.experiment import ExperimentSpec
from mlflow_platform.plan.objects import (
    MARK_TAG,
    Action,
    Change,
    Desired,
    Key,
    Mark,
    Observed,
    Path,
    Traits,
    Value,
)

#: mlflow/utils/mlflow_tags.py: MLFLOW_EXPERIMENT_NOTE.
DESCRIPTION_TAG = "mlflow.note.content"
DESCRIPTION: Path = ("description",)
LOCATION: Path = ("artifactLocation",)
GRANTS = "grants"

#: mlflow/store/tracking/sqlalchemy_store.py: `_create_default_experiment` gives it this id.
_DEFAULT_EXPERIMENT = "0"
#: model/experiment.py: the longest location a document may declare.
MAX_LOCATION = 157
_BASE = "api/2.0/mlflow/experiments/"
_RESOURCE = "experiment"


class Experiment(Kind):
    """An experiment of one workspace."""

    name: ClassVar[str] = "Experiment"
    traits: ClassVar[Traits] = Traits(
        rank=20,
        immutable=(LOCATION,),
        optional=(DESCRIPTION, ("tags", "*"), (GRANTS, "*")),
        replaceable=True,
        remedy={LOCATION: "restore the old location, or give the experiment another name"},
    )

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, ExperimentDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        yield Desired(
            key=Key(self.name, spec.workspace, spec.name or document.metadata.name),
            origin=document.origin,
            fields=declared_fields(spec),
            requires=requirements(spec),
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
        )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        granted: Mapping[tuple[str, str], Mapping[str, str]] = {}
        administrators: frozenset[str] = frozenset()
        granting = next((d for d in wanted if any(p[0] == GRANTS for p in d.fields)), None)
        if granting is not None:
            access.need_auth(snapshot, granting)
        if granting is not None or access.has_auth(snapshot):
            granted = access.direct_grants(snapshot, _RESOURCE)
            administrators = access.administrators(snapshot)
        declared = {d.key: d.fields for d in wanted}
        for workspace in snapshot.workspaces:
            for item in experiments(snapshot, workspace):
                if item["name"] == LEDGER_EXPERIMENT:
                    continue
                key = Key(self.name, workspace, item["name"])
                tags = tag_map(item.get("tags"))
                mark = tags.pop(MARK_TAG, None)
                fields: dict[Path, Value] = {
                    DESCRIPTION: tags.pop(DESCRIPTION_TAG, None) or None,
                    LOCATION: item.get("artifact_location"),
                }
                fields.update((("tags", k), v) for k, v in tags.items())
                for user, permission in granted.get((workspace, item["experiment_id"]), {}).items():
                    # An administrator's grant means nothing; MLflow leaves one wherever he creates.
                    if user not in administrators or (GRANTS, user) in declared.get(key, {}):
                        fields[(GRANTS, user)] = permission
                handle: Json = {"id": item["experiment_id"], "mark": mark}
                deleted = item.get("lifecycle_stage") == "deleted"
                if deleted:
                    handle["deleted"] = True
                yield Observed(key, fields, Mark.from_text(mark), soft_deleted=deleted, handle=handle)

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        if header is not None and change.action in (Action.CREATE, Action.REPLACE) and change.new(*LOCATION):
            raise Rejected(
                f"{change.key}: artifactLocation is not allowed where workspaces are on",
                code="INVALID_PARAMETER_VALUE",
                remedy="remove it; the workspace's defaultArtifactRoot says where artifacts go",
            )
        call = _Calls(api, header, change.handle.get("id", ""))
        if change.action is Action.DELETE:
            call.delete()
        elif change.action is Action.FORGET:
            call.remove_tag(MARK_TAG)
        elif change.action is Action.REPLACE:
            _retire(call, change)
            _create(call, change)
        elif change.action is Action.CREATE and not call.id:
            _create(call, change)
        else:
            if change.action is Action.CREATE:
                call.post("restore")
            _converge(call, change)

    def document(self, observed: Observed) -> Json | None:
        if observed.handle.get("id") == _DEFAULT_EXPERIMENT or not observed.active:
            return None
        fields = observed.fields
        extra: Json = {}
        if tags := importable((p[1], v) for p, v in fields.items() if p[0] == "tags"):
            extra["tags"] = tags
        location = _chosen_location(observed)
        if 0 < len(location) <= MAX_LOCATION:
            extra["artifactLocation"] = location
        grants = sorted((p[1], v) for p, v in fields.items() if p[0] == GRANTS)
        if grants:
            extra["grants"] = [{"user": user, "permission": permission} for user, permission in grants]
        return common_document(observed, extra)

    def left_out(self, observed: Observed) -> str | None:
        if observed.handle.get("id") == _DEFAULT_EXPERIMENT or not observed.active:
            return None
        fields = observed.fields
        lost = [
            *lost_text(fields.get(DESCRIPTION)),
            *lost_tags((p[1], v) for p, v in fields.items() if p[0] == "tags"),
        ]
        if len(_chosen_location(observed)) > MAX_LOCATION:
            lost.append(f"its artifactLocation (longer than {MAX_LOCATION} characters)")
        return sentence(observed, lost)


def _chosen_location(observed: Observed) -> str:
    """The place of the artifacts, empty where nobody chose it: `_get_artifact_location` of MLflow's store
    ends in the id."""
    location = str(observed.fields.get(LOCATION) or "")
    return "" if location.endswith(f"/{observed.handle.get('id')}") else location


def declared_fields(spec: ExperimentSpec) -> dict[Path, Value]:
    """What a spec says of an experiment; pure. Raises `BadInput` where it says too much for a mark."""
    fields: dict[Path, Value] = {}
    if spec.description is not None:
        fields[DESCRIPTION] = spec.description or None
    if spec.artifactLocation is not None:
        fields[LOCATION] = spec.artifactLocation
    fields.update(declared_tags(spec.tags))
    fields.update({(GRANTS, grant.user): grant.permission for grant in spec.grants})
    check_optional(fields, Experiment.traits)
    return fields


def requirements(spec: ExperimentSpec) -> frozenset[Key]:
    """The workspace and the users that an experiment refers to."""
    users = {Key("MLflowUser", "", grant.user) for grant in spec.grants}
    return access.in_workspace(spec.workspace) | users


class _Calls:
    """MLflow's calls on one experiment."""

    def __init__(self, api: Api, header: str | None, experiment_id: str) -> None:
        self.api = api
        self.header = header
        self.id = experiment_id

    def post(self, verb: str, **body: object) -> Json:
        body = {"experiment_id": self.id, **body} if self.id else body
        return self.api.call("POST", _BASE + verb, json=body, workspace=self.header)

    def set_tag(self, key: str, value: str) -> None:
        self.post("set-experiment-tag", key=key, value=value)

    def remove_tag(self, key: str) -> None:
        access.remove(
            self.api,
            "POST",
            _BASE + "delete-experiment-tag",
            {"experiment_id": self.id, "key": key},
            self.header,
        )

    def delete(self) -> None:
        access.remove(self.api, "POST", _BASE + "delete", {"experiment_id": self.id}, self.header)


def _create(call: _Calls, change: Change) -> None:
    name, location, description = change.key.name, change.new(*LOCATION), change.new(*DESCRIPTION)
    tags = new_tags(change.fields)
    if description is not None:
        tags[DESCRIPTION_TAG] = str(description)
    if change.mark:
        tags[MARK_TAG] = change.mark.to_text()
    body: Json = {"name": name, "tags": tag_list(tags)}
    if location is not None:
        body["artifact_location"] = location
    call.id = ""
    try:
        call.id = call.post("create", **body)["experiment_id"]
    except Rejected as error:
        if error.code != access.ALREADY_EXISTS:
            raise
        params = {"experiment_name": name}
        found = call.api.call("GET", _BASE + "get-by-name", params=params, workspace=call.header)[
            "experiment"
        ]
        check_created(error, change, tag_map(found.get("tags")))
        call.id = found["experiment_id"]
    _grant(call, change)


def _converge(call: _Calls, change: Change) -> None:
    """Bring an existing experiment to its document; see `stale_mark` for the order."""
    for key in gone_tags(change.fields):
        call.remove_tag(key)
    description = next((f for f in change.fields if f.path == DESCRIPTION), None)
    if description is not None and description.new is None:
        call.remove_tag(DESCRIPTION_TAG)
    for field in change.fields:
        if field.path[0] == GRANTS and field.new is None:
            access.revoke(call.api, call.header, field.path[1], _RESOURCE, call.id)
    mark = stale_mark(change)
    if mark is not None:
        call.set_tag(MARK_TAG, mark)
    if description is not None and description.new is not None:
        call.set_tag(DESCRIPTION_TAG, str(description.new))
    for key, value in new_tags(change.fields).items():
        call.set_tag(key, value)
    _grant(call, change)


def _grant(call: _Calls, change: Change) -> None:
    for field in change.fields:
        if field.path[0] == GRANTS and field.new is not None:
            access.grant(call.api, call.header, field.path[1], _RESOURCE, call.id, str(field.new))


def _retire(call: _Calls, change: Change) -> None:
    """Make room for a replacement: the old experiment keeps its runs, soft-deleted, under another name.

    First its mark says that it is to be deleted, so that a kill after the rename leaves something that the
    next plan deletes.
    """
    suffix = f".replaced-{call.id}"
    if change.handle.get("deleted"):
        call.post("restore")
    if change.mark:
        call.set_tag(MARK_TAG, Mark(change.mark.owner, change.mark.origin, "Delete").to_text())
    call.post("update", new_name=change.key.name[: MAX_NAME - len(suffix)] + suffix)
    call.delete()
