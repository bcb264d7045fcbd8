"""Changes the administrator's password while every server accepts the old and the new one.

    python -m mlflow_platform.server.admin_login change SERVER...
    python -m mlflow_platform.server.admin_login refused SERVER...

SERVER is a pod's address, such as http://10.0.0.7:5000. ADMIN_USERNAME is who; `change` takes
ADMIN_PASSWORD (the present one) and NEXT_PASSWORD: it waits until every server accepts the next one, for
whose sake each has read the Secret that both are in (see `auth`), then has MLflow change it. `refused`
returns when no server accepts a password of PREVIOUS any more (JSON as in `auth`).
Each step may be repeated. Exit codes: 0 done, 1 failed, 64 usage.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from collections.abc import Sequence
from http import HTTPStatus

from mlflow_platform.errors import EXIT_USAGE, PlatformError, Rejected, Transient
from mlflow_platform.server.database import say

#: How long a server may take to know of a changed Secret and to forget what it has cached, in seconds:
#: kubelet looks once a minute and up to half of that later (syncFrequency), and the cache is the chart's
#: auth.cacheSeconds.
PATIENCE = 300.0


def main(arguments: list[str]) -> int:
    """Exit code of `change` or `refused`."""
    user = os.environ.get("ADMIN_USERNAME", "")
    try:
        match arguments:
            case ["change", *servers] if servers:
                change(servers, user, os.environ["ADMIN_PASSWORD"], os.environ["NEXT_PASSWORD"])
            case ["refused", *servers] if servers:
                for password in json.loads(os.environ["PREVIOUS"]):
                    wait(servers, user, password, HTTPStatus.UNAUTHORIZED)
                say("no server accepts a previous password")
            case _:
                print(__doc__, file=sys.stderr)
                return EXIT_USAGE
    except PlatformError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def change(servers: Sequence[str], user: str, present: str, following: str) -> None:
    """To `following`, through MLflow itself. Both work at every server before, and after."""
    wait(servers, user, present, HTTPStatus.OK)
    wait(servers, user, following, HTTPStatus.OK)
    body = json.dumps({"username": user, "password": following, "current_password": present}).encode()
    status, words = ask(servers[0], "PATCH", "mlflow/users/update-password", user, present, body)
    if status != HTTPStatus.OK:
        raise Rejected(f"MLflow does not change the password of {user}: HTTP {status}: {words}")
    say(f"the password of {user} is changed; {len(servers)} servers accept it and the previous one")


def wait(servers: Sequence[str], user: str, password: str, wanted: int, patience: float = PATIENCE) -> None:
    """Until every server answers a login with this status; `Transient` after `patience` seconds."""
    deadline = time.monotonic() + patience
    for server in servers:
        while (found := ask(server, "GET", "mlflow/users/current", user, password)[0]) != wanted:
            if time.monotonic() > deadline:
                what = f"answers HTTP {found}" if found else "does not answer"
                raise Transient(
                    f"the server at {server} {what} to a login of {user} instead of {wanted:d}",
                    remedy="the Secret holds the password that MLflow knows? Then run it again",
                )
            time.sleep(1)


def ask(
    server: str, method: str, path: str, user: str, password: str, body: bytes | None = None
) -> tuple[int, str]:
    """Status (0: no answer) and start of the text of an answer."""
    import urllib3
    from urllib3.exceptions import HTTPError

    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"authorization": f"Basic {token}", "content-type": "application/json"}
    url = f"{server}/api/2.0/{path}"
    try:
        answer = urllib3.request(method, url, body=body, headers=headers, retries=False, timeout=30)
    except HTTPError as error:
        return 0, type(error).__name__
    return answer.status, answer.data.decode(errors="replace")[:200]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
