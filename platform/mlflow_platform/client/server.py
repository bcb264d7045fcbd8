"""The server as the user's process sees it: reads and registrations, which wait, but not for ever."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.store.model_registry.rest_store import RestStore as RegistryRestStore
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.rest_utils import http_request, verify_rest_response

from mlflow_platform.client.courier import Courier
from mlflow_platform.client.faults import Doubtful, understand
from mlflow_platform.client.ids import Ids, is_placeholder
from mlflow_platform.errors import Rejected

#: Seconds that a read waits for what this process logged to be delivered, and for the server's answer
#: (to connect, and between two parts of it). Together they are the ten that are promised.
DRAIN = 4.0
_ANSWER = (1.0, 5.0)
#: Seconds for which a server that did not answer is not asked again by calls that can do without it.
_AWAY = 10.0


def _call(store: Any, path: str, method: str, body: str | None, answer: Any) -> Any:
    """MLflow's `call_endpoint` with a time-out; it takes none."""
    sent = {"params" if method == "GET" else "json": json.loads(body) if body else None}
    response = http_request(
        store.get_host_creds(), path, method, timeout=_ANSWER, max_retries=0, raise_on_status=False, **sent
    )
    response = verify_rest_response(response, path)
    if response.status_code != 204:
        parse_dict(js_dict=json.loads(response.text), message=answer)
    return answer


class _Tracking(RestStore):  # type: ignore[misc] # MLflow has no types
    def _call_endpoint(
        self,
        api: Any,
        json_body: str | None = None,
        endpoint: str | None = None,
        retry_timeout_seconds: float | None = None,  # noqa: ARG002 - MLflow's signature
        response_proto: Any = None,
    ) -> Any:
        known = self._V3_METHOD_TO_INFO if api in self._V3_APIS else self._METHOD_TO_INFO
        self._validate_workspace_support_if_specified()
        path, method = known[api]
        return _call(self, endpoint or path, method, json_body, response_proto or api.Response())


class _Registry(RegistryRestStore):  # type: ignore[misc] # MLflow has no types
    def _call_endpoint(
        self, api: Any, json_body: str | None, call_all_endpoints: bool = False, extra_headers: Any = None
    ) -> Any:
        if call_all_endpoints or extra_headers:
            return super()._call_endpoint(api, json_body, call_all_endpoints, extra_headers)
        path, method = self._get_endpoint_from_method(api)
        return _call(self, path, method, json_body, self._get_response_from_method(api))


class Away(MlflowException):  # type: ignore[misc] # MLflow has no types
    """The server did not answer."""


class Server:
    """Calls of the server behind a durable URI, after what this process logged has got there."""

    def __init__(self, uri: str, courier: Courier) -> None:
        self.uri = uri
        self.ids = Ids(courier.spool.ids)
        self._courier = courier
        self._lock = threading.Lock()
        self._stores: dict[str, Any] = {}
        self._away_until = 0.0

    @property
    def remote(self) -> bool:
        return self.uri.startswith(("http://", "https://"))

    @property
    def away(self) -> bool:
        """Whether it did not answer a moment ago."""
        return time.monotonic() < self._away_until

    def tracking(self) -> Any:
        """MLflow's tracking store for the plain URI."""
        from mlflow.tracking._tracking_service.utils import _get_store

        return self._open("tracking", _Tracking, lambda: _get_store(self.uri))

    def registry(self) -> Any:
        """MLflow's model registry store for the plain URI."""
        from mlflow.tracking._model_registry.utils import _get_store

        return self._open("registry", _Registry, lambda: _get_store(self.uri, self.uri))

    def _open(self, name: str, rest: Callable[[Any], Any], local: Callable[[], Any]) -> Any:
        with self._lock:
            if name not in self._stores:
                remote = self.remote
                self._stores[name] = rest(partial(get_default_host_creds, self.uri)) if remote else local()
            return self._stores[name]

    def ask(self, call: Callable[[Any], Any], *, registry: bool = False, drain: float = DRAIN) -> Any:
        """Call a store once what this process logged is delivered, or cannot be for now.

        Raises what MLflow raises; `Away` where there is no answer.
        """
        self._courier.drain(0.0 if self.away else drain)
        self.ids.refresh()
        try:
            answer = call(self.registry() if registry else self.tracking())
        except NotImplementedError:
            raise  # MLflow's own word of a store that cannot: its callers know what to do instead
        except Exception as error:
            understood = understand(error, remote=self.remote)
            if isinstance(understood, Rejected | Doubtful):
                raise
            self._away_until = time.monotonic() + _AWAY
            raise Away(
                f"the tracking server is away: {understood.problem.what}; what was logged is kept in "
                f"{self._courier.spool.root} and will be delivered"
            ) from error
        self._away_until = 0.0
        return answer

    def call(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], *, registry: bool = False
    ) -> Any:
        """`ask` by name, with our ids in the arguments replaced by the server's."""
        return self.ask(
            lambda store: getattr(store, name)(
                *map(self._real, args), **{k: self._real(v) for k, v in kwargs.items()}
            ),
            registry=registry,
        )

    def _real(self, value: Any) -> Any:
        if isinstance(value, str):
            real = self.ids.real(value)
            if is_placeholder(real):
                raise Away("the experiment was named while the tracking server was away and is not there yet")
            return real
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            return [self._real(v) for v in value]
        return value
