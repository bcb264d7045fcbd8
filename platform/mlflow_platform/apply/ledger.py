"""The ledger: marks and secret fingerprints of objects that cannot bear a tag.

One tag an object on the reserved experiment `mlplatform-ledger` of the workspace `default`. An intent is
written before a create is sent, so that a kill in between is finished by the next apply, not refused.
Secrets are kept as HMACs only. Their key is derived from the login that applies, or is given
(`TrackingServer.spec.ledgerKeySecretRef`) where several logins apply the same documents: with a key of
its own each login would find the other's HMACs changed and write every password again.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mlflow_platform.errors import Rejected
from mlflow_platform.kinds.base import Api, Snapshot
from mlflow_platform.kinds.lists import LEDGER_EXPERIMENT, experiments
from mlflow_platform.plan.objects import Key, Mark, Path

_SALT = "mlplatform.io/salt"
_ENTRY = "mlplatform.io/entry/"
#: RFC 7914's interactive parameters: 16 MiB and about 50 ms, once a process.
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**14, 8, 1


@dataclass(frozen=True, slots=True)
class Entry:
    """What the ledger knows of one object."""

    key: Key
    mark: Mark
    hmacs: Mapping[Path, str] = field(default_factory=dict)


class Ledger:
    """The ledger of one server as last read. Reading writes nothing; `open` creates what is missing."""

    def __init__(self, header: str | None, login_secret: str) -> None:
        self._header = header
        self._login_secret = login_secret
        self._experiment_id: str | None = None
        self._active = False
        self._salt = ""
        self._hmac_key = b""
        self.entries: dict[Key, Entry] = {}

    @classmethod
    def read(cls, snapshot: Snapshot, login_secret: str) -> Ledger:
        """The ledger found in the snapshot's list of experiments; an empty one where there is none."""
        ledger = cls(snapshot.header("default"), login_secret)
        for experiment in experiments(snapshot, "default"):
            if experiment["name"] == LEDGER_EXPERIMENT:
                ledger._load(experiment)
        return ledger

    def _load(self, experiment: Mapping[str, object]) -> None:
        self._experiment_id = str(experiment["experiment_id"])
        self._active = experiment.get("lifecycle_stage") == "active"
        tags = experiment.get("tags")
        for tag in tags if isinstance(tags, list) else []:
            if tag["key"] == _SALT:
                self._salt = tag["value"]
            elif tag["key"].startswith(_ENTRY):
                entry = _parse(tag["value"])
                if entry is not None:
                    self.entries[entry.key] = entry

    def open(self, api: Api) -> None:
        """Create the reserved experiment, or restore it where it was deleted by hand."""
        if self._experiment_id is None:
            salt = secrets.token_hex(16)
            note = (
                "Written by mlplatform. Says who declared users, roles, webhooks and workspaces. Do not edit."
            )
            body = {
                "name": LEDGER_EXPERIMENT,
                "tags": [{"key": _SALT, "value": salt}, {"key": "mlflow.note.content", "value": note}],
            }
            try:
                answer = api.call(
                    "POST", "api/2.0/mlflow/experiments/create", json=body, workspace=self._header
                )
                self._experiment_id, self._salt, self._active = answer["experiment_id"], salt, True
            except Rejected:  # made by another apply since it was looked for
                answer = api.call(
                    "GET",
                    "api/2.0/mlflow/experiments/get-by-name",
                    params={"experiment_name": LEDGER_EXPERIMENT},
                    workspace=self._header,
                )
                self._load(answer["experiment"])
        if not self._active:
            restore = {"experiment_id": self._experiment_id}
            api.call("POST", "api/2.0/mlflow/experiments/restore", json=restore, workspace=self._header)
            self._active = True

    def hmac(self, key: Key, path: Path, value: str) -> str:
        """The keyed HMAC of a secret. `unknown` before the ledger exists: nothing to compare with."""
        if not self._salt:
            return "unknown"
        if not self._hmac_key:
            self._hmac_key = hashlib.scrypt(
                self._login_secret.encode(),
                salt=bytes.fromhex(self._salt),
                n=_SCRYPT_N,
                r=_SCRYPT_R,
                p=_SCRYPT_P,
            )
        message = "\0".join([key.kind, key.workspace, key.name, *path, value]).encode()
        return hmac.new(self._hmac_key, message, hashlib.sha256).hexdigest()

    def intend(self, api: Api, key: Key, mark: Mark) -> None:
        """Say that a create is about to be sent."""
        intent = Mark(mark.owner, mark.origin, mark.deletion, mark.paths, intent=True)
        self._write(api, Entry(key, intent))

    def record(
        self, api: Api, key: Key, mark: Mark, hmacs: Mapping[Path, str], cleared: Collection[Path] = ()
    ) -> None:
        """Say that an object is ours. HMACs not given stay as they were, but for the secrets `cleared`:
        the same secret given later must be written again."""
        known = self.entries.get(key)
        kept = {p: h for p, h in (known.hmacs if known else {}).items() if p not in cleared}
        self._write(api, Entry(key, mark, {**kept, **hmacs}))

    def drop(self, api: Api, key: Key) -> None:
        """Forget an object."""
        if self.entries.pop(key, None) is None:
            return
        body = {"experiment_id": self._experiment_id, "key": _tag(key)}
        api.call(
            "POST", "api/2.0/mlflow/experiments/delete-experiment-tag", json=body, workspace=self._header
        )

    def _write(self, api: Api, entry: Entry) -> None:
        value = json.dumps(
            {
                "kind": entry.key.kind,
                "workspace": entry.key.workspace,
                "name": entry.key.name,
                "mark": entry.mark.to_text(),
                "hmacs": [[list(p), h] for p, h in sorted(entry.hmacs.items())],
            }
        )
        body = {"experiment_id": self._experiment_id, "key": _tag(entry.key), "value": value}
        api.call("POST", "api/2.0/mlflow/experiments/set-experiment-tag", json=body, workspace=self._header)
        self.entries[entry.key] = entry

    def owned_kinds(self, owner: str) -> Iterable[str]:
        """The kinds of which `owner` has objects in the ledger."""
        return {e.key.kind for e in self.entries.values() if e.mark.owner == owner}


def _tag(key: Key) -> str:
    # Names may hold characters that tag keys may not.
    text = "\0".join([key.kind, key.workspace, key.name])
    return _ENTRY + hashlib.sha256(text.encode()).hexdigest()[:32]


def _parse(value: str) -> Entry | None:
    try:
        data = json.loads(value)
        mark = Mark.from_text(data["mark"])
        hmacs = {tuple(p): h for p, h in data["hmacs"]}
        return Entry(Key(data["kind"], data["workspace"], data["name"]), mark, hmacs) if mark else None
    except (ValueError, KeyError, TypeError):
        return None  # damaged by hand: as if it were not there
