"""What the access kinds share: bulk reads of MLflow's basic auth, direct grants, refusals."""

from __future__ import annotations

import re
from collections.abc import Sequence

from mlflow_platform.errors import Problem, Rejected, Transient
from mlflow_platform.kinds.base import Api, Json, Snapshot
from mlflow_platform.plan.objects import Desired, Key

#: The role that holds one user's direct grants in one workspace; mlflow/server/auth/sqlalchemy_store.py:
#: `_SYNTHETIC_ROLE_NAME_RE`. MLflow reserves the prefix, so no declared role can have such a name.
SYNTHETIC_ROLE = re.compile(r"^__user_\d+__$")

#: mlflow/protos/databricks.proto, ErrorCode.
ALREADY_EXISTS = "RESOURCE_ALREADY_EXISTS"
DOES_NOT_EXIST = "RESOURCE_DOES_NOT_EXIST"
#: adapters/answers.py: what it calls a route that the server does not have.
ENDPOINT_NOT_FOUND = "ENDPOINT_NOT_FOUND"

_NO_AUTH = "this server has no basic auth, so it has neither users, roles nor grants"
_NO_AUTH_REMEDY = (
    "start it with `mlflow server --app-name basic-auth`, or remove the MLflowUser and MLflowRole "
    "documents and the grants"
)


def users(snapshot: Snapshot) -> list[Json]:
    """All users (`username`, `is_admin`, `roles` with their permissions). One request a snapshot.

    Raises `Rejected` where the server has no basic auth.
    """
    found = _users(snapshot)
    if found is None:
        raise Rejected(_NO_AUTH, remedy=_NO_AUTH_REMEDY)
    return found


def need_auth(snapshot: Snapshot, wanted: Desired) -> None:
    """Raise `Rejected`, with the place of the document of `wanted`, where the server has no basic auth."""
    if _users(snapshot) is None:
        raise Rejected(f"{wanted.key}: {_NO_AUTH}", remedy=_NO_AUTH_REMEDY, where=wanted.where)


def has_auth(snapshot: Snapshot) -> bool:
    """Whether the server has users and shows them to this login; shares the request of `users`."""
    try:
        return _users(snapshot) is not None
    except Rejected as error:
        if error.code != "PERMISSION_DENIED":
            raise
        return False


def roles(snapshot: Snapshot) -> list[Json]:
    """All roles that people made (`id`, `name`, `workspace`, `description`, `permissions`), without the
    synthetic ones that hold direct grants. One request a snapshot."""
    users(snapshot)  # says it clearly where there is no auth
    found = snapshot.once("roles", lambda: snapshot.api.call("GET", "api/3.0/mlflow/roles/list")["roles"])
    return [r for r in found if not SYNTHETIC_ROLE.match(r["name"])]


def direct_grants(snapshot: Snapshot, resource_type: str) -> dict[tuple[str, str], dict[str, str]]:
    """What users may do with objects of a type other than through a role: (workspace, id of the object,
    `*` for all) -> user -> permission. Experiments by id, models and prompts by name.

    Holds the MANAGE that MLflow gives to whoever creates an object. For an administrator that row means
    nothing; `administrators` tells who they are.
    """
    grants: dict[tuple[str, str], dict[str, str]] = {}
    for user in users(snapshot):
        for role in user["roles"]:
            if not SYNTHETIC_ROLE.match(role["name"]):
                continue
            for row in role["permissions"]:
                if row["resource_type"] == resource_type:
                    place = (role["workspace"], row["resource_pattern"])
                    grants.setdefault(place, {})[user["username"]] = row["permission"]
    return grants


def administrators(snapshot: Snapshot) -> frozenset[str]:
    """The users who may do everything."""
    return frozenset(u["username"] for u in users(snapshot) if u["is_admin"])


def grant(
    api: Api, header: str | None, user: str, resource_type: str, resource_id: str, permission: str
) -> None:
    """Give a user a permission on one object, or change the one the user has without a gap in between.

    MLflow's grant only inserts; the row that is there already is updated by its id.
    """
    body = {"username": user, "resource_type": resource_type, "resource_id": resource_id}
    try:
        api.call(
            "POST",
            "api/3.0/mlflow/users/permissions/grant",
            json={**body, "permission": permission},
            workspace=header,
        )
        return
    except Rejected as error:
        if error.code != ALREADY_EXISTS:
            raise plain(
                error, f"{user} cannot be granted {permission} on {resource_type} {resource_id}"
            ) from None
    answer = api.call("GET", "api/3.0/mlflow/users/roles/list", params={"username": user})
    for role in answer["roles"]:
        if not SYNTHETIC_ROLE.match(role["name"]) or role["workspace"] != (header or "default"):
            continue
        for row in role["permissions"]:
            if (row["resource_type"], row["resource_pattern"]) == (resource_type, resource_id):
                update_permission(api, row["id"], permission)


def revoke(api: Api, header: str | None, user: str, resource_type: str, resource_id: str) -> None:
    """Take a user's direct permission on one object away; nothing happens where there is none."""
    body = {"username": user, "resource_type": resource_type, "resource_id": resource_id}
    remove(api, "POST", "api/3.0/mlflow/users/permissions/revoke", body, header)


def update_permission(api: Api, permission_id: int, permission: str) -> None:
    """Change a row of a role, synthetic or not, in place."""
    body = {"role_permission_id": permission_id, "permission": permission}
    api.call("PATCH", "api/3.0/mlflow/roles/permissions/update", json=body)


def remove(api: Api, method: str, path: str, body: Json, header: str | None = None) -> None:
    """A removal; what is gone already counts as removed."""
    try:
        api.call(method, path, json=body, workspace=header)
    except Rejected as error:
        if error.code != DOES_NOT_EXIST:
            raise


def add(api: Api, path: str, body: Json) -> None:
    """An addition; what is there already (its answer was lost) counts as added, and if another writer
    put something else there, the next look at the server shows it."""
    try:
        api.call("POST", path, json=body)
    except Rejected as error:
        if error.code != ALREADY_EXISTS:
            raise


def login(api: Api) -> str:
    """The user whom the server takes us for; empty where it has no auth."""
    name = getattr(api, "username", None)
    if isinstance(name, str) and name:
        return name
    try:
        return str(api.call("GET", "api/2.0/mlflow/users/current")["user"]["username"])
    except Rejected as error:
        if error.code != ENDPOINT_NOT_FOUND:
            raise
        return ""


def in_workspace(workspace: str) -> frozenset[Key]:
    """What an object of a workspace needs first; the default one is always there."""
    return frozenset() if workspace == "default" else frozenset({Key("Workspace", "", workspace)})


def name_parts(key: Key) -> tuple[str, ...]:
    """What tells an object apart within its kind: its name, and its workspace where that is not the
    default."""
    return (key.name,) if key.workspace in ("", "default") else (key.workspace, key.name)


def made_meanwhile(key: Key) -> Transient:
    """A create that lost a race, often to one of our own that was killed in flight: the next look at the
    server tells whose the object is. Says nothing of MLflow's answer, which quotes the SQL statement with
    its parameters: for a user, the hash of the password."""
    return Transient(
        f"{key} was made since it was looked for", uncertain=True, remedy="apply again: it is then adopted"
    )


def plain(error: Rejected, what: str, remedy: str = "") -> Rejected:
    """A refusal in our words and then the server's."""
    return Rejected(f"{what}: {error.problem.what}", code=error.code, remedy=remedy or error.problem.remedy)


def refuse(problem: Problem | None) -> None:
    """Raise what a review found."""
    if problem is not None:
        raise Rejected(problem.what, remedy=problem.remedy, where=problem.where)


def _users(snapshot: Snapshot) -> list[Json] | None:
    def fetch() -> Sequence[Json] | None:
        try:
            found: list[Json] = snapshot.api.call("GET", "api/2.0/mlflow/users/list")["users"]
            # One with a colon in its name can never log in (RFC 7617, section 2), and no document can
            # name it.
            return [u for u in found if ":" not in u["username"]]
        except Rejected as error:
            if error.code == ENDPOINT_NOT_FOUND:
                return None
            raise

    found = snapshot.once("users", fetch)
    return None if found is None else list(found)
