"""What an answer of a server means; no network."""

from __future__ import annotations

import http.client
import io
import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_platform.adapters.answers import parse, retry_after
from mlflow_platform.adapters.http import Answer
from mlflow_platform.errors import Fatal, PlatformError, Rejected, Transient

JSON, HTML, PLAIN = "application/json", "text/html", "text/plain"
WHAT, ADDRESS = "POST api/2.0/mlflow/experiments/create", "http://mlflow:5000"


def answer(status: int, body: bytes | str, kind: str = "application/json", **headers: str) -> Answer:
    lines = [f"Content-Type: {kind}", *(f"{k.replace('_', '-')}: {v}" for k, v in headers.items()), "", ""]
    parsed = http.client.parse_headers(io.BytesIO("\r\n".join(lines).encode()))
    return Answer(status, parsed, body.encode() if isinstance(body, str) else body)


def mlflow(code: str, message: str = "because") -> str:
    return json.dumps({"error_code": code, "message": message})


def error(*arguments: object, **options: object) -> PlatformError:
    with pytest.raises(PlatformError) as told:
        parse(answer(*arguments), WHAT, ADDRESS, **options)  # type: ignore[arg-type]
    return told.value


@pytest.mark.parametrize(("body", "value"), [('{"a": 1}', {"a": 1}), ("", {}), (" \n", {}), ("{}", {})])
def test_content(body: str, value: object) -> None:
    assert parse(answer(200, body), WHAT, ADDRESS) == value
    assert parse(answer(201, body, "text/plain"), WHAT, ADDRESS) == value


@pytest.mark.parametrize(
    ("status", "body", "kind", "type_", "code", "says"),
    [
        (400, mlflow("RESOURCE_ALREADY_EXISTS"), JSON, Rejected, "RESOURCE_ALREADY_EXISTS", "because"),
        (400, mlflow("INVALID_PARAMETER_VALUE"), JSON, Rejected, "INVALID_PARAMETER_VALUE", "HTTP 400"),
        (404, mlflow("RESOURCE_DOES_NOT_EXIST"), JSON, Rejected, "RESOURCE_DOES_NOT_EXIST", "because"),
        (404, "<title>404 Not Found</title>", HTML, Rejected, "ENDPOINT_NOT_FOUND", "does not know POST"),
        (500, mlflow("INVALID_STATE"), JSON, Rejected, "INVALID_STATE", "because"),
        (501, mlflow("NOT_IMPLEMENTED"), JSON, Rejected, "NOT_IMPLEMENTED", "because"),
        (403, "Permission denied", HTML, Rejected, "PERMISSION_DENIED", "Permission denied"),
        (413, "<h1>Request Entity Too Large</h1>", HTML, Rejected, "HTTP_413", "Request Entity Too Large"),
        (422, '{"detail": "field required"}', JSON, Rejected, "HTTP_422", "field required"),
        (401, "You are not authenticated.", HTML, Fatal, None, "does not accept the login"),
        (403, "Invalid Host header - possible DNS rebinding attack", PLAIN, Fatal, None, "host name"),
        (301, "", HTML, Fatal, None, "redirects POST"),
        (200, "<html></html>", HTML, Fatal, None, "not JSON"),
        (200, "OK", PLAIN, Fatal, None, "not JSON"),
        (200, "[1]", JSON, Fatal, None, "not an object"),
        (200, '{"a": ', JSON, Transient, None, "damaged on its way"),
        (500, mlflow("INTERNAL_ERROR"), JSON, Transient, None, "because"),
        (500, "Internal Server Error", PLAIN, Transient, None, "Internal Server Error"),
        (503, mlflow("TEMPORARILY_UNAVAILABLE"), JSON, Transient, None, "busy or away"),
        (502, "<html><title>Bad Gateway</title></html>", HTML, Transient, None, "Bad Gateway"),
        (504, "", HTML, Transient, None, "no reason given"),
        (429, "", PLAIN, Transient, None, "HTTP 429"),
    ],
)  # fmt: skip
def test_errors(
    status: int, body: str, kind: str, type_: type[PlatformError], code: str | None, says: str
) -> None:
    told = error(status, body, kind)
    assert type(told) is type_
    assert getattr(told, "code", None) == code
    assert says in str(told)
    assert ADDRESS in str(told)
    assert "\n\n" not in str(told)


@pytest.mark.parametrize(
    ("status", "headers", "uncertain"),
    [
        (429, {}, False),
        (503, {"Retry_After": "1"}, False),
        (503, {}, True),
        (502, {"Retry_After": "1"}, True),
        (504, {}, True),
        (500, {}, True),
    ],
)
def test_whether_a_refused_request_may_have_been_carried_out(
    status: int, headers: dict[str, str], uncertain: bool
) -> None:
    with pytest.raises(Transient) as told:
        parse(answer(status, "", **headers), WHAT, ADDRESS)
    assert told.value.uncertain is uncertain


def test_a_login_is_asked_for_or_refused() -> None:
    assert "asks for a login" in str(error(401, "", anonymous=True))
    assert "does not accept the login" in str(error(401, ""))


def test_no_secret_and_no_sql_reaches_a_message() -> None:
    sql = (
        "User (username=ann) already exists. Error: (psycopg.errors.UniqueViolation) duplicate key\n"
        "[SQL: INSERT INTO users] [parameters: {'password_hash': 'scrypt:1'}]"
    )
    told = str(error(400, mlflow("RESOURCE_ALREADY_EXISTS", sql)))
    assert "User (username=ann) already exists." in told
    assert "SQL" not in told
    assert "scrypt" not in told
    assert "hunter22" not in str(error(400, mlflow("X", "bad value hunter22"), hide=["hunter22"]))


def test_a_message_is_one_line_of_bounded_length() -> None:
    told = str(error(400, mlflow("X", "a" * 10_000 + "\nsecond line")))
    assert len(told) < 700
    assert "second" not in told


@given(
    st.integers(100, 599), st.binary(max_size=300), st.sampled_from(["application/json", "text/html", "x"])
)
def test_any_answer_is_a_value_or_one_of_our_errors(status: int, body: bytes, kind: str) -> None:
    with suppress(PlatformError):
        assert isinstance(parse(answer(status, body, kind), WHAT, ADDRESS), dict)


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0", 0.0), ("", None), ("soon", None), ("-1", None), ("1.5", None)]
)
def test_retry_after(value: str, seconds: float | None) -> None:
    assert retry_after(answer(503, "", Retry_After=value).headers) == seconds


def test_retry_after_as_a_date() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    wait = retry_after(answer(503, "", Retry_After=at).headers)
    assert wait is not None
    assert 27 < wait <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True)
    assert retry_after(answer(503, "", Retry_After=past).headers) == 0
