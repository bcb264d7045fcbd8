"""What a failed delivery means: repeat it for ever, doubt it, or put the record away.

MLflow's client wraps whatever happens into an `MlflowException`; which kind it is stands partly in its type
and partly in its text (mlflow/utils/rest_utils.py: `http_request`, `verify_rest_response`). Of an answer in
JSON it keeps nothing but the body, which may be a gateway's.
"""

from __future__ import annotations

import json
import re
import traceback
from http import HTTPStatus
from typing import Any

from mlflow_platform.errors import Rejected, Transient

#: No answer from MLflow itself, or one that says: later.
_LATER = {
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_EARLY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_RETRIED = re.compile(r"too many (\d{3}) error responses")
_STATUS = re.compile(r"failed with error code (\d{3})")


class Doubtful(Transient):
    """A failure that may pass or may be the record's own: repeated while nothing else gets through either,
    put away when it goes on while others succeed. `code` is MLflow's error_code, if known."""

    def __init__(self, what: str, *, code: str = "") -> None:
        super().__init__(what, uncertain=True)
        self.code = code


class Unauthorised(Transient):
    """The server refuses the login; another process may have a newer one."""


def understand(error: Exception, *, remote: bool) -> Rejected | Transient:
    """The kind of a failed call. `remote`: it went over HTTP, not into a database or file of this machine."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, Rejected | Transient):
        return error
    text = _first_line(error)
    if isinstance(error, json.JSONDecodeError):
        return Doubtful(
            f"the answer is no JSON: {text}"
        )  # to a call of an API after 2.0: MLflow lets it pass
    if isinstance(error, KeyError | TypeError | ValueError | AttributeError | OverflowError):
        return Rejected(f"{type(error).__name__}: {text}")
    if not isinstance(error, MlflowException):
        status = getattr(getattr(error, "response", None), "status_code", None)
        return _by_status(int(status), text) if isinstance(status, int) else Doubtful(text)
    code = str(error.error_code)
    status = error.get_http_status_code()
    if (answered := _answered(error)) in _LATER:
        # Whoever said so, in whatever words: a gateway's have no error_code, for which MLflow takes 500.
        return _by_status(int(answered), text)
    if isinstance(error, RestException) or not remote or not text.startswith("API request to "):
        # MLflow's own words, by its client or by its server.
        if 400 <= status < 500 and status not in _LATER:
            return Rejected(text, code=code)
        return _by_status(status, text, code)
    # A gateway's page, or no answer at all.
    if found := _RETRIED.search(text) or _STATUS.search(text):
        return _by_status(int(found[1]), text)
    return Transient(text, uncertain=True)


def distrust_pages() -> None:
    """From now on a page in answer to what changes something fails MLflow's requests in this process.

    A gateway, a captive portal or a form to log in by may answer 200 with one, and MLflow's client reads no
    answer to spans and artifacts: they would be taken for delivered. MLflow's server sends no page then.
    """
    from mlflow.utils import rest_utils

    original = rest_utils._get_http_response_with_retries
    if original.__module__ == __name__:
        return

    def answer(method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        response = original(method, url, *args, **kwargs)
        content = response.headers.get("Content-Type", "")
        if method != "GET" and response.ok and content.startswith("text/html"):
            raise ConnectionError(f"a page ({response.status_code} {content}) came instead of an answer")
        return response

    rest_utils._get_http_response_with_retries = answer


def _answered(error: Exception) -> int | None:
    """The status of the answer that MLflow's client made an exception of, which does not tell: the function
    that raised it still has it."""
    from mlflow.utils.rest_utils import verify_rest_response

    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code is verify_rest_response.__code__:
            status = getattr(frame.f_locals.get("response"), "status_code", None)
            return status if isinstance(status, int) else None
    return None


def _by_status(status: int, text: str, code: str = "") -> Rejected | Transient:
    if status == HTTPStatus.UNAUTHORIZED:
        return Unauthorised(text)
    if status in _LATER:
        return Transient(text, uncertain=True)
    return Doubtful(text, code=code)


def _first_line(error: Exception) -> str:
    """Without credentials: a URI with a login in it is cut."""
    text = str(error).strip().split("\n", 1)[0][:500] or type(error).__name__
    return re.sub(r"(\w+://)[^/@\s]*@", r"\1", text)
