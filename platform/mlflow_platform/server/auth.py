"""The administrator's previous password, accepted for a while beside the one that MLflow keeps.

MLflow keeps one hash of a password. While it is being changed some who log in hold the old one and some
the new one, so both must do, at every server, from before the change until all have read the new one.

`mlplatform rotate admin` puts both into a Secret that server pods mount, and that changes under a running
server (chart: server.yaml.j2). Its files:

- `password`: the next one, while it is being changed.
- `previous`: JSON, password -> until when it is accepted, in seconds since the epoch; null: no end yet.

They are read at each login that MLflow's own cache does not know (a check of a hash takes MLflow 88 ms, this
less than a thousandth of it), and nothing of them is kept.
"""

from __future__ import annotations

import hmac
import json
import time
from pathlib import Path
from typing import Any

#: Where server pods mount the Secret.
FOLDER = Path("/etc/mlplatform/admin-rotation")


def accept_previous_password(folder: Path = FOLDER) -> None:
    """Have MLflow's basic authentication accept what the folder holds, for the administrator alone.

    All its ways to check a login, and its cache, are behind one method of its store (mlflow/server/auth,
    `store.authenticate_user`). A function of our own as `authorization_function` would do for Flask's
    routes, but MLflow then asks the database at each request of the native ones, and its pages offer no
    logout and no change of password (`is_basic_auth`).
    """
    from mlflow.server import auth

    verify = auth.store.authenticate_user

    def authenticate_user(username: str, password: str, **options: Any) -> bool:
        administrator = auth.auth_config.admin_username
        if username == administrator and accepted(folder, password):
            return True
        return bool(verify(username, password, **options))

    auth.store.authenticate_user = authenticate_user


def accepted(folder: Path, password: str) -> bool:
    """Whether a rotation's files hold this password, unexpired. A folder without them accepts nothing."""
    now, given, found = time.time(), password.encode(), False
    for one, until in _passwords(folder).items():
        same = hmac.compare_digest(one.encode(), given)
        found |= same and (until is None or now < until)
    return found


def _passwords(folder: Path) -> dict[str, float | None]:
    passwords: dict[str, float | None] = {}
    try:
        passwords |= json.loads((folder / "previous").read_text("utf-8"))
        passwords[(folder / "password").read_text("utf-8")] = None
    except FileNotFoundError:
        pass  # no rotation, or it is past the change
    return passwords
