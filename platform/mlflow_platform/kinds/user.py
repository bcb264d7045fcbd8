"""MLflowUser: a login of MLflow's basic authentication.

MLflow never gives a password back. That a document's password changed is told by the ledger's HMAC; that
somebody changed it by hand on the server shows only when a login fails, and is neither seen nor corrected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from mlflow_platform.errors import Problem, Rejected
from mlflow_platform.kinds import access
from mlflow_platform.kinds.base import Api, Json, Kind, Snapshot
from mlflow_platform.kinds.declared import common_document, no_document, sentence
from mlflow_platform.model.base import Document
from mlflow_platform.model.user import MLflowUser as UserDocument
from mlflow_platform.plan.objects import Action, Change, Desired, Key, Observed, Path, SecretRef, Traits

#: mlflow/utils/validation.py: `_validate_password`, in characters.
SHORTEST_PASSWORD = 12

ADMIN: Path = ("admin",)
PASSWORD: Path = ("password",)

_ANOTHER_LOGIN = "apply this document with another administrator's login"


class MLflowUser(Kind):
    """A user. The login in use is never removed, demoted, promoted or given another password; nor is the
    last administrator removed or demoted."""

    name: ClassVar[str] = "MLflowUser"
    traits: ClassVar[Traits] = Traits(rank=10, write_only=(PASSWORD,))
    ledgered: ClassVar[bool] = True
    needs: ClassVar[Literal["", "auth", "workspaces"]] = "auth"

    def desired(self, document: Document) -> Iterator[Desired]:
        assert isinstance(document, UserDocument)  # noqa: S101 - the registry of kinds pairs them
        spec = document.spec
        ref = spec.passwordSecretRef
        yield Desired(
            key=Key(self.name, "", spec.name or document.metadata.name),
            origin=document.origin,
            fields={ADMIN: spec.admin},
            secrets={PASSWORD: SecretRef(ref.name, ref.key, document.metadata.namespace)} if ref else {},
            deletion=spec.deletionPolicy,
            observe_only=spec.managementPolicy == "ObserveOnly",
            allow_replace=document.allow_replace,
        )

    def observe(self, snapshot: Snapshot, wanted: Sequence[Desired]) -> Iterable[Observed]:
        if wanted:
            access.need_auth(snapshot, wanted[0])
        found = access.users(snapshot)
        login = snapshot.once("login", lambda: access.login(snapshot.api))
        for user in found:
            yield Observed(
                key=Key(self.name, "", user["username"]),
                fields={ADMIN: bool(user["is_admin"])},
                handle={"login": True} if user["username"] == login else {},
            )

    def review(self, change: Change, secrets: Mapping[Path, str]) -> Problem | None:
        if change.handle.get("login"):
            problem = _for_the_login(change)
            if problem:
                return problem
        password = secrets.get(PASSWORD)
        if password is not None and len(password) < SHORTEST_PASSWORD:
            return Problem(
                f"{change.key}: the password in secret {change.secrets[PASSWORD]} is shorter than MLflow's "
                f"minimum of {SHORTEST_PASSWORD} characters",
                "put a longer one there",
            )
        if change.action is Action.CREATE and PASSWORD not in change.secrets:
            return Problem(
                f"{change.key} does not exist and its document has no password to create it with",
                "add spec.passwordSecretRef",
            )
        return None

    def execute(self, api: Api, change: Change, secrets: Mapping[Path, str], header: str | None) -> None:
        access.refuse(self.review(change, secrets))
        username = change.key.name
        if change.action is Action.DELETE:
            _keep_an_administrator(api, change)
            access.remove(api, "DELETE", "api/2.0/mlflow/users/delete", {"username": username})
            return
        password = secrets.get(PASSWORD)
        if change.action is Action.CREATE:
            _create(api, change, password or "")
        elif password is not None:
            _set_password(api, change, password)
        admin = change.new(*ADMIN)
        if admin is None or (change.action is Action.CREATE and not admin):
            return
        _keep_an_administrator(api, change)
        body = {"username": username, "is_admin": admin}
        api.call("PATCH", "api/2.0/mlflow/users/update-admin", json=body)

    def document(self, observed: Observed) -> Json | None:
        if observed.handle.get("login"):
            return None  # declaring the login in use could only lock this command out
        return common_document(observed, {"admin": True} if observed.fields.get(ADMIN) else {})

    def left_out(self, observed: Observed) -> str | None:
        if observed.handle.get("login"):
            return no_document(observed, "it is the login in use")
        # The ledger knows the secret by its HMAC, not where it is kept.
        return sentence(observed, [], ["spec.passwordSecretRef"] if PASSWORD in observed.fields else [])


def _for_the_login(change: Change) -> Problem | None:
    if change.action is Action.DELETE:
        return Problem(f"{change.key} is the login in use and cannot remove itself", _ANOTHER_LOGIN)
    admin = change.new(*ADMIN)
    if admin is False:
        return Problem(
            f"{change.key} is the login in use and cannot take admin from itself",
            f"set admin: true, or {_ANOTHER_LOGIN}",
        )
    if admin is True and change.action is not Action.CREATE:
        return Problem(f"{change.key} is the login in use and cannot make itself admin", _ANOTHER_LOGIN)
    return None


def _create(api: Api, change: Change, password: str) -> None:
    body = {"username": change.key.name, "password": password}
    try:
        api.call("POST", "api/2.0/mlflow/users/create", json=body, idempotent=False)
    except Rejected as error:
        if error.code != access.ALREADY_EXISTS:
            raise
        # Not set to our password at once: it may be somebody else's user, made a moment ago. And not
        # `from error`: what MLflow says holds the new password's hash.
        raise access.made_meanwhile(change.key) from None


def _set_password(api: Api, change: Change, password: str) -> None:
    """Set another user's password; make sure that the login's own is what the document says.

    With the wanted password as both old and new, MLflow's handler (`update_user_password` in
    mlflow/server/auth/__init__.py) tells whether it is the current one, and writes nothing. To change it
    here would make every later request of this apply fail with 401.
    """
    body = {"username": change.key.name, "password": password}
    if access.login(api) != change.key.name:
        api.call("PATCH", "api/2.0/mlflow/users/update-password", json=body)
        return
    try:
        body["current_password"] = password
        api.call("PATCH", "api/2.0/mlflow/users/update-password", json=body)
    except Rejected as error:
        if "must differ" in error.problem.what:
            return
        if "does not match" not in error.problem.what:
            raise
        raise Rejected(
            f"{change.key} is the login in use and cannot change its own password",
            remedy=f"{_ANOTHER_LOGIN}, then give this command the new password",
        ) from None


def _keep_an_administrator(api: Api, change: Change) -> None:
    """Refuse what the plan could not know: who logs in now, and how many administrators there are now."""
    admin = change.new(*ADMIN)
    loses = change.action is Action.DELETE or admin is False
    if access.login(api) == change.key.name:
        access.refuse(_for_the_login(change))
    if not loses:
        return
    users = api.call("GET", "api/2.0/mlflow/users/list")["users"]
    left = [u["username"] for u in users if u["is_admin"] and u["username"] != change.key.name]
    if not left:
        deed = "removed" if change.action is Action.DELETE else "demoted"
        raise Rejected(
            f"{change.key} is the server's last administrator and is not {deed}",
            remedy="make another user admin first",
        )
