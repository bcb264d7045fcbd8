"""One apply of an owner at a time, on the whole server: two at once would both see what is missing, and
MLflow lets both make it (versions and webhooks have no unique names).

MLflow has no locks. Creating a registered model is atomic, its name unique, its deletion final; so the lock
is a registered model with a reserved name, there only while an apply writes. A holder beats every few
seconds; one that is dead on this machine, or has not beaten for a while, is broken.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from mlflow_platform.errors import Blocked, PlatformError, Rejected, Transient
from mlflow_platform.kinds.base import Api
from mlflow_platform.kinds.lists import LOCK_PREFIX

_HOLDER, _BEAT = "mlplatform.io/holder", "mlplatform.io/beat"
_NOTE = "Held while mlplatform applies documents, and deleted at its end. Do not edit."
_POLL_SECONDS = 0.5
_BEAT_SECONDS = 5.0
#: Four beats missed. Told by this process' own clock from a beat that does not change: clocks of two
#: machines need not agree.
_STALE_SECONDS = 20.0
_MODELS = "api/2.0/mlflow/registered-models"


class ApplyLock:
    """A context in which no other apply of `owner` writes to the server.

    `waiting` is told once who holds the lock. `lost` is set when somebody broke it meanwhile: nothing more
    may be sent then. Raises `Blocked` when another apply still holds it after `patience` seconds.
    """

    def __init__(
        self,
        api: Api,
        owner: str,
        header: str | None,
        *,
        waiting: Callable[[str], None] = lambda _: None,
        patience: float = 600.0,
    ) -> None:
        self.lost = threading.Event()
        self._api, self._owner, self._header = api, owner, header
        self._name = LOCK_PREFIX + hashlib.sha256(owner.encode()).hexdigest()[:16]
        self._waiting, self._patience = waiting, patience
        self._token = secrets.token_hex(8)
        self._ended = threading.Event()
        self._beater = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> ApplyLock:
        begun = seen_since = time.monotonic()
        seen: dict[str, str] = {}
        told = False
        while not self._create():
            found = self._read()
            if found is None:
                continue  # given back meanwhile
            holder = _holder(found)
            if holder.get("token") == self._token:
                break  # ours: only the answer was lost
            now = time.monotonic()
            if found != seen:
                seen, seen_since = found, now
            if _is_dead(holder) or now - seen_since > _STALE_SECONDS:
                self._delete(found)
                continue
            who = f"another apply of {self._owner} is at work on {holder.get('host', 'a machine unknown')}"
            if now - begun > self._patience:
                raise Blocked(
                    f"{who}; nothing was written", remedy="wait until it has ended, then apply again"
                )
            if not told:
                self._waiting(f"{who}: waiting for its end")
                told = True
            time.sleep(_POLL_SECONDS)
        self._beater.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._beater.join()
        try:
            found = self._read()
            if found is not None and _holder(found).get("token") == self._token:
                self._delete(found)
        except PlatformError:
            pass  # the server is away: the lock goes stale, and the next apply breaks it

    def _create(self) -> bool:
        holder = {"token": self._token, "host": socket.gethostname(), **_this_process()}
        body = {
            "name": self._name,
            "description": _NOTE,
            "tags": [{"key": _HOLDER, "value": json.dumps(holder)}, {"key": _BEAT, "value": "0"}],
        }
        try:
            self._api.call("POST", f"{_MODELS}/create", json=body, workspace=self._header, idempotent=False)
        except Rejected as error:
            if error.code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        except Transient as error:
            if not error.uncertain:
                raise
            return False  # whose it is shows when it is read
        return True

    def _read(self) -> dict[str, str] | None:
        """The lock's tags; None where nobody holds it."""
        try:
            answer = self._api.call(
                "GET", f"{_MODELS}/get", params={"name": self._name}, workspace=self._header
            )
        except Rejected as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return {t["key"]: t.get("value", "") for t in answer["registered_model"].get("tags", ())}

    def _delete(self, found: dict[str, str]) -> None:
        """Delete the lock that was found, unless it is another one by now."""
        now = self._read()
        if now is None or now.get(_HOLDER) != found.get(_HOLDER):
            return
        try:
            self._api.call("DELETE", f"{_MODELS}/delete", json={"name": self._name}, workspace=self._header)
        except Rejected as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise

    def _beat(self) -> None:
        count = 0
        while not self._ended.wait(_BEAT_SECONDS):
            count += 1
            body = {"name": self._name, "key": _BEAT, "value": str(count)}
            try:
                self._api.call("POST", f"{_MODELS}/set-tag", json=body, workspace=self._header)
                if _holder(self._read() or {}).get("token") != self._token:
                    self.lost.set()
            except Transient:
                continue  # the server is away: for others too
            except PlatformError:
                self.lost.set()
            if self.lost.is_set():
                return


def _holder(tags: dict[str, str]) -> dict[str, str]:
    try:
        holder = json.loads(tags.get(_HOLDER, ""))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _this_process() -> dict[str, str]:
    """What tells, on this machine, whether a process still lives; empty where /proc does not say."""
    try:
        return {
            "boot": Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
            "pids": str(Path("/proc/self/ns/pid").readlink()),
            "pid": str(os.getpid()),
            "started": _started(os.getpid()),
        }
    except OSError:
        return {}


def _started(pid: int) -> str:
    """Field 22 of /proc/<pid>/stat (proc(5)): tells a process from a later one with its number."""
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[19]


def _is_dead(holder: dict[str, str]) -> bool:
    here = _this_process()
    if not here or any(holder.get(k) != here[k] for k in ("boot", "pids")):
        return False
    try:
        return _started(int(holder["pid"])) != holder["started"]
    except (OSError, KeyError, ValueError):
        return True
