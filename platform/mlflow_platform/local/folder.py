"""The one folder that holds a stack: where things are in it, and how they are written.

::

    .mlplatform/            0700
      stack.json            settings that stay: id, ports, options        (written by `up`)
      state.json            what runs now: pids, phase                    (written by the supervisor)
      credentials.json      every generated password and key              0600
      postgres/  s3/  mlflow/                                             the servers' own data
      secrets/<name>/<key>  values of the documents' SecretRefs           0600
      logs/<process>.log    bounded, one older file `.1`
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.errors import BadInput, Fatal

DIRECTORY_NAME = ".mlplatform"
VARIABLE = "MLPLATFORM_DATA"


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths inside a stack's data folder."""

    root: Path

    @property
    def settings(self) -> Path:
        return self.root / "stack.json"

    @property
    def state(self) -> Path:
        return self.root / "state.json"

    @property
    def credentials(self) -> Path:
        return self.root / "credentials.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        """Held by a command that changes the stack."""
        return self.root / "lock"

    @property
    def documents_lock(self) -> Path:
        """Held while a command applies documents to the stack and makes up their secrets."""
        return self.root / "documents.lock"

    @property
    def supervisor_lock(self) -> Path:
        """Held by the supervisor for its whole life."""
        return self.root / "supervisor.lock"

    def log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def create(self) -> None:
        """Make the folder with mode 0700; an existing one is closed to others.

        Raises `BadInput` when it cannot be written or belongs to something else.
        """
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            # What a first `up` makes before it has written the settings is no stranger's.
            early = {self.lock.name, self.logs.name}
            strange = {e.name for e in self.root.iterdir() if not e.name.startswith(".stack.json.")} - early
            if strange and not self.settings.exists():
                raise BadInput(
                    f"{self.root} is not empty and holds no stack",
                    remedy=f"choose another folder with --data or {VARIABLE}",
                )
            self.root.chmod(0o700)
            self.logs.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise BadInput(
                f"cannot use {self.root}: {error.strerror}",
                remedy=f"choose a folder you own with --data or {VARIABLE}",
            ) from error


def find(
    explicit: Path | None = None,
    *,
    environment: Mapping[str, str] = os.environ,
    start: Path | None = None,
) -> Path:
    """The data folder: `explicit`, else $MLPLATFORM_DATA, else the nearest `.mlplatform` from `start`
    (default: the working directory) upwards, else `.mlplatform` there. It need not exist yet.
    """
    if explicit is not None:
        return explicit.absolute()
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE]).absolute()
    here = (start or Path.cwd()).absolute()
    for directory in (here, *here.parents):
        if (directory / DIRECTORY_NAME / "stack.json").exists():
            return directory / DIRECTORY_NAME
    return here / DIRECTORY_NAME


def write_private(path: Path, text: str) -> None:
    """Replace a file at once, with mode 0600, on the disk before it returns."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = 0.0, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel drops it when the process ends, however it ends.

    `timeout` in seconds; `waiting` is called once if another process holds it. Raises `Fatal` after it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        deadline = time.monotonic() + timeout
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Fatal(
                        f"another mlplatform command holds {path}",
                        remedy="wait for it to end, then try again",
                    ) from None
                if not told:
                    waiting()
                    told = True
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)
