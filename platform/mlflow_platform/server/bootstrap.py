"""Makes the Secrets that nobody brought, once: an existing one is neither read nor changed.

    python -m mlflow_platform.server.bootstrap '{"NAME": {"KEY": {"hex": 16}}}'

runs in a pod, with its ServiceAccount's token. A key's content is `{"value": "text"}`, `{"hex": n}`
(n random bytes as hexadecimal digits) or `{"fernet": 32}` (32 random bytes as URL-safe base64, the form
of MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY, see cryptography.fernet). It needs no right but `create`.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import ssl
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_platform.errors import BadInput, PlatformError, Rejected, Transient

#: Where Kubernetes puts token, namespace and CA of a pod's ServiceAccount.
MOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
#: How long to go on when the API server does not answer, in seconds: a new pod's network may come late.
PATIENCE = 120.0


@dataclass(frozen=True)
class Api:
    """An API server and a login for one namespace."""

    url: str
    ca_file: Path
    token: str
    namespace: str

    @classmethod
    def of_this_pod(cls) -> Api:
        """`BadInput` outside a pod."""
        try:
            host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
            token = (MOUNT / "token").read_text().strip()
            namespace = (MOUNT / "namespace").read_text().strip()
        except (KeyError, OSError) as error:
            raise BadInput(
                "not in a pod with a ServiceAccount's token", remedy="run it as the chart's Job"
            ) from error
        return cls(
            f"https://{f'[{host}]' if ':' in host else host}:{port}", MOUNT / "ca.crt", token, namespace
        )


def create(api: Api, wanted: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, bool]:
    """Name -> whether the Secret was made now (False: it was there). `Rejected` without the right to."""
    import urllib3

    tls = ssl.create_default_context(cafile=str(api.ca_file))
    # Python 3.13 made the letter of RFC 5280 the default; many a cluster's own CA does not fulfil it.
    tls.verify_flags &= ~ssl.VERIFY_X509_STRICT
    pool = urllib3.PoolManager(ssl_context=tls, timeout=10, retries=False)
    made = {}
    for name, keys in wanted.items():
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "mlplatform"}},
            "stringData": {key: content(recipe) for key, recipe in keys.items()},
        }
        made[name] = _post(pool, api, body)
    return made


def content(recipe: Mapping[str, Any]) -> str:
    """A key's content, random where the recipe says so."""
    match dict(recipe):
        case {"value": str(text), **rest} if not rest:
            return text
        case {"hex": int(size), **rest} if not rest:
            return secrets.token_hex(size)
        case {"fernet": int(size), **rest} if not rest:
            return base64.urlsafe_b64encode(secrets.token_bytes(size)).decode()
    raise BadInput(f"no such recipe for a secret: {sorted(recipe)}", remedy="use value, hex or fernet")


def main(arguments: list[str]) -> int:
    try:
        wanted = json.loads(arguments[0])
        for name, made in create(Api.of_this_pod(), wanted).items():
            print(f"Secret {name} {'created' if made else 'exists, left as it is'}", flush=True)
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _post(pool: Any, api: Api, body: Mapping[str, Any]) -> bool:
    from urllib3.exceptions import HTTPError, SSLError

    url = f"{api.url}/api/v1/namespaces/{api.namespace}/secrets"
    headers = {"authorization": f"Bearer {api.token}", "content-type": "application/json"}
    name = body["metadata"]["name"]
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            answer = pool.request("POST", url, body=json.dumps(body), headers=headers)
        except SSLError as error:
            raise Rejected(
                f"{api.url}: {error}", remedy="check the cluster's CA and the server's name"
            ) from error
        except HTTPError as error:
            reason = type(error).__name__
        else:
            if answer.status == 201:
                return True
            if answer.status == 409:  # AlreadyExists
                return False
            reason = f"HTTP {answer.status}: {_words(answer.data)}"
            if answer.status in (400, 401, 403, 404, 422):
                raise Rejected(f"Secret {name}: {reason}", remedy="check the Job's ServiceAccount and Role")
        if time.monotonic() > deadline:
            raise Transient(f"Secret {name}: the API server does not answer: {reason}")
        time.sleep(1)


def _words(data: bytes) -> str:
    """The message of Kubernetes' Status object."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return "no message"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
