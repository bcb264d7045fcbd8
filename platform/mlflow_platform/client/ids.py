"""Which id the server gave in place of ours.

The platform's servers take the ids that clients make up (`server/idstore.py`), so there is nothing to
remember. A stock server makes up its own: what is created there is remembered as `local -> real`, and what
may have been created, because an answer never came, is found by its tag before it is created again.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from pathlib import Path

from mlflow_platform.client.spool import append_line

#: The tag that carries the client's id of a run or logged model. Our servers take it as the id and drop it.
ID_TAG = "mlplatform.id"
#: Stand-ins for experiments' ids. Those of MLflow's databases are 32 bits wide
#: (store/tracking/dbmodels/models.py, Integer), those of its file store have 18 digits.
_PLACEHOLDERS = range(1 << 33, (1 << 33) + (1 << 40))
_ANY_ID = re.compile(rb"\b(?:m-)?[0-9a-f]{32}\b")


def new_run() -> str:
    """An id for a run, in the form that MLflow's SQL store gives (uuid4().hex)."""
    return uuid.uuid4().hex


def new_model() -> str:
    """An id for a logged model, in the form that MLflow's SQL store gives."""
    return f"m-{uuid.uuid4().hex}"


def placeholder(experiment: str) -> str:
    """An id for an experiment of which only the name is known; the same in every process."""
    digest = hashlib.sha256(experiment.encode()).digest()
    return str(_PLACEHOLDERS[0] + int.from_bytes(digest[:5], "big"))


def is_placeholder(experiment_id: str) -> bool:
    return experiment_id.isdecimal() and int(experiment_id) in _PLACEHOLDERS


class Ids:
    """The map of one spool. The shipper writes it; others `refresh` it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._real: dict[str, str] = {}
        self._tried: set[str] = set()
        self._read = 0
        self.refresh()

    def refresh(self) -> None:
        """Read what was added since."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                added = file.read()
        except OSError:
            return
        whole = added.rpartition(b"\n")[0]
        for text in whole.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue  # half of a line, by a shipper that was killed
            if "real" in line:
                self._real[line["id"]] = line["real"]
            else:
                self._tried.add(line["id"])
        self._read += len(whole) + 1 if whole else 0

    def real(self, local: str) -> str:
        """The server's id; the same where it took ours."""
        return self._real.get(local, local)

    def knows(self, local: str) -> bool:
        return local in self._real

    def trying(self, local: str) -> bool:
        """Note down, before it is sent, that a create is. Whether it is the first time for sure: False after
        one that may have reached the server without our seeing the answer, and where there is no room for
        the note."""
        if local in self._tried:
            return False
        try:
            append_line(self._path, {"id": local})
        except OSError:
            # A full disk must not stop the delivery that makes room on it.
            return False
        self._tried.add(local)
        return True

    def map(self, local: str, real: str) -> None:
        append_line(self._path, {"id": local, "real": real})
        self._real[local] = real

    def rewrite(self, content: bytes) -> bytes:
        """A text file with our ids replaced by the server's."""
        return _ANY_ID.sub(lambda m: self.real(m[0].decode()).encode(), content)
