"""Diagnosis: a list of checks, each of which names the fault and what to do about it.

Two sets share one form: `check_server` sees any tracking server from outside; `check_stack` looks into
the local stack as well. A check whose ground is missing (no login without a server) is left out and
says so, so that one fault is one line.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mlflow_platform.errors import BadInput
from mlflow_platform.local import credentials, schema
from mlflow_platform.local.postgres import Postgres
from mlflow_platform.local.seaweedfs import BUCKET, SeaweedFS
from mlflow_platform.local.stack import Stack

if TYPE_CHECKING:
    import urllib3

Outcome = Literal["ok", "fault", "skipped"]

#: Seconds by which clocks may differ. S3 refuses signatures that are 15 minutes off
#: (RequestTimeTooSkewed); tokens and the order of runs suffer long before.
MAX_SKEW = 30.0
#: Least free disk: bytes, and share. SeaweedFS takes no more writes below 1 %
#: (`weed help volume`, minFreeSpacePercent); Postgres stops when there is nothing left.
MIN_FREE_BYTES = 1 << 30
MIN_FREE_SHARE = 0.03


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: `found` says what is so, `remedy` what to do about a fault."""

    name: str
    outcome: Outcome
    found: str
    remedy: str = ""


def check_server(
    uri: str, username: str | None, password: str | None, *, login_remedy: str = ""
) -> Iterator[Check]:
    """What can be seen of any tracking server from outside; reads only."""
    import urllib3

    if not uri.startswith(("http://", "https://")):
        raise BadInput(
            f"{uri!r} is not the address of a server", remedy="give one such as https://mlflow.example"
        )
    uri = uri.rstrip("/")
    http = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=5.0, read=15.0), retries=False, **_certificates(os.environ)
    )
    login = urllib3.make_headers(basic_auth=f"{username}:{password}") if username else {}
    try:
        asked = time.time()
        answer = http.request("GET", f"{uri}/health")
        took = time.time() - asked
    except urllib3.exceptions.HTTPError as error:
        yield Check("server", "fault", _unreachable(uri, error), "start the server, or correct the address")
        yield from _skipped("no server", "login", "store", "artifacts", "clock", "versions")
        return
    if answer.status != 200 or answer.data.strip() != b"OK":
        yield Check(
            "server",
            "fault",
            f"{uri}/health answers {answer.status}, not MLflow's OK",
            "check the address, its path prefix, and the proxy in front of the server",
        )
        yield from _skipped("no MLflow server", "login", "store", "artifacts", "clock", "versions")
        return
    yield Check("server", "ok", f"{uri} answers in {took * 1000:.0f} ms")
    version = http.request("GET", f"{uri}/version", headers=login)
    if version.status in (401, 403):
        who = f"user {username!r}" if username else "a client without login"
        yield Check(
            "login",
            "fault",
            f"the server refuses {who} ({version.status})",
            login_remedy or "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to a valid login",
        )
        yield from _skipped("no login", "store", "artifacts", "versions")
    else:
        yield Check("login", "ok", f"user {username!r} is accepted" if username else "no login needed")
        yield _store(http, uri, login)
        yield _artifacts(http, uri, login)
        yield _versions(version.data.decode(errors="replace").strip())
    yield _clock("clock", "the server", answer.headers.get("Date"), asked)


def check_stack(stack: Stack, environment: Mapping[str, str]) -> Iterator[Check]:
    """Everything about the local stack. Writes and deletes one small object of its own in the bucket."""
    settings = stack.settings()
    keys = credentials.load(stack.folder)
    status = stack.status()
    down = [p for p in status.processes if not p.healthy]
    if down:
        reasons = "; ".join(f"{p.name}: {p.problem}" for p in down if p.problem)
        yield Check(
            "processes",
            "fault",
            f"not running: {', '.join(p.name for p in down)}" + (f" ({reasons})" if reasons else ""),
            f"run `mlplatform up`; if it fails again, look into the logs in {stack.folder.logs}",
        )
    else:
        yield Check("processes", "ok", f"{len(status.processes)} processes run")
    yield from check_server(
        stack.endpoints().tracking_uri,
        keys.admin_username,
        keys.admin_password,
        login_remedy=(
            "the administrator's password was changed: "
            f"write the present one into {stack.folder.credentials} as admin_password"
        ),
    )
    yield from _databases(Postgres(stack.folder, settings, keys))
    yield from _bucket(SeaweedFS(stack.folder, settings, keys))
    yield _disk(stack.folder.root)
    yield _permissions(stack)
    yield _environment(stack, environment)


def _store(http: urllib3.PoolManager, uri: str, login: Mapping[str, str]) -> Check:
    """Whether the server itself reaches its database: the cheapest read that needs it."""
    import urllib3

    try:
        answer = http.request(
            "GET", f"{uri}/api/2.0/mlflow/experiments/search?max_results=1", headers=dict(login)
        )
    except urllib3.exceptions.HTTPError as error:
        return Check("store", "fault", f"the server does not answer a read: {_words(error)}", _STORE_REMEDY)
    if answer.status != 200:
        return Check(
            "store", "fault", f"the server cannot read its database ({answer.status})", _STORE_REMEDY
        )
    return Check("store", "ok", "the server reads its database")


_STORE_REMEDY = "check that the server's database runs and accepts its login; look into the server's log"


def _artifacts(http: urllib3.PoolManager, uri: str, login: Mapping[str, str]) -> Check:
    """Whether the server itself reaches its artifact store, if it proxies artifacts."""
    import urllib3

    remedy = "check the server's artifact store and the keys it uses; look into the server's log"
    try:
        answer = http.request(
            "GET",
            f"{uri}/api/2.0/mlflow-artifacts/artifacts?path=mlplatform-doctor",
            headers=dict(login),
        )
    except urllib3.exceptions.HTTPError as error:
        return Check("artifacts", "fault", f"listing artifacts fails: {_words(error)}", remedy)
    if answer.status in (400, 403, 404, 405, 501, 503):
        return Check("artifacts", "skipped", f"the server does not list artifacts here ({answer.status})")
    if answer.status != 200:
        return Check("artifacts", "fault", f"the server cannot list its artifacts ({answer.status})", remedy)
    return Check("artifacts", "ok", "the server reads its artifact store")


def _versions(server: str) -> Check:
    ours = importlib.metadata.version("mlflow") if _installed("mlflow") else ""
    if ours and ours.split(".")[:2] != server.split(".")[:2]:
        return Check(
            "versions",
            "fault",
            f"the server is MLflow {server}, this machine has {ours}",
            f"install the server's version here: pip install 'mlflow=={server}'",
        )
    return Check("versions", "ok", f"MLflow {server}")


def _clock(name: str, other: str, date: str | None, local: float) -> Check:
    """`date` as in an HTTP header, in whole seconds; `local` in seconds since 1970."""
    if not date:
        return Check(name, "skipped", f"{other} tells no time")
    skew = email.utils.parsedate_to_datetime(date).timestamp() - local
    if abs(skew) > MAX_SKEW:
        return Check(
            name,
            "fault",
            f"the clock of {other} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            "let both synchronise their clocks (NTP)",
        )
    return Check(name, "ok", f"the clock of {other} agrees")


def _databases(postgres: Postgres) -> Iterator[Check]:
    import psycopg

    for database in schema.MIGRATIONS:
        try:
            with postgres.connect(database) as connection:
                row = connection.execute("SHOW server_encoding").fetchone()
                encoding = str(row[0]) if row else "unknown"
                revision = schema.current(connection, database)
        except psycopg.OperationalError as error:
            yield Check(
                f"database {database}",
                "fault",
                f"no connection: {_words(error)}",
                f"put back the credentials.json that belongs to {postgres.folder.root}"
                if "password authentication failed" in str(error)
                else f"run `mlplatform up`; if it fails again, look into {postgres.folder.log('postgres')}",
            )
            yield from _skipped("no connection", f"encoding {database}", f"schema {database}")
            continue
        yield Check(f"database {database}", "ok", "accepts the server's login")
        yield _encoding(database, encoding)
        yield _revision(database, revision, schema.head(database))


def _encoding(database: str, encoding: str) -> Check:
    name = f"encoding {database}"
    if encoding == "UTF8":
        return Check(name, "ok", encoding)
    return Check(
        name,
        "fault",
        f"the database has the encoding {encoding}, which cannot hold every name",
        "dump it, create it again with ENCODING 'UTF8' TEMPLATE template0, and restore it",
    )


def _revision(database: str, revision: str | None, head: str) -> Check:
    name = f"schema {database}"
    if revision == head:
        return Check(name, "ok", f"at {head}, MLflow's head")
    return Check(
        name,
        "fault",
        f"at {revision or 'nothing'}, MLflow needs {head}",
        "run `mlplatform down`, then `up`, which migrates",
    )


def _bucket(s3: SeaweedFS) -> Iterator[Check]:
    from botocore.exceptions import BotoCoreError, ClientError

    key, body = f"mlplatform-doctor/{secrets.token_hex(8)}", secrets.token_bytes(64)
    client = s3.client()
    step = "find"
    try:
        client.head_bucket(Bucket=BUCKET)  # a write would create the bucket, empty
        step = "write"
        client.put_object(Bucket=BUCKET, Key=key, Body=body)
        step = "read"
        same = client.get_object(Bucket=BUCKET, Key=key)["Body"].read() == body
        step = "delete"
        client.delete_object(Bucket=BUCKET, Key=key)
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        remedy = {
            "404": "run `mlplatform down`, then `up`, which creates it; its objects are gone",
            "403": f"put back the credentials.json that belongs to {s3.folder.root}",
            "InvalidAccessKeyId": f"put back the credentials.json that belongs to {s3.folder.root}",
            "SignatureDoesNotMatch": f"put back the credentials.json that belongs to {s3.folder.root}",
        }.get(code, f"look into {s3.folder.log('s3')}")
        what = f"there is no bucket {BUCKET!r}" if code == "404" else f"cannot {step} in {BUCKET!r}: {code}"
        yield Check("bucket", "fault", what, remedy)
    except BotoCoreError as error:
        remedy = f"run `mlplatform up`; if it fails again, look into {s3.folder.log('s3')}"
        yield Check("bucket", "fault", f"cannot {step} an object: {_words(error)}", remedy)
    else:
        yield (
            Check("bucket", "ok", f"an object was written to {BUCKET!r}, read and deleted")
            if same
            else Check("bucket", "fault", "an object comes back changed", "check the disk's health")
        )
    finally:
        client.close()


def _disk(folder: Path, usage: Callable[[Path], tuple[int, int, int]] = shutil.disk_usage) -> Check:
    total, _, free = usage(folder)
    text = f"{free / (1 << 30):.1f} GiB of {total / (1 << 30):.0f} GiB free"
    if free < max(MIN_FREE_BYTES, MIN_FREE_SHARE * total):
        return Check("disk", "fault", text, f"free space on the disk of {folder}")
    return Check("disk", "ok", text)


def _permissions(stack: Stack) -> Check:
    """Whether other users of the machine could read the passwords."""
    folder = stack.folder
    private = [folder.root, folder.credentials, *(p for p in folder.secrets.rglob("*") if p.is_file())]
    if open_to_others := [str(p) for p in private if p.stat().st_mode & 0o077]:
        return Check(
            "permissions",
            "fault",
            f"others can open {', '.join(open_to_others)}",
            f"run: chmod -R go= {folder.root}",
        )
    return Check("permissions", "ok", "the passwords are readable by their owner only")


def _environment(stack: Stack, environment: Mapping[str, str]) -> Check:
    """Whether an MLflow client started from this shell would reach the stack and be let in."""
    wanted = stack.endpoints().environment()
    if environment.get("MLFLOW_TRACKING_URI") != wanted["MLFLOW_TRACKING_URI"]:
        return Check("environment", "skipped", "this shell does not point to the stack")
    if wrong := [name for name, value in wanted.items() if environment.get(name) != value]:
        return Check(
            "environment",
            "fault",
            f"this shell points to the stack, but {' and '.join(wrong)} differ from its login",
            'run: eval "$(mlplatform env)"',
        )
    return Check("environment", "ok", "clients of this shell reach the stack")


def healthy(checks: list[Check]) -> bool:
    """Whether no check found a fault."""
    return all(c.outcome != "fault" for c in checks)


def _skipped(why: str, *names: str) -> Iterator[Check]:
    for name in names:
        yield Check(name, "skipped", f"not looked at: {why}")


def _certificates(environment: Mapping[str, str]) -> dict[str, Any]:
    """MLflow's own variables for private certificate authorities and servers without valid ones."""
    if environment.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("1", "true"):
        return {"cert_reqs": "CERT_NONE"}
    path = environment.get("MLFLOW_TRACKING_SERVER_CERT_PATH") or environment.get("REQUESTS_CA_BUNDLE")
    return {"ca_certs": path} if path else {}


def _unreachable(uri: str, error: Exception) -> str:
    text = _words(error)
    for sign, words in (
        ("Name or service not known", "its name is unknown"),
        ("Temporary failure in name resolution", "its name cannot be looked up"),
        ("Connection refused", "nothing listens there"),
        ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
        ("timed out", "it does not answer in time"),
    ):
        if sign in text:
            return f"{uri}: {words}"
    return f"{uri}: {text}"


def _words(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


__all__ = ["Check", "check_server", "check_stack", "healthy"]
