"""MLflowRole: permissions under a name, and the users who have them.

A document names experiments; MLflow's permissions hold their ids. Ids become names while observing, names
become ids when a change is carried out, since the experiment may have been made by the same apply. `#<id>`
stands for an id that no experiment has any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal
from urllib.parse import quote, unquote

from mlflow_platform.errors import Blocked, Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.lists import experiments
from mlflow_platform.kinds.names import resource_name
from mlflow_platform.model.base import API_VERSION, Document
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

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:  # noqa: ARG002
        found = access.roles(snapshot)
        members: dict[int, list[str]] = {}
        for user in access.users(snapshot):
            for role in user["roles"]:
                members.setdefault(role["id"], []).append(user["username"])
        for role in found:
            name_of = _names(snapshot, role["workspace"])
            fields: dict[Path, Value] = {DESCRIPTION: role["description"] or None}
            for row in role["permissions"]:
                kind, pattern = row["resource_type"], row["resource_pattern"]
                fields[(PERMISSIONS, kind, _resource(kind, pattern, name_of))] = row["permission"]
            for username in members.get(role["id"], ()):
                fields[(MEMBERS, username)] = True
            yield Observed(
                key=Key(self.name, role["workspace"], role["name"]),
                fields=fields,
                handle={"role_id": role["id"]},
            )

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:  # noqa: ARG002
        if change.action is Action.DELETE:
            access.remove(api, "DELETE", "api/3.0/mlflow/roles/delete", {"role_id": change.handle["role_id"]})
            return
        # Before the first write: a name that is not there must leave nothing half done.
        patterns = {f.path: _pattern(api, f.path, header) for f in change.fields if f.path[0] == PERMISSIONS}
        role_id = _create(api, change) if change.action is Action.CREATE else change.handle["role_id"]
        rows = (
            _rows(api, role_id)
            if any(f.old is not None and f.path in patterns for f in change.fields)
            else {}
        )
        for field in change.fields:
            if field.path == DESCRIPTION and change.action is not Action.CREATE:
                body = {"role_id": role_id, "description": field.new or ""}
                api.call("PATCH", "api/3.0/mlflow/roles/update", json=body)
            elif field.path in patterns:
                place = (field.path[1], patterns[field.path])
                _permit(api, role_id, place, field, rows.get(place))
            elif field.path[0] == MEMBERS:
                _enrol(api, role_id, field.path[1], bool(field.new))

    def document(self, observed: Observed) -> Json | None:
        key, fields = observed.key, observed.fields
        if _seeded(observed):
            return None
        document = resource_name(*access.name_parts(key))
        spec: Json = {} if document == key.name else {"name": key.name}
        if key.workspace != "default":
            spec["workspace"] = key.workspace
        if fields.get(DESCRIPTION):
            spec["description"] = fields[DESCRIPTION]
        permissions = sorted((p[1], p[2], v) for p, v in fields.items() if p[0] == PERMISSIONS)
        if permissions:
            spec["permissions"] = [
                {"resourceType": kind, "resource": resource, "permission": permission}
                for kind, resource, permission in permissions
            ]
        members = sorted(p[1] for p in fields if p[0] == MEMBERS)
        if members:
            spec["members"] = members
        return {
            "apiVersion": API_VERSION,
            "kind": self.name,
            "metadata": {"name": document},
            "spec": spec,
        }


def _scorer(experiment: str, scorer: str) -> str:
    """One spelling of a scorer's name: MLflow's own (`_scorer_pattern` in its auth store)."""
    return f"{experiment}/{quote(unquote(scorer), safe='')}"


def _named(kind: str, resource: str, workspace: str) -> set[Key]:
    """The object that a permission names, if it names one that documents know."""
    if kind == "scorer" and resource != "*":
        kind, resource = "experiment", resource.rsplit("/", 1)[0]
    known = {"experiment": "Experiment", "registered_model": "RegisteredModel", "prompt": "Prompt"}
    if resource == "*" or kind not in known or (kind == "experiment" and _ID.match(resource)):
        return set()
    return {Key(known[kind], workspace, resource)}


def _names(snapshot: Snapshot, workspace: str) -> Callable[[str], str]:
    """Experiment id -> name, `#<id>` where there is none. The list is fetched when first needed."""

    def by_id() -> dict[str, str]:
        if workspace not in snapshot.workspaces:
            return {}  # a role of a workspace that is gone
        return {e["experiment_id"]: e["name"] for e in experiments(snapshot, workspace)}

    def name(experiment_id: str) -> str:
        found = snapshot.once(f"experiment names:{workspace}", by_id).get(experiment_id)
        # A name that looks like an id would be taken for one.
        return f"#{experiment_id}" if found is None or _ID.match(found) or found == "*" else found

    return name


def _resource(kind: str, pattern: str, name_of: Callable[[str], str]) -> str:
    """What a document calls the object of a permission."""
    if pattern == "*":
        return pattern
    if kind == "experiment":
        return name_of(pattern)
    if kind == "scorer" and "/" in pattern:
        experiment_id, _, scorer = pattern.partition("/")
        return _scorer(name_of(experiment_id), scorer)
    return pattern


def _pattern(api: Api, path: Path, header: str | None) -> str:
    """MLflow's `resource_pattern` for what a document calls an object, looked up now."""
    _, kind, resource = path
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
