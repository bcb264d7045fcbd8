"""Faults of users and roles on a real server: what must be refused, and what must be left afterwards."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import Fatal, Rejected, Transient
from mlflow_platform.kinds.registry import KINDS
from mlflow_platform.local import Stack
from mlflow_platform.plan.objects import Action, Change, FieldChange, Key, Mark, SecretRef
from tests.contract.access_loop import Folder, Recorder, document, secret, unique

pytest_plugins = ("tests.contract.access_fixtures",)

LONG = "a long enough password"
USER = KINDS["MLflowUser"]


def user_change(action: Action, name: str, *fields: FieldChange, **handle: Any) -> Change:
    """A change as a plan made under another login might hold it."""
    key, origin = Key("MLflowUser", "", name), f"MLflowUser/default/{name}"
    return Change(
        action,
        key,
        origin,
        "why",
        fields,
        Mark("me", origin),
        {("password",): SecretRef("pw", "value")},
        handle=handle,
    )


def people(folder: Folder) -> dict[str, bool]:
    listed = folder.api.call("GET", "api/2.0/mlflow/users/list")["users"]
    return {u["username"]: u["is_admin"] for u in listed}


def make_user(folder: Folder, name: str, *, admin: bool = False) -> str:
    folder.api.call("POST", "api/2.0/mlflow/users/create", json={"username": name, "password": LONG})
    if admin:
        body = {"username": name, "is_admin": True}
        folder.api.call("PATCH", "api/2.0/mlflow/users/update-admin", json=body)
    return name


@pytest.fixture
def second(folder: Folder, stack: Stack) -> Iterator[Folder]:
    """Another administrator's folder."""
    name = make_user(folder, unique("second"), admin=True)
    with MlflowApi(stack.endpoints().tracking_uri, name, LONG) as api:
        yield Folder(Recorder(api), LONG)
    if name in people(folder):
        folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": name})


def test_the_login_in_use_is_not_demoted(folder: Folder, second: Folder) -> None:
    me = second.api.username or ""
    [problem] = second.problems(document("MLflowUser", me))
    assert problem.startswith(f"MLflowUser {me!r} is the login in use and cannot take admin from itself")
    assert people(folder)[me]


def test_the_login_in_use_is_not_removed(folder: Folder, second: Folder) -> None:
    me = second.api.username or ""
    declared = document("MLflowUser", me, admin=True, deletionPolicy="Delete")
    assert second.succeed(declared) == [f"adopt {me}"]
    assert second.plan(declared).empty
    [problem] = second.problems()
    assert problem.startswith(f"MLflowUser {me!r} is the login in use and cannot remove itself")
    assert me in people(folder)


def test_a_plan_saved_under_one_login_cannot_harm_the_next(second: Folder) -> None:
    """The saved plan does not know that its user is now the login; carrying it out asks again."""
    me = second.api.username or ""
    demote = user_change(Action.UPDATE, me, FieldChange(("admin",), True, False))
    before = second.api.writes
    for change in (demote, user_change(Action.DELETE, me)):
        with pytest.raises(Rejected, match="is the login in use and cannot"):
            USER.execute(second.api, change, {}, None)
    assert second.api.writes == before
    assert people(second)[me]


def test_admin_granted_to_itself(folder: Folder, stack: Stack) -> None:
    name = make_user(folder, unique("climber"))
    promote = FieldChange(("admin",), False, True)
    with MlflowApi(stack.endpoints().tracking_uri, name, LONG) as api:
        for handle in ({"login": True}, {}):
            change = user_change(Action.UPDATE, name, promote, **handle)
            with pytest.raises(Rejected, match="is the login in use and cannot make itself admin"):
                USER.execute(api, change, {}, None)
        assert api.sent.get("writes", 0) == 0
    assert not people(folder)[name]
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": name})


class LastAdministrator:
    """The real server, as seen by a login that is itself no administrator but may do this: an
    authorization plug-in, or another administrator demoted in the same moment."""

    username = "somebody-else"

    def __init__(self, api: Recorder, last: str) -> None:
        self._api, self._last = api, last

    def call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._api.call(method, path, **options)
        if path.endswith("users/list"):
            for user in answer["users"]:
                user["is_admin"] = user["username"] == self._last
        return answer


@pytest.mark.parametrize("deed", ["removed", "demoted"])
def test_the_last_administrator_stays(folder: Folder, deed: str) -> None:
    last = make_user(folder, unique("last"), admin=True)
    fields = (FieldChange(("admin",), True, False),) if deed == "demoted" else ()
    change = user_change(Action.UPDATE if fields else Action.DELETE, last, *fields)
    before = folder.api.writes
    with pytest.raises(Rejected, match=f"is the server's last administrator and is not {deed}"):
        USER.execute(LastAdministrator(folder.api, last), change, {}, None)
    assert folder.api.writes == before
    assert people(folder)[last]
    USER.execute(folder.api, change, {}, None)
    assert people(folder).get(last, False) is False, "with another administrator left, it is done"
    if deed == "demoted":
        folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": last})


def test_the_password_of_the_login_in_use(second: Folder, stack: Stack) -> None:
    me = second.api.username or ""
    declared = document("MLflowUser", me, admin=True, passwordSecretRef=secret("pw"))
    second.secrets["pw"] = LONG
    assert second.succeed(declared) == [f"adopt {me}"], "it is the current one: nothing to write"
    assert second.plan(declared).empty

    second.secrets["pw"] = "another long password"
    [result] = second.apply(declared)
    assert "is the login in use and cannot change its own password" in str(result.error)
    assert "another long password" not in str(result.error)
    assert people(second), "the login still works"
    with pytest.raises(Fatal), MlflowApi(stack.endpoints().tracking_uri, me, "another long password") as api:
        api.call("GET", "api/2.0/mlflow/users/current")


def test_a_short_password_writes_nothing(folder: Folder) -> None:
    name = unique("ann")
    folder.secrets["pw"] = "hunter2"
    [problem] = folder.problems(document("MLflowUser", name, passwordSecretRef=secret("pw")))
    assert "shorter than MLflow's minimum of 12 characters" in problem
    assert "hunter2" not in problem
    assert name not in people(folder)


def test_a_new_user_without_a_password_writes_nothing(folder: Folder) -> None:
    name = unique("ann")
    [problem] = folder.problems(document("MLflowUser", name))
    assert problem.endswith("add spec.passwordSecretRef")
    assert name not in people(folder)


def test_a_user_made_by_somebody_else_in_between(folder: Folder) -> None:
    """MLflow's refusal quotes the hash of the password it was sent; ours says nothing of it."""
    name = make_user(folder, unique("racer"))
    change = user_change(Action.CREATE, name, FieldChange(("password",), None, "hmac", sensitive=True))
    with pytest.raises(Transient, match="was made since it was looked for") as raised:
        USER.execute(folder.api, change, {("password",): "theirs, not to be set"}, None)
    assert "scrypt" not in str(raised.value)
    assert "INSERT" not in str(raised.value)
    with MlflowApi(folder.api.address, name, LONG) as api:
        assert api.call("GET", "api/2.0/mlflow/users/current"), "their password still works"
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": name})


def test_a_role_naming_a_missing_experiment_writes_nothing(folder: Folder) -> None:
    name = unique("role")
    missing = {"resourceType": "experiment", "resource": unique("nowhere"), "permission": "READ"}
    role = document("MLflowRole", name, permissions=[missing])
    [problem] = folder.problems(role)
    assert f"refers to Experiment {missing['resource']!r}, which neither" in problem
    role = document("MLflowRole", name, members=["nobody-at-all"])
    [problem] = folder.problems(role)
    assert "refers to MLflowUser 'nobody-at-all', which neither" in problem


def test_an_experiment_that_vanishes_before_the_role_is_written(folder: Folder) -> None:
    """Nothing half done: the names are looked up before the role is made."""
    name, gone = unique("role"), unique("gone")
    fields = (
        FieldChange(("permissions", "experiment", gone), None, "READ"),
        FieldChange(("permissions", "run", "*"), None, "READ"),
    )
    origin = f"MLflowRole/default/{name}"
    change = Change(Action.CREATE, Key("MLflowRole", "default", name), origin, "why", fields)
    with pytest.raises(Exception, match=f"the experiment {gone!r}, which the role names") as raised:
        KINDS["MLflowRole"].execute(folder.api, change, {}, None)
    assert type(raised.value).__name__ == "Blocked"
    roles = folder.api.call("GET", "api/3.0/mlflow/roles/list")["roles"]
    assert name not in [r["name"] for r in roles]


@pytest.mark.parametrize("path", ["users/create", "roles/create", "mlflow/webhooks"])
def test_an_answer_lost_after_the_server_committed(folder: Folder, stack: Stack, path: str) -> None:
    """The create is not sent again; the next look finds it by its name, and finishes it."""
    name = unique("lost")
    folder.secrets["pw"] = LONG
    documents = {
        "users/create": document("MLflowUser", name, passwordSecretRef=secret("pw"), deletionPolicy="Delete"),
        "roles/create": document(
            "MLflowRole",
            name,
            permissions=[{"resourceType": "run", "permission": "READ"}],
            deletionPolicy="Delete",
        ),
        "mlflow/webhooks": document(
            "Webhook",
            name,
            url="http://127.0.0.1:9/hook",
            events=["prompt.created"],
            secretRef=secret("pw"),
            deletionPolicy="Delete",
        ),
    }
    with losing_the_answer(stack.endpoints().tracking_uri, f"/{path}") as lossy:
        at = stack.endpoints()
        with MlflowApi(lossy.address, at.username, at.password) as api:
            lost = Folder(Recorder(api), folder.login_secret, owner=folder.owner, secrets=folder.secrets)
            assert lost.succeed(documents[path]) == [f"update {name}"], "what the create left undone"
        assert lossy.lost == 1
        assert lossy.creates == 1, "sent once"
    assert folder.plan(documents[path]).empty
    assert folder.succeed() == [f"delete {name}"]


def test_wrong_credentials(stack: Stack) -> None:
    at = stack.endpoints()
    with MlflowApi(at.tracking_uri, at.username, "not the password") as api:
        folder = Folder(Recorder(api), "not the password")
        with pytest.raises(Fatal, match="does not accept the login") as raised:
            folder.plan(document("MLflowUser", "ann"))
    assert "not the password" not in str(raised.value)


def test_a_login_that_is_no_administrator(folder: Folder, stack: Stack) -> None:
    name = make_user(folder, unique("plain"))
    with MlflowApi(stack.endpoints().tracking_uri, name, LONG) as api:
        plain = Folder(Recorder(api), LONG)
        with pytest.raises(Rejected, match=r"the login may not do GET api/3\.0/mlflow/roles/list") as raised:
            plain.plan(document("MLflowRole", "readers"), prune=False)
    assert "use the login of an administrator" in str(raised.value)
    folder.api.call("DELETE", "api/2.0/mlflow/users/delete", json={"username": name})


@pytest.fixture(scope="module")
def without_auth(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real MLflow that has no users."""
    place = tmp_path_factory.mktemp("without-auth")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{place}/mlflow.db"]
    command += ["--artifacts-destination", str(place / "artifacts")]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (place / "log").open("wb") as log:
        server = subprocess.Popen(command, cwd=place, env=environment, stdout=log, stderr=log)
        try:
            with MlflowApi(f"http://127.0.0.1:{port}", retry_seconds=90) as api:
                api.call("GET", "api/3.0/mlflow/server-info")
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(30)


def test_a_server_without_auth_says_so(without_auth: str) -> None:
    with MlflowApi(without_auth) as api:
        folder = Folder(Recorder(api), "")
        for kind in ("MLflowUser", "MLflowRole"):
            with pytest.raises(Rejected, match="this server has no basic auth") as raised:
                folder.plan(document(kind, "ann"), prune=False)
            assert "--app-name basic-auth" in str(raised.value)
        hook = document("Webhook", "h", url="https://93.184.216.34/h", events=["prompt.created"])
        assert folder.succeed(hook, prune=False) == ["create h"], "what needs no users works"
        assert folder.plan(hook, prune=False).empty
        assert api.sent["writes"] > 0


class Lossy(ThreadingHTTPServer):
    """Passes requests on; cuts the first answer to a create whose path ends in `path`."""

    daemon_threads = True

    def __init__(self, upstream: str, path: str) -> None:
        super().__init__(("127.0.0.1", 0), _Lossy)
        self.upstream, self.path, self.lost, self.creates = upstream, path, 0, 0
        self.address = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self) -> Lossy:
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


def losing_the_answer(upstream: str, path: str) -> Lossy:
    return Lossy(upstream, path)


class _Lossy(BaseHTTPRequestHandler):
    server: Lossy

    def _pass_on(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
        request = urllib.request.Request(  # noqa: S310 - our own server
            self.server.upstream + self.path, body, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                status, content = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                status, content = error.code, error.read()
        if self.command == "POST" and self.path.endswith(self.server.path):
            self.server.creates += 1
            if not self.server.lost:
                self.server.lost += 1
                self.close_connection = True
                return
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _pass_on  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        pass
