"""The Kubernetes API as we need it: server-side apply, reading, lists and watches, patches, a pod's log.

Objects are plain data, as in a manifest. The official client finds the login (kubeconfig with its
plug-ins, or a pod's own); the requests are ours, because its models know no custom resources.
Every request is safe to repeat, so a passing fault is retried here and nowhere else.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mlflow_platform.errors import Fatal, Rejected, Transient

#: Under this name the API server keeps which fields are ours (server-side apply).
FIELD_MANAGER = "mlplatform"
#: How long one request may take, and how long to go on when the API server does not answer, in seconds.
TIMEOUT = 30.0
PATIENCE = 60.0
#: An unknown field is answered with status 500 (apimachinery: managedfields/internal/structuredmerge.go).
_BAD_PATCH = "failed to create typed patch object"
#: Asks for an object without spec, data and status.
_METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
#: A watch sends a bookmark about every minute (apiserver: storage/cacher, bookmarkFrequency): a connection
#: that is silent for longer than this, in seconds, is dead.
_SILENCE = 90.0


@dataclass(frozen=True)
class Resource:
    """Where objects of a kind are: `path` is the group's, without a final slash."""

    path: str
    plural: str
    namespaced: bool


@dataclass(frozen=True)
class Reply:
    """An object as the API server returned it, and what it warned of."""

    object: Mapping[str, Any]
    warnings: tuple[str, ...] = ()


@dataclass
class Cluster:
    """One API server and a login."""

    client: Any
    _kinds: dict[str, dict[str, Resource]] = field(default_factory=dict)
    patience: float = PATIENCE
    """How long a request is repeated while the API server does not answer, in seconds."""
    gate: Callable[[], None] = field(default=lambda: None, repr=False)
    """Called right before each request that changes something; raises where nothing may be sent any more."""

    @classmethod
    def connect(cls, kubeconfig: Path | None = None, context: str = "") -> Cluster:
        """By kubeconfig (default: $KUBECONFIG, then ~/.kube/config), or as the pod this runs in."""
        try:
            from kubernetes import client, config
            from urllib3.util.ssl_ import create_urllib3_context
        except ImportError as error:
            raise Fatal(
                "the Kubernetes client is not installed",
                remedy="python -m pip install 'mlflow-platform[kubernetes]'",
            ) from error
        settings = client.Configuration()
        try:
            in_a_pod = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
            if in_a_pod and kubeconfig is None and not context:
                config.load_incluster_config(settings)
            else:
                config.load_kube_config(
                    str(kubeconfig) if kubeconfig else None, context or None, client_configuration=settings
                )
        except Exception as error:
            raise Fatal(
                f"no login for a cluster: {str(error).splitlines()[0]}",
                remedy="set KUBECONFIG, or name one with --kubeconfig and --context",
            ) from error
        settings.retries = False
        api = client.ApiClient(settings)
        # Python 3.13 made the letter of RFC 5280 the default; many a cluster's own CA does not fulfil it.
        tls = create_urllib3_context()
        tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
        api.rest_client.pool_manager.connection_pool_kw["ssl_context"] = tls
        return cls(api)

    @property
    def address(self) -> str:
        return str(self.client.configuration.host)

    def version(self) -> str:
        """Such as `1.34`. Asked first, so a server that is not there is not waited for."""
        found = json.loads(self._request("GET", "/version", patience=5).data)
        return f"{found['major']}.{str(found['minor']).rstrip('+')}"

    def resource(self, api_version: str, kind: str) -> Resource | None:
        """Where a kind's objects are; None if this cluster does not know it."""
        if api_version not in self._kinds:
            path = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            found = self._json("GET", path, missing_ok=True) or {"resources": []}
            self._kinds[api_version] = {
                r["kind"]: Resource(path, r["name"], r["namespaced"])
                for r in found["resources"]
                if "/" not in r["name"]
            }
        return self._kinds[api_version].get(kind)

    def get(
        self, api_version: str, kind: str, namespace: str, name: str, *, metadata_only: bool = False
    ) -> Mapping[str, Any] | None:
        """An object, or None. `metadata_only` leaves its content at the server, as fits a Secret."""
        accept = _METADATA_ONLY if metadata_only else "application/json"
        path = self._path(api_version, kind, namespace, name)
        found: Mapping[str, Any] | None = self._json("GET", path, accept=accept, missing_ok=True)
        return found

    def find(
        self, api_version: str, kind: str, namespace: str, labels: Mapping[str, str] | None = None
    ) -> list[Mapping[str, Any]]:
        """Objects with these labels; none if the cluster does not know the kind."""
        if self.resource(api_version, kind) is None:
            return []
        selector = ",".join(f"{k}={v}" for k, v in (labels or {}).items())
        path = self._path(api_version, kind, namespace, "")
        found = self._json("GET", path, query={"labelSelector": selector})
        return [{"apiVersion": api_version, "kind": kind, **item} for item in found["items"]]

    def apply(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Reply:
        """Server-side apply: fields we set are ours, also where somebody else had set them.

        `Rejected` with the API server's words if it refuses the object.
        """
        meta = wanted["metadata"]
        path = self._path(wanted["apiVersion"], wanted["kind"], meta.get("namespace", ""), meta["name"])
        query = {"fieldManager": FIELD_MANAGER, "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        what = f"{wanted['kind']} {meta['name']}"
        answer = self._request(
            "PATCH", path, query=query, body=wanted, content_type="application/apply-patch+yaml", what=what
        )
        warnings = answer.headers.getlist("warning")
        return Reply(json.loads(answer.data), tuple(_warning(w) for w in warnings))

    def create(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Mapping[str, Any]:
        """The object as it was made. `Rejected` with the code 409 where there is one of that name."""
        meta = wanted["metadata"]
        path = self._path(wanted["apiVersion"], wanted["kind"], meta.get("namespace", ""), "")
        query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        made: Mapping[str, Any] = self._json("POST", path, query=query, body=wanted)
        return made

    def replace(self, wanted: Mapping[str, Any], *, dry_run: bool = False) -> Mapping[str, Any]:
        """Put the object in the place of the one of the same resourceVersion; the code 409 where that has
        changed."""
        meta = wanted["metadata"]
        path = self._path(wanted["apiVersion"], wanted["kind"], meta.get("namespace", ""), meta["name"])
        query = {"fieldManager": FIELD_MANAGER, **({"dryRun": "All"} if dry_run else {})}
        found: Mapping[str, Any] = self._json("PUT", path, query=query, body=wanted)
        return found

    def patch(
        self,
        api_version: str,
        kind: str,
        namespace: str,
        name: str,
        body: Mapping[str, Any],
        *,
        subresource: str = "",
    ) -> Mapping[str, Any] | None:
        """A merge patch (RFC 7396): the object afterwards, None if there was none. A resourceVersion in the
        body must be the object's, else the code is 409."""
        path = self._path(api_version, kind, namespace, name) + (f"/{subresource}" if subresource else "")
        content_type = "application/merge-patch+json"
        query = {"fieldManager": FIELD_MANAGER}
        try:
            answer = self._request("PATCH", path, query=query, body=body, content_type=content_type)
        except Rejected as error:
            if error.code == "404":
                return None
            raise
        patched: Mapping[str, Any] = json.loads(answer.data)
        return patched

    def pages(
        self, api_version: str, kind: str, *, metadata_only: bool = False, limit: int = 500
    ) -> Iterator[tuple[list[dict[str, Any]], str]]:
        """All objects of a kind in all namespaces as of one moment, page by page, each with the list's
        resourceVersion. Not from the API server's cache. `Rejected` with the code 410 where reading took
        longer than the server keeps that moment."""
        accept = _METADATA_LIST if metadata_only else "application/json"
        path, token = self._path(api_version, kind, "", ""), ""
        while True:
            query = {"limit": str(limit), **({"continue": token} if token else {})}
            found = self._json("GET", path, query=query, accept=accept)
            yield found["items"], found["metadata"]["resourceVersion"]
            token = found["metadata"].get("continue", "")
            if not token:
                return

    def watch(
        self, api_version: str, kind: str, version: str, *, metadata_only: bool = False, seconds: int = 300
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """What happens to objects of a kind after a resourceVersion: (ADDED | MODIFIED | DELETED | BOOKMARK,
        object), for about `seconds`. Ends early, without a word, where the connection does; `Rejected` with
        the code 410 where the server does not remember that version."""
        from urllib3.exceptions import HTTPError

        query = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        accept = _METADATA_ONLY if metadata_only else "application/json"
        path = self._path(api_version, kind, "", "")
        answer = self._request("GET", path, query=query, accept=accept, stream=True)
        try:
            for line in _lines(answer):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise Rejected(str(status.get("message", "")), code=str(status.get("code", "")))
                yield event["type"], event["object"]
        except (HTTPError, OSError, ValueError):
            return
        finally:
            answer.close()
            answer.release_conn()

    def delete(self, api_version: str, kind: str, namespace: str, name: str) -> bool:
        """Delete an object and, in the background, what it owns; False if there was none."""
        path = self._path(api_version, kind, namespace, name)
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        return self._json("DELETE", path, body=body, missing_ok=True) is not None

    def log(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool = False) -> str:
        """The last lines a container wrote; empty if there is no log (any more)."""
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        query = {"container": container, "tailLines": str(lines), "previous": str(previous).lower()}
        try:
            answer = self._request("GET", path, query=query, accept="*/*")
        except Rejected:  # the container has not started, or its log is gone
            return ""
        return str(answer.data.decode(errors="replace"))

    def _path(self, api_version: str, kind: str, namespace: str, name: str) -> str:
        found = self.resource(api_version, kind)
        if found is None:
            raise Rejected(f"this cluster knows no {kind} ({api_version})")
        inside = f"/namespaces/{namespace}" if found.namespaced and namespace else ""
        return f"{found.path}{inside}/{found.plural}{f'/{quote(name)}' if name else ''}"

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        missing_ok: bool = False,
    ) -> Any:
        try:
            return json.loads(self._request(method, path, query=query, body=body, accept=accept).data)
        except Rejected as error:
            if missing_ok and error.code == "404":
                return None
            raise

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = "application/json",
        content_type: str = "application/json",
        what: str = "",
        patience: float | None = None,
        stream: bool = False,
    ) -> Any:
        from urllib3.exceptions import HTTPError

        url = f"{self.address}{path}{f'?{urlencode(query)}' if query else ''}"
        deadline = time.monotonic() + (self.patience if patience is None else patience)
        while True:
            if method != "GET":
                self.gate()
            headers = {"accept": accept, "content-type": content_type}
            # Anew each time: a token may have been renewed.
            self.client.update_params_for_auth(headers, [], ["BearerToken"], path, method, body)
            try:
                answer = self.client.rest_client.pool_manager.request(
                    method,
                    url,
                    headers=headers,
                    body=json.dumps(body) if body is not None else None,
                    timeout=_SILENCE if stream else TIMEOUT,
                    retries=False,
                    preload_content=not stream,
                )
            except HTTPError as error:
                reason, pause = str(error).split(": ", 1)[-1], 1.0
            else:
                if answer.status < 300:
                    return answer
                reason, pause = _words(answer), _retry_after(answer)
                if answer.status == 401:
                    raise Fatal(f"{self.address} does not accept the login: {reason}")
                if (answer.status < 500 and answer.status != 429) or _BAD_PATCH in reason:
                    raise Rejected(f"{what}: {reason}" if what else reason, code=str(answer.status))
            if time.monotonic() + pause > deadline:
                raise Transient(
                    f"the Kubernetes API at {self.address} does not answer: {reason}",
                    remedy="check the kubeconfig's context and the way to the cluster",
                )
            time.sleep(pause)


def _retry_after(answer: Any) -> float:
    """Seconds to wait before the next try. kube-apiserver gives whole seconds where it throttles
    (apiserver: flowcontrol) and while it starts; one otherwise."""
    given = answer.headers.get("retry-after", "")
    return max(1.0, float(given)) if given.isdigit() else 1.0


def _words(answer: Any) -> str:
    """The message of Kubernetes' Status object."""
    try:
        return str(json.loads(answer.data)["message"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {answer.status}"


def _lines(answer: Any) -> Iterator[bytes]:
    """The lines of an answer as they arrive; one that is cut off is left out."""
    rest = b""
    for chunk in answer.stream(1 << 16):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)


def _warning(header: str) -> str:
    """The text of a header such as `299 - "text"` (RFC 7234, 5.5)."""
    return header.split(" ", 2)[-1].strip('"').replace('\\"', '"')
