"""MLflow's own keys: without them the secrets in a database are lost, whatever else was saved.

A backup holds no key, only fingerprints of them, and one encrypted secret of each kind, so that a restore
can try the target's keys before it writes anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.backup.manifest import Manifest, Sample
from mlflow_platform.errors import BadInput

if TYPE_CHECKING:
    import psycopg

#: What opens which kind of sample, by the variable that a server reads it from.
VARIABLES = {"gateway": "MLFLOW_CRYPTO_KEK_PASSPHRASE", "webhook": "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"}


@dataclass(frozen=True, slots=True)
class ServerKeys:
    """A server's keys; empty where unknown. `repr` shows none."""

    kek_passphrase: str = field(default="", repr=False)
    webhook_key: str = field(default="", repr=False)


def fingerprints(keys: ServerKeys) -> dict[str, str]:
    """Kind -> what tells one key from another and gives none away: a passphrase is stretched first."""
    found = {}
    if keys.kek_passphrase:
        found["gateway"] = _fingerprint(_kek(keys.kek_passphrase, 1))
    if keys.webhook_key:
        found["webhook"] = _fingerprint(keys.webhook_key.encode())
    return found


def samples(connection: psycopg.Connection[Any]) -> Iterator[Sample]:
    """One encrypted secret of each kind that the database holds."""
    there = "select to_regclass(%s) is not null"
    if connection.execute(there, ("secrets",)).fetchone() == (True,):
        for wrapped, version in connection.execute("select wrapped_dek, kek_version from secrets limit 1"):
            yield Sample("gateway", base64.b64encode(wrapped).decode(), version)
    if connection.execute(there, ("webhooks",)).fetchone() == (True,):
        for (secret,) in connection.execute("select secret from webhooks where secret is not null limit 1"):
            yield Sample("webhook", base64.b64encode(secret.encode()).decode())


def refuse_unfit(manifest: Manifest, keys: ServerKeys) -> None:
    """`BadInput` where the target's keys open not what the source's server has encrypted."""
    mine = fingerprints(keys)
    for sample in manifest.samples:
        if _opens(sample, keys):
            continue
        known = manifest.keys.get(sample.kind)
        told = f" (the source's has the fingerprint {known}, this one {mine.get(sample.kind, 'none')})"
        raise BadInput(
            f"{VARIABLES[sample.kind]} of the target does not open the {sample.kind} secrets in the backup"
            + (told if known else ""),
            remedy="give the target the source's key; if that is lost for good: --drop-secrets",
        )


def _opens(sample: Sample, keys: ServerKeys) -> bool:
    from cryptography.exceptions import InvalidTag
    from cryptography.fernet import Fernet, InvalidToken
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    value = base64.b64decode(sample.value)
    try:
        if sample.kind == "webhook":
            Fernet(keys.webhook_key.encode()).decrypt(value)
        else:
            # mlflow/utils/crypto.py, `unwrap_dek`: a nonce of 12 bytes, then text and tag.
            AESGCM(_kek(keys.kek_passphrase, sample.version)).decrypt(value[:12], value[12:], None)
    except (InvalidTag, InvalidToken, ValueError):
        return False
    return True


def _kek(passphrase: str, version: int) -> bytes:
    """mlflow/utils/crypto.py, `_derive_kek`; without importing MLflow, and without its default passphrase."""
    salt = b"mlflow-secrets-kek-v1-2025" + version.to_bytes(4, "big")
    return hashlib.pbkdf2_hmac("sha256", passphrase.encode(), salt, 600_000)


def _fingerprint(key: bytes) -> str:
    return hashlib.sha256(b"mlplatform fingerprint" + key).hexdigest()[:16]


def drop(connection: psycopg.Connection[Any], kinds: Sequence[str]) -> None:
    """Forget secrets that nobody can open any more: a webhook whose secret cannot be read breaks them all."""
    if "gateway" in kinds:
        connection.execute("delete from secrets")
    if "webhook" in kinds:
        connection.execute("update webhooks set secret = null, status = 'DISABLED' where secret is not null")
