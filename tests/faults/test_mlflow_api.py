"""Faults between the platform and MLflow: nothing is doubled, and the message says what happened."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_platform.adapters.mlflow import MlflowApi
from mlflow_platform.errors import Fatal, PlatformError, Rejected, Transient
from mlflow_platform.local import Stack
from mlflow_platform.plan.objects import MARK_TAG
from tests.contract.access_loop import Folder, Recorder, document, unique
from tests.faults import proxy as faults
from tests.faults.proxy import Proxy

pytest_plugins = ("tests.contract.access_fixtures",)

CREATE = "/experiments/create"
NEW_VERSION = "/model-versions/create"
HTML = b"<!doctype html><html><head><title>Sign in</title></head></html>"


@pytest.fixture
def proxy(stack: Stack) -> Iterator[Proxy]:
    """A proxy before the server of the stack."""
    parts = urlsplit(stack.endpoints().tracking_uri)
    assert parts.hostname
    assert parts.port
    with Proxy((parts.hostname, parts.port)) as running:
        yield running


@pytest.fixture
def through(stack: Stack, proxy: Proxy) -> Iterator[Folder]:
    """A folder whose requests go through the proxy; an attempt ends after two seconds."""
    at = stack.endpoints()
    with MlflowApi(proxy.uri, at.username, at.password, timeout=2, retry_seconds=15) as api:
        yield Folder(Recorder(api), at.password)


def experiments(folder: Folder, name: str) -> list[dict[str, Any]]:
    """All experiments of a name, asked of the server itself."""
    body = {"max_results": 50_000, "view_type": "ALL"}
    found = folder.api.call("POST", "api/2.0/mlflow/experiments/search", json=body)["experiments"]
    return [e for e in found if e["name"] == name]


def versions(folder: Folder, name: str) -> list[str]:
    answer = folder.api.call(
        "GET",
        "api/2.0/mlflow/model-versions/search",
        params={"filter": f"name = '{name}'", "max_results": 100},
    )
    return sorted(v["version"] for v in answer.get("model_versions", ()))


def model(name: str) -> dict[str, Any]:
    return document(
        "RegisteredModel",
        name,
        versions=[{"key": "a", "source": "s3://m/a"}, {"key": "b", "source": "s3://m/b"}],
        aliases={"live": {"key": "b"}},
    )


PASSING = {
    "429": faults.answer(429),
    "429 with Retry-After": faults.answer(429, Retry_After="1"),
    "503": faults.answer(503),
    "503 with Retry-After": faults.answer(503, Retry_After="1"),
    "502 of a gateway": faults.answered_by_gateway(502),
    "504 after the server has committed": faults.answered_by_gateway(504),
    "500": faults.answer(500, b"Internal Server Error", "text/plain"),
    "no answer after the server has committed": faults.lost,
    "time-out after the server has committed": faults.late,
    "half-open connection": faults.half_open,
    "reset": faults.refused_by_reset,
    "slow drip of the body": faults.drip(0.3),
    "slow drip of the header": faults.drip(0.3, header=True),
    "truncated body": faults.truncated,
    "damaged JSON": faults.answer(200, b'{"experiment_id": '),
}


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_create_survives_and_is_not_doubled(
    fault: faults.Fault, folder: Folder, through: Folder, proxy: Proxy
) -> None:
    name = unique("fault")
    doc = document("Experiment", name, tags={"a": "1"})
    proxy.on(CREATE, fault, times=2)
    assert through.succeed(doc) == [f"create {name}"]
    (made,) = experiments(folder, name)
    assert {t["key"] for t in made["tags"]} == {"a", MARK_TAG}
    assert proxy.count(CREATE) >= 2
    assert through.plan(doc).empty


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING.keys())
def test_a_version_survives_and_is_not_doubled(
    fault: faults.Fault, folder: Folder, through: Folder, proxy: Proxy
) -> None:
    name = unique("fault")
    doc = model(name)
    proxy.on(NEW_VERSION, fault)
    through.succeed(doc)
    assert versions(folder, name) == ["1", "2"]
    assert through.plan(doc).empty


def test_retry_after_is_honoured(through: Folder, proxy: Proxy) -> None:
    proxy.on(CREATE, faults.answer(429, Retry_After="2"))
    start = time.monotonic()
    through.succeed(document("Experiment", unique("patient")))
    assert time.monotonic() - start >= 2


def test_retry_after_beyond_the_budget_is_not_waited_for(through: Folder, proxy: Proxy) -> None:
    proxy.on(CREATE, faults.answer(503, Retry_After="3600"), times=-1)
    start = time.monotonic()
    (result,) = through.apply(document("Experiment", unique("impatient")))
    assert time.monotonic() - start < 600, "not the hour that was asked for"
    assert isinstance(result.error, Transient)
    assert "is busy or away (HTTP 503 to POST api/2.0/mlflow/experiments/create)" in str(result.error)


def test_one_object_that_always_fails_does_not_stop_the_others(through: Folder, proxy: Proxy) -> None:
    proxy.on(NEW_VERSION, faults.answer(500, b"Internal Server Error", "text/plain"), times=-1)
    bad, good = unique("bad"), unique("good")
    results = {r.change.key.name: r.error for r in through.apply(model(bad), document("Experiment", good))}
    assert results[good] is None
    assert isinstance(results[bad], Transient)
    assert "failed at POST api/2.0/mlflow/model-versions/create (HTTP 500)" in str(results[bad])


def test_a_page_of_html_stops_the_apply(folder: Folder, through: Folder, proxy: Proxy) -> None:
    proxy.on(CREATE, faults.answer(200, HTML, "text/html; charset=utf-8"), times=-1)
    name = unique("html")
    (result,) = through.apply(document("Experiment", name))
    assert isinstance(result.error, Fatal)
    assert "with text/html, not JSON: this does not look like an MLflow server" in str(result.error)
    assert "check the tracking URI" in str(result.error)
    assert experiments(folder, name) == []


def test_a_listing_of_html_changes_nothing(through: Folder, proxy: Proxy) -> None:
    proxy.on("/experiments/search", faults.answer(200, HTML, "text/html"), times=-1)
    with pytest.raises(Fatal, match="not JSON"):
        through.plan(document("Experiment", unique("html")))


def test_a_redirect_is_named_and_not_followed(through: Folder, proxy: Proxy) -> None:
    location = "https://user:secret@login.example.com/start?token=secret"
    proxy.on("/experiments/search", faults.answer(302, Location=location))
    with pytest.raises(Fatal) as told:
        through.plan(document("Experiment", unique("redirect")))
    assert "redirects POST api/2.0/mlflow/experiments/search to https://login.example.com/start" in str(
        told.value
    )
    assert "secret" not in str(told.value)


class TestLogin:
    """Wrong and expired credentials; what may be done without any."""

    def api(self, stack: Stack, username: str | None, password: str | None, **options: Any) -> MlflowApi:
        return MlflowApi(stack.endpoints().tracking_uri, username, password, **options)

    def test_wrong_password(self, stack: Stack) -> None:
        with self.api(stack, "admin", "not-the-password") as api:
            for ask in (api.features, lambda: api.call("GET", "api/2.0/mlflow/users/list")):
                with pytest.raises(Fatal) as told:
                    ask()
                assert "does not accept the login (HTTP 401" in str(told.value)
                assert "check the user name and the password" in str(told.value)
                assert "not-the-password" not in f"{told.value} {told.value!r} {api!r}"

    def test_no_login(self, stack: Stack) -> None:
        with self.api(stack, None, None) as api, pytest.raises(Fatal, match="asks for a login"):
            api.features()

    def test_a_login_that_expires_stops_the_apply(self, through: Folder, proxy: Proxy) -> None:
        proxy.on(CREATE, faults.answer(401, b"You are not authenticated.", "text/html"), times=-1, skip=1)
        first, second = unique("a"), unique("b")
        results = through.apply(document("Experiment", first), document("Experiment", second))
        assert sorted(r.outcome for r in results) == ["done", "fatal"]

    def test_a_user_without_rights(self, stack: Stack, folder: Folder) -> None:
        user, password = unique("ann"), "a long enough password"
        body = {"username": user, "password": password}
        folder.api.call("POST", "api/2.0/mlflow/users/create", json=body)
        with self.api(stack, user, password) as api:
            assert (api.features().auth, api.features().admin, api.features().username) == (True, False, user)
            with pytest.raises(Rejected) as told:
                api.call("POST", "api/2.0/mlflow/users/create", json={**body, "username": unique("bob")})
        assert told.value.code == "PERMISSION_DENIED"
        assert "use the login of an administrator" in str(told.value)
        assert password not in str(told.value)

    def test_a_login_in_the_address(self, stack: Stack) -> None:
        at = stack.endpoints()
        parts = urlsplit(at.tracking_uri)
        with MlflowApi(f"http://{at.username}:{at.password}@{parts.netloc}") as api:
            features = api.features()
            assert (features.version, features.admin, features.username) == ("3.17.2", True, at.username)
            assert at.password not in f"{api!r} {api.address}"


class TestServer:
    """Addresses where no MLflow server is."""

    def told(self, uri: str) -> PlatformError:
        with MlflowApi(uri, "a", "b", timeout=2, connect_timeout=1) as api:
            start = time.monotonic()
            with pytest.raises(PlatformError) as told:
                api.features()
            assert time.monotonic() - start < 60, "a time-out, and not one after the other"
            return told.value

    def test_nobody_listens(self) -> None:
        assert "cannot connect to http://127.0.0.1:1: connection refused" in str(
            self.told("http://127.0.0.1:1")
        )

    def test_an_unknown_name(self) -> None:
        assert "no-such-host.invalid:5000: the name is unknown" in str(
            self.told("http://no-such-host.invalid:5000")
        )

    def test_nobody_answers_to_a_connection(self) -> None:
        with faults.silent_port() as port:
            assert "timed out" in str(self.told(f"http://127.0.0.1:{port}"))

    def test_no_tls_there(self, stack: Stack) -> None:
        uri = stack.endpoints().tracking_uri.replace("http://", "https://")
        assert "does not speak TLS" in str(self.told(uri))

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (faults.answer(200, HTML, "text/html"), "not JSON"),
            (faults.answer(404, HTML, "text/html"), "is not an MLflow server, or one older than 3.17"),
            (faults.answer(200, b'{"status": "ok"}'), "is not an MLflow server"),
            (faults.answer(200, b"[]"), "not an object"),
        ],
    )
    def test_another_server(self, proxy: Proxy, fault: faults.Fault, message: str) -> None:
        proxy.on("/server-info", fault, times=-1)
        assert message in str(self.told(proxy.uri))

    @pytest.mark.parametrize("version", ["2.22.1", "3.16.9", "4.0.0"])
    def test_another_version(self, stack: Stack, proxy: Proxy, version: str) -> None:
        proxy.on("/version", faults.answer(200, version.encode(), "text/html"))
        at = stack.endpoints()
        with (
            MlflowApi(proxy.uri, at.username, at.password) as api,
            pytest.raises(Fatal, match=re.escape(f"runs MLflow {version}; supported is 3.17 up to")),
        ):
            api.features()

    def test_an_unknown_host_name(self, stack: Stack) -> None:
        port = urlsplit(stack.endpoints().tracking_uri).port
        with pytest.raises(Fatal, match="does not serve this host name"):
            raise_from_host(f"http://127.0.0.1:{port}", "mlflow.example.com:5000")


def raise_from_host(uri: str, host: str) -> None:
    """What the adapter makes of a real server's answer to a request for another host."""
    import http.client

    from mlflow_platform.adapters import answers
    from mlflow_platform.adapters.http import Answer

    connection = http.client.HTTPConnection(uri.removeprefix("http://"))
    connection.request("GET", "/api/2.0/mlflow/users/current", headers={"Host": host})
    response = connection.getresponse()
    answer = Answer(response.status, response.headers, response.read())
    connection.close()
    answers.parse(answer, "GET api/2.0/mlflow/users/current", uri)


def test_a_dead_server_costs_the_budget_once(stack: Stack, proxy: Proxy) -> None:
    at = stack.endpoints()
    with MlflowApi(proxy.uri, at.username, at.password, timeout=1, retry_seconds=2) as api:
        proxy.on("", faults.answer(503), times=-1)
        start = time.monotonic()
        for _ in range(200):
            with pytest.raises(Transient):
                api.call("GET", "api/2.0/mlflow/experiments/get", params={"experiment_id": "0"})
        assert time.monotonic() - start < 60, "200 calls share one budget of two seconds"


def test_a_dead_server_that_comes_back(stack: Stack, proxy: Proxy) -> None:
    at = stack.endpoints()
    with MlflowApi(proxy.uri, at.username, at.password, timeout=1, retry_seconds=20) as api:
        proxy.on("", faults.refused_by_reset, times=5)
        answer = api.call("GET", "api/2.0/mlflow/experiments/get", params={"experiment_id": "0"})
        assert answer["experiment"]["experiment_id"] == "0"
        assert len(proxy.seen) == 6
