"""Every password and key of a stack: generated once, kept in one file of mode 0600."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from mlflow_platform.errors import Fatal
from mlflow_platform.local.folder import Folder, write_private


def _password() -> str:
    # Letters and digits only: safe in a URI, an ini file and a shell. 24 bytes of randomness;
    # MLflow's bootstrap asks for at least 12 characters.
    return secrets.token_hex(24)


def _fernet_key() -> str:
    # 32 bytes in URL-safe base64, as `cryptography.fernet.Fernet` takes it; MLflow encrypts the
    # webhooks' secrets with it (MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY).
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """The values; never printed: `repr` is left out on purpose."""

    admin_password: str = field(default_factory=_password)
    postgres_password: str = field(default_factory=_password)
    database_password: str = field(default_factory=_password)
    s3_access_key: str = field(default_factory=lambda: secrets.token_hex(10))
    s3_secret_key: str = field(default_factory=_password)
    flask_secret_key: str = field(default_factory=_password)
    kek_passphrase: str = field(default_factory=_password)
    webhook_key: str = field(default_factory=_fernet_key)
    admin_username: str = "admin"

    def __repr__(self) -> str:
        return "Credentials(...)"


def load(folder: Folder) -> Credentials:
    """The stack's credentials. Raises `Fatal` if the file is missing or damaged."""
    try:
        values = json.loads(folder.credentials.read_text(encoding="utf-8"))
        return Credentials(**{f.name: str(values[f.name]) for f in fields(Credentials)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Fatal(
            f"{folder.credentials} is missing or damaged ({type(error).__name__})",
            remedy="put back a copy of it, or run `mlplatform reset`, which deletes the stack's data",
        ) from None


def ensure(folder: Folder, *, has_data: bool) -> Credentials:
    """Load the credentials, or generate them for a new stack. They are never generated beside existing
    data: its passwords would be other ones."""
    if folder.credentials.exists() or has_data:
        return load(folder)
    made = Credentials()
    write_private(folder.credentials, json.dumps(asdict(made), indent=2) + "\n")
    return made


def ensure_values(directory: Path, references: Iterable[tuple[str, str]]) -> list[Path]:
    """Give every (name, key) without a file `directory/<name>/<key>` a random value, mode 0600.

    Returns the files written; existing ones stay as they are. The caller holds `Folder.documents_lock`.
    """
    written = []
    for name, key in sorted(set(references)):
        path = directory / name / key
        if not path.exists():
            write_private(path, _password())
            written.append(path)
    return written
