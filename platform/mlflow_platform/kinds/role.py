"""MLflowRole: permissions under a name, and the users who have them.

A document names experiments; MLflow's permissions hold their ids. Ids become names while observing, names
become ids when a change is carried out, since the experiment may have been made by the same apply.

MLflow keeps a permission when its object is deleted. A `#` in front of a resource says: what MLflow's
permission holds, as it is, whether or not there is such an object. `#<id>` is an experiment by its id,
`#<name>` a registered model or a prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal
from urllib.parse import quote, unquote

from mlflow_platform.errors import Blocked, Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.declared import common_document, no_document
from mlflow_platform.kinds.lists import experiments, registered
from mlflow_platform.model.base import Document
from mlflow_platform.model.role import MLflowRole as RoleDocument
from mlflow_platform.plan.objects import (
    Action,
    Change,
    Desired,
    FieldChange,
    Key,
    Observed,
    Path,
    Traits,
    Value,
)

DESCRIPTION: Path = ("description",)
PERMISSIONS = "permissions"
MEMBERS = "members"

_ID = re.compile(r"^#\d+$")
_AS_IT_IS = "#"
#: The kinds whose objects permissions name as documents do.
_REGISTRY = {"registered_model": "RegisteredModel", "prompt": "Prompt"}
#: In a handle: the role's workspace is not on the server.
_NOWHERE = "no workspace"
#: mlflow/server/auth/__init__.py: `_DEFAULT_WORKSPACE_ROLES`, what MLflow puts into a new workspace.
_SEEDED = {"admin": "MANAGE", "user": "USE"}


class MLflowRole(Kind):
    """A role of one workspace; its document is the authority on permissions and members."""

    name: ClassVar[str] = "MLflowRole"
    traits: ClassVar[Traits] = Traits(
        rank=40, optional=(DESCRIPTION,), exclusive=((PERMISSIONS, "*", "*"), (MEMBERS, "*"))
    )
    ledgered: ClassVar[bool] = True
    needs: ClassVar[Literal["", "auth", "workspaces"]] = "auth"

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, RoleDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        fields: dict[Path, Value] = {DESCRIPTION: spec.description} if spec.description else {}
        requires = set(access.in_workspace(spec.workspace))
        for item in spec.permissions:
            resource = item.resource
            if item.resourceType == "scorer" and resource != "*":
                resource = _scorer(*resource.rsplit("/", 1))
            fields[(PERMISSIONS, item.resourceType, resource)] = item.permission
            requires |= _named(item.resourceType, resource, spec.workspace)
        for user in spec.members:
            fields[(MEMBERS, user)] = True
            requires.add(Key("MLflowUser", "", user))
        yield Desired(
            key=Key(self.name, spec.workspace, spec.name or document.metadata.name),
            origin=document.origin,
            fields=fields,
            requires=frozenset(requires),
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
        )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        if wanted:
            access.need_auth(snapshot, wanted[0])
        declared = {d.key: d.fields for d in wanted}
        found = access.roles(snapshot)
        members: dict[int, list[str]] = {}
        for user in access.users(snapshot):
            for role in user["roles"]:
                members.setdefault(role["id"], []).append(user["username"])
        for role in found:
            workspace: str = role["workspace"]
            key = Key(self.name, workspace, role["name"])
            names = _Names(snapshot, workspace, declared.get(key, {}))
            fields: dict[Path, Value] = {DESCRIPTION: role["description"] or None}
            for row in role["permissions"]:
                kind, pattern = row["resource_type"], row["resource_pattern"]
                fields[(PERMISSIONS, kind, names.resource(kind, pattern))] = row["permission"]
            for username in members.get(role["id"], ()):
                fields[(MEMBERS, username)] = True
            nowhere = {} if workspace in snapshot.workspaces else {_NOWHERE: True}
            yield Observed(key, fields, handle={"role_id": role["id"], **nowhere})

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        if change.action is Action.DELETE:
            access.remove(api, "DELETE", "api/3.0/mlflow/roles/delete", {"role_id": change.handle["role_id"]})
            return
        # Before the first write: a name that is not there must leave nothing half done.
        patterns = {
            f.path: (f.path[1], _pattern(api, f.path, header))
            for f in change.fields
            if f.path[0] == PERMISSIONS
        }
        role_id = _create(api, change) if change.action is Action.CREATE else change.handle["role_id"]
        rows = (
            _rows(api, role_id)
            if any(f.old is not None and f.path in patterns for f in change.fields)
            else {}
        )
        # A permission with two names, as it is and by what has come back, is changed rather than removed.
        stays = {patterns[f.path] for f in change.fields if f.path in patterns and f.new is not None}
        for field in change.fields:
            if field.path == DESCRIPTION and change.action is not Action.CREATE:
                body = {"role_id": role_id, "description": field.new or ""}
                api.call("PATCH", "api/3.0/mlflow/roles/update", json=body)
            elif field.path in patterns:
                place = patterns[field.path]
                if field.new is None and place in stays:
                    continue
                _permit(api, role_id, place, field, rows.get(place))
            elif field.path[0] == MEMBERS:
                _enrol(api, role_id, field.path[1], bool(field.new))

    def document(self, observed: Observed) -> Json | None:
        if _seeded(observed) or _NOWHERE in observed.handle:
            return None
        fields = observed.fields
        spec: Json = {}
        permissions = sorted((p[1], p[2], v) for p, v in fields.items() if p[0] == PERMISSIONS)
        if permissions:
            spec["permissions"] = [
                {"resourceType": kind, "resource": resource, "permission": permission}
                for kind, resource, permission in permissions
            ]
        members = sorted(p[1] for p in fields if p[0] == MEMBERS)
        if members:
            spec["members"] = members
        return common_document(observed, spec)

    def left_out(self, observed: Observed) -> str | None:
        if _NOWHERE not in observed.handle or _seeded(observed):
            return None
        return no_document(observed, "its workspace is not on the server")


def _scorer(experiment: str, scorer: str) -> str:
    """One spelling of a scorer's name: MLflow's own (`_scorer_pattern` in its auth store)."""
    return f"{experiment}/{quote(unquote(scorer), safe='')}"


def _named(kind: str, resource: str, workspace: str) -> set[Key]:
    """The object that a permission names, if it names one that documents know."""
    if kind == "scorer" and resource != "*":
        kind, resource = "experiment", resource.rsplit("/", 1)[0]
    known = {"experiment": "Experiment", **_REGISTRY}
    as_it_is = _ID.match(resource) if kind == "experiment" else resource.startswith(_AS_IT_IS)
    if resource == "*" or kind not in known or as_it_is:
        return set()
    return {Key(known[kind], workspace, resource)}


class _Names:
    """What a document calls the objects of a role's permissions: by their names where they are there, else
    as MLflow has them. Lists are fetched when first needed."""

    def __init__(self, snapshot: Snapshot, workspace: str, declared: Mapping[Path, Value]) -> None:
        self._snapshot = snapshot
        self._workspace = workspace
        self._declared = declared

    def resource(self, kind: str, pattern: str) -> str:
        """The resource that means `pattern`; as the role's own document spells it, where it has a choice."""
        if pattern == "*" or kind not in ("experiment", "scorer", *_REGISTRY):
            return pattern
        if (PERMISSIONS, kind, _AS_IT_IS + pattern) in self._declared:
            return _AS_IT_IS + pattern
        if kind in _REGISTRY:
            plain = pattern in self._registered(kind) and not pattern.startswith(_AS_IT_IS)
            return pattern if plain else _AS_IT_IS + pattern
        if kind == "experiment":
            return self._experiment(pattern)
        experiment_id, slash, scorer = pattern.partition("/")
        return _scorer(self._experiment(experiment_id), scorer) if slash else pattern

    def _experiment(self, experiment_id: str) -> str:
        def by_id() -> dict[str, str]:
            if self._workspace not in self._snapshot.workspaces:
                return {}  # a role of a workspace that is gone
            return {e["experiment_id"]: e["name"] for e in experiments(self._snapshot, self._workspace)}

        found = self._snapshot.once(f"experiment names:{self._workspace}", by_id).get(experiment_id)
        # A name that looks like an id would be taken for one.
        return _AS_IT_IS + experiment_id if found is None or _ID.match(found) or found == "*" else found

    def _registered(self, kind: str) -> frozenset[str]:
        def names() -> frozenset[str]:
            if self._workspace not in self._snapshot.workspaces:
                return frozenset()
            listed = registered(self._snapshot, self._workspace, prompts=kind == "prompt")
            return frozenset(item["name"] for item in listed)

        return self._snapshot.once(f"{kind} names:{self._workspace}", names)


def _pattern(api: Api, path: Path, header: str | None) -> str:
    """MLflow's `resource_pattern` for what a document calls an object, looked up now."""
    _, kind, resource = path
    if kind in _REGISTRY:
        return resource.removeprefix(_AS_IT_IS)
    if resource == "*" or kind not in ("experiment", "scorer"):
        return resource
    if kind == "experiment":
        return _experiment_id(api, resource, header)
    experiment, scorer = resource.rsplit("/", 1)
    return f"{_experiment_id(api, experiment, header)}/{scorer}"


def _experiment_id(api: Api, name: str, header: str | None) -> str:
    if _ID.match(name):
        return name[1:]
    try:
        answer = api.call(
            "GET",
            "api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": name},
            workspace=header,
        )
    except Rejected as error:
        if error.code != access.DOES_NOT_EXIST:
            raise
        raise Blocked(
            f"the experiment {name!r}, which the role names, is not on the server",
            remedy="declare it, or correct the name",
        ) from None
    return str(answer["experiment"]["experiment_id"])


def _create(api: Api, change: Change) -> int:
    body = {"name": change.key.name, "workspace": change.key.workspace}
    description = change.new(*DESCRIPTION)
    if description:
        body["description"] = str(description)
    try:
        answer = api.call("POST", "api/3.0/mlflow/roles/create", json=body, idempotent=False)
    except Rejected as error:
        if error.code != access.ALREADY_EXISTS:
            raise
        raise access.made_meanwhile(change.key) from None
    role_id: int = answer["role"]["id"]
    return role_id


def _rows(api: Api, role_id: int) -> dict[tuple[str, str], int]:
    """Ids of a role's permissions by type and pattern, read now."""
    answer = api.call("GET", "api/3.0/mlflow/roles/permissions/list", params={"role_id": role_id})
    return {(r["resource_type"], r["resource_pattern"]): r["id"] for r in answer["role_permissions"]}


def _permit(api: Api, role_id: int, place: tuple[str, str], field: FieldChange, row: int | None) -> None:
    if field.new is None:
        if row is not None:
            access.remove(
                api, "DELETE", "api/3.0/mlflow/roles/permissions/remove", {"role_permission_id": row}
            )
    elif row is not None:
        access.update_permission(api, row, str(field.new))
    else:
        kind, pattern = place
        body = {
            "role_id": role_id,
            "resource_type": kind,
            "resource_pattern": pattern,
            "permission": field.new,
        }
        access.add(api, "api/3.0/mlflow/roles/permissions/add", body)


def _enrol(api: Api, role_id: int, username: str, member: bool) -> None:
    body = {"role_id": role_id, "username": username}
    if member:
        access.add(api, "api/3.0/mlflow/roles/assign", body)
    else:
        access.remove(api, "DELETE", "api/3.0/mlflow/roles/unassign", body)


def _seeded(observed: Observed) -> bool:
    """Whether MLflow made the role and nobody has touched it."""
    permission = _SEEDED.get(observed.key.name)
    own = {p: v for p, v in observed.fields.items() if p != DESCRIPTION}
    return observed.key.workspace != "default" and own == {(PERMISSIONS, "workspace", "*"): permission}
