"""A spool: the folder in which one login's records for one server wait until they are delivered.

::

    <base>/<16 hex digits of server and user>/      0700
      spool.json          the server's URI                              0600: it may hold a password
      <...>.segment       records, see `segments`
      blobs/<id>/<name>   copies of artifacts
      runs/<run id>.json  what other processes of this machine must know of a run that has not ended
      cursor.json         how far each segment is delivered             (written by the shipper only)
      ids.jsonl           ids that the server gave in place of ours     (written by the shipper only)
      quarantine.jsonl    records that the server refuses               (written by the shipper only)
      quarantine.retried.jsonl  those that a retry is about to put back into the spool
      events.jsonl        every record as a line, as it is read         (written by the shipper only)
      acknowledged.json   how much of what was refused or damaged a user has taken note of
      experiments.json    experiments by name, for when the server is away
      shipper.lock        held by the one shipper; shipper.log is its log
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from operator import index
from pathlib import Path
from typing import Any

from mlflow_platform.client.segments import (
    HEADER_BYTES,
    Position,
    Writer,
    folder_bytes,
    is_written,
    refused_of,
    segments,
)
from mlflow_platform.errors import BadInput

#: The folder above all spools. It must be on a volume that outlives the program.
VARIABLE = "MLPLATFORM_SPOOL"
#: Most bytes of one spool.
LIMIT_VARIABLE = "MLPLATFORM_SPOOL_LIMIT"
DEFAULT_LIMIT = 4 << 30

Record = dict[str, Any]
"""One call as JSON values: `op` names it, the rest are its arguments; see `delivery`."""


def base_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where spools are: $MLPLATFORM_SPOOL, else `mlplatform/spool` in the XDG state folder."""
    if chosen := environment.get(VARIABLE):
        return Path(chosen).absolute()
    state = environment.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()
    return Path(state) / "mlplatform" / "spool"


def limit(environment: Mapping[str, str] = os.environ) -> int:
    """$MLPLATFORM_SPOOL_LIMIT in bytes, default 4 GiB. Raises `BadInput` where it is no number above 0."""
    text = environment.get(LIMIT_VARIABLE, "")
    if text and not (text.isdecimal() and int(text)):
        raise BadInput(f"{LIMIT_VARIABLE}={text!r} is not a number of bytes", remedy="for 1 GiB: 1073741824")
    return int(text or DEFAULT_LIMIT)


def encode(record: Record) -> bytes:
    """A record as it stands in a segment. Whole numbers of other types, as a step of NumPy's is, are numbers,
    as for MLflow's client. What else JSON cannot hold becomes its `repr`: the server refuses it, and in
    quarantine it can be seen."""
    return _encode(record).encode()


def _plain(value: Any) -> int | str:
    try:
        return index(value)
    except TypeError:
        return repr(value)


_encode = json.JSONEncoder(
    ensure_ascii=True, separators=(",", ":"), check_circular=False, default=_plain
).encode


@dataclass
class Cursor:
    """How far a spool is delivered.

    `offsets`: segment -> byte offset up to which everything is. `done`: segment -> ranges of sequence
    numbers after it that are as well. `told`: segment -> sequence number up to which the events file has its
    records. `lost`: bytes of segments that were damaged. `refused`: records that a full spool refused, of
    segments that are gone. `problem`: why nothing gets through at present, empty while something does.
    """

    offsets: dict[str, int] = field(default_factory=dict)
    done: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    told: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    refused: int = 0
    delivered: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Spool:
    """One spool folder."""

    root: Path

    @classmethod
    def of(cls, uri: str, environment: Mapping[str, str] = os.environ) -> Spool:
        """The spool for a server and the login in the environment; made if need be. Where it cannot be made,
        writers refuse what they are given, and say why."""
        user = environment.get("MLFLOW_TRACKING_USERNAME", "")
        spool = cls(base_folder(environment) / hashlib.sha256(f"{uri}\0{user}".encode()).hexdigest()[:16])
        with contextlib.suppress(OSError):
            for folder in (spool.root, spool.blobs, spool.runs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(OSError):
            spool.describe(uri, user)
        return spool

    def describe(self, uri: str, user: str) -> None:
        """See to it that the folder says whose spool it is. Raises OSError."""
        if next(read_lines(self.description), {}).get("uri") != uri:
            replace(self.description, json.dumps({"uri": uri, "user": user}))

    @property
    def description(self) -> Path:
        return self.root / "spool.json"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def ids(self) -> Path:
        return self.root / "ids.jsonl"

    @property
    def quarantine(self) -> Path:
        return self.root / "quarantine.jsonl"

    @property
    def retried(self) -> Path:
        """What a retry has taken out of the quarantine and not put back into the spool yet."""
        return self.root / "quarantine.retried.jsonl"

    @property
    def acknowledged(self) -> Path:
        return self.root / "acknowledged.json"

    @property
    def events(self) -> Path:
        return self.root / "events.jsonl"

    @property
    def experiments(self) -> Path:
        return self.root / "experiments.json"

    @property
    def lock(self) -> Path:
        return self.root / "shipper.lock"

    @property
    def log(self) -> Path:
        return self.root / "shipper.log"

    @property
    def _cursor(self) -> Path:
        return self.root / "cursor.json"

    @property
    def uri(self) -> str:
        """The server's URI, with any password in it. Raises `BadInput` if this is no spool."""
        try:
            return str(json.loads(self.description.read_text(encoding="utf-8"))["uri"])
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(
                f"{self.root} is not a spool ({type(error).__name__})",
                remedy=f"name one of the folders below {base_folder()}",
            ) from error

    @property
    def user(self) -> str:
        """The login's name; empty where there was none."""
        return str(next(read_lines(self.description), {}).get("user", ""))

    def writer(self) -> Writer:
        return Writer(self.root, limit=limit())

    def cursor(self) -> Cursor:
        """What the shipper wrote last; a fresh one before it wrote anything or if that is unreadable: what
        was delivered is then delivered again, which has no effect."""
        try:
            values = json.loads(self._cursor.read_text(encoding="utf-8"))
            return Cursor(
                **{**values, "done": {k: [(a, b) for a, b in v] for k, v in values["done"].items()}}
            )
        except (OSError, ValueError, KeyError, TypeError):
            return Cursor()

    def save(self, cursor: Cursor) -> None:
        """Replace the cursor. Not forced to the disk: after a power cut records are delivered again."""
        replace(self._cursor, json.dumps(vars(cursor)))

    def is_delivered(self, position: Position, cursor: Cursor) -> bool:
        """Whether everything up to a position has left this machine (or is in quarantine)."""
        if cursor.offsets.get(position.segment, 0) >= position.offset:
            return True
        # Segments are deleted once delivered; the cursor forgets them then.
        return position.segment not in cursor.offsets and not (self.root / position.segment).exists()

    def waiting(self, cursor: Cursor) -> int:
        """Bytes of segments that are not delivered yet, artifacts not counted."""
        total = 0
        for path in segments(self.root):
            with contextlib.suppress(FileNotFoundError):
                total += max(0, path.stat().st_size - max(HEADER_BYTES, cursor.offsets.get(path.name, 0)))
        return total

    def refused(self, cursor: Cursor) -> int:
        """Records that were refused as the spool was full, of all segments there ever were."""
        total = cursor.refused
        for path in segments(self.root):
            with contextlib.suppress(FileNotFoundError):
                total += refused_of(path)
        return total

    def bytes(self) -> int:
        """Bytes of the whole folder."""
        return folder_bytes(self.root)

    def quarantined(self) -> list[dict[str, Any]]:
        """Refused records, oldest first: `error`, `record`, `time` in seconds since 1970."""
        return [*read_lines(self.retried), *read_lines(self.quarantine)]

    def writers(self) -> int:
        """Living processes that write here."""
        return sum(is_written(path) for path in segments(self.root))


def spools(base: Path) -> list[Spool]:
    """Every spool below a base folder, or the one that `base` is."""
    if (base / "spool.json").exists():
        return [Spool(base)]
    return [Spool(path.parent) for path in sorted(base.glob("*/spool.json"))]


def replace(path: Path, text: str) -> None:
    """Replace a file at once, with mode 0600."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(3)}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def append_line(path: Path, value: object) -> None:
    """Add a line of JSON to a file of mode 0600, whole or not at all. Raises OSError; on a full disk too,
    which takes the first part of a line and says nothing."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        line = json.dumps(value).encode() + b"\n"
        if end and os.pread(descriptor, 1, end - 1) != b"\n":
            line = b"\n" + line  # after half of a line, by a process that was killed
        if os.write(descriptor, line) != len(line):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a JSONL file; what a kill left half written is left out."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)
    except FileNotFoundError:
        return


@contextlib.contextmanager
def elected(spool: Spool) -> Iterator[bool]:
    """Try to become the spool's shipper: whether this process is it, until the block ends."""
    fd = os.open(spool.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def has_shipper(spool: Spool) -> bool:
    """Whether a shipper is at work."""
    with elected(spool) as free:
        return not free
