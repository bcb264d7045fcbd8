"""What an answer of an MLflow server means: the JSON it holds, or the one error that fits it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from mlflow_platform.adapters.http import Answer
from mlflow_platform.errors import Fatal, PlatformError, Rejected, Transient

#: The server, or a proxy before it, is busy or away: Request Timeout, Too Many Requests, Bad Gateway,
#: Service Unavailable, Gateway Timeout.
_PASSING = frozenset({408, 429, 502, 503, 504})
#: mlflow/server/security_utils.py: INVALID_HOST_MSG.
_INVALID_HOST = "Invalid Host header"
#: mlflow/exceptions.py: ERROR_CODE_TO_HTTP_STATUS gives these 500, though repeating does not help.
_FINAL_CODES = frozenset({"INVALID_STATE", "DATA_LOSS", "NOT_IMPLEMENTED"})
_LONGEST_MESSAGE = 500

_LOGIN_REMEDY = (
    "check the user name and the password (mlplatform env prints those of the local stack), and the path of "
    "the tracking URI"
)
_NO_LOGIN_REMEDY = "give a user name and a password (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD)"
_NOT_MLFLOW = "this does not look like an MLflow server, or a proxy in between answered for it"


def parse(
    answer: Answer, what: str, address: str, *, hide: Sequence[str] = (), anonymous: bool = False
) -> dict[str, Any]:
    """The JSON object of an answer. `what` is the request (`POST api/...`) and `address` the server, for
    messages; `hide` are secrets that no message may hold; `anonymous`: it was asked without a login.

    Raises `Rejected` with MLflow's error_code, `Transient`, or `Fatal` where the login or the server is
    wrong. Whether a `Transient` request may have been carried out: only 429, and 503 with Retry-After,
    are sure refusals; a proxy's 502, 503 and 504 may come after the server has committed.
    """
    if 200 <= answer.status < 300:
        return _content(answer, what, address)
    raise _error(answer, what, address, hide, anonymous)


def _content(answer: Answer, what: str, address: str) -> dict[str, Any]:
    if not answer.body.strip():
        return {}
    try:
        value = json.loads(answer.body)
    except ValueError:
        kind = answer.headers.get_content_type()
        if kind == "application/json":
            raise Transient(
                f"{address}: the answer to {what} was damaged on its way", uncertain=True
            ) from None
        raise Fatal(
            f"{address} answered {what} with {kind}, not JSON: {_NOT_MLFLOW}",
            remedy="check the tracking URI, its path too, and what stands between here and the server",
        ) from None
    if not isinstance(value, dict):
        raise Fatal(
            f"{address} answered {what} with JSON that is not an object: {_NOT_MLFLOW}",
            remedy="check the tracking URI",
        )
    return value


def _error(answer: Answer, what: str, address: str, hide: Sequence[str], anonymous: bool) -> PlatformError:
    status = answer.status
    code, message = _reason(answer)
    for secret in hide:
        message = message.replace(secret, "***")
    says = f"{address} refused {what} (HTTP {status}{', ' + code if code else ''}): {message}"
    if status in _PASSING or code in ("TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED"):
        wait = retry_after(answer.headers)
        refused = status == 429 or (status == 503 and wait is not None)
        text = f"{address} is busy or away (HTTP {status} to {what}): {message}"
        return Transient(text, retry_after=wait, uncertain=not refused)
    if status == 401 and anonymous:
        return Fatal(f"{address} asks for a login (HTTP 401 to {what})", remedy=_NO_LOGIN_REMEDY)
    if status == 401:
        return Fatal(f"{address} does not accept the login (HTTP 401 to {what})", remedy=_LOGIN_REMEDY)
    if status == 403 and _INVALID_HOST in message:
        return Fatal(
            f"{address} does not serve this host name (HTTP 403: {message})",
            remedy="add the name, with its port, to the server's allowed hosts "
            "(MLFLOW_SERVER_ALLOWED_HOSTS), or use an address it knows",
        )
    if status == 403:
        return Rejected(
            f"{address}: the login may not do {what} (HTTP 403): {message}",
            code=code or "PERMISSION_DENIED",
            remedy="use the login of an administrator of that server",
        )
    if 300 <= status < 400:
        return Fatal(
            f"{address} redirects {what}{_target(answer.headers)}",
            remedy="use the final address as the tracking URI: a redirected write is not repeated",
        )
    if status >= 500 and code not in _FINAL_CODES:
        return Transient(f"{address} failed at {what} (HTTP {status}): {message}", uncertain=True)
    if status == 404 and not code:
        return Rejected(
            f"{address} does not know {what} (HTTP 404)",
            code="ENDPOINT_NOT_FOUND",
            remedy="check the tracking URI, its path too, and the server's version",
        )
    return Rejected(says, code=code or f"HTTP_{status}")


def _reason(answer: Answer) -> tuple[str, str]:
    """MLflow's error_code, and one line that says why.

    Cut before SQLAlchemy's part of a message, which lists the statement's parameters, hashes of
    passwords among them (mlflow/server/auth/sqlalchemy_store.py: create_user).
    """
    text = answer.body[:20_000].decode("utf-8", "replace")
    code = ""
    try:
        data = json.loads(answer.body)
    except ValueError:
        data = None
    if isinstance(data, Mapping):
        code = str(data.get("error_code") or "")
        text = str(data.get("message") or data.get("detail") or code)
    elif "html" in answer.headers.get_content_type() and "<" in text:
        found = re.search(r"<(?:title|h1)[^>]*>([^<]*)", text, re.IGNORECASE)
        text = found.group(1) if found else "a page of HTML"
    text = re.split(
        r"\s*(?:Error: )?\((?:psycopg|sqlite3|pymysql|builtins)|\[SQL:|\n", text.strip(), maxsplit=1
    )[0]
    text = text if len(text) <= _LONGEST_MESSAGE else text[:_LONGEST_MESSAGE] + "..."
    return code, text or "no reason given"


def retry_after(headers: Message) -> float | None:
    """Seconds of a Retry-After header, given as a number or as a date (RFC 9110, 10.2.3)."""
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    if value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


def _target(headers: Message) -> str:
    """` to scheme://host/path`: without a query or a login, which may hold secrets."""
    parts = urlsplit(headers.get("Location") or "")
    if not parts.path and not parts.hostname:
        return ""
    host = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.hostname else ""
    return f" to {host}{parts.path}"
