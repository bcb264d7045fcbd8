"""What a rotation's Jobs do, on a real Postgres and a real SeaweedFS as the chart starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from psycopg import sql

from mlflow_platform.chart import Release, find_chart
from mlflow_platform.errors import BadInput, Fatal, Rejected, Transient
from mlflow_platform.local import Stack
from mlflow_platform.local.credentials import load
from mlflow_platform.local.ports import choose
from mlflow_platform.local.postgres import Postgres
from mlflow_platform.server import auth, database, roles, store_keys

DATABASE, OWNER, ADMINISTRATOR = "rotated", "rotated_first", "rotated_administrator"
PASSWORDS = {name: f"{name}-password-0" for name in (OWNER, ADMINISTRATOR)}

Login = Callable[[str, str], None]


@pytest.fixture
def login(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Login]:
    """Whom libpq's variables name; at first the owner of an installation's tables, who may alter roles."""
    postgres = Postgres(stack.folder, stack.settings(), load(stack.folder))
    owner, administrator = sql.Identifier(OWNER), sql.Identifier(ADMINISTRATOR)

    def use(user: str, password: str) -> None:
        monkeypatch.setenv("PGUSER", user)
        monkeypatch.setenv("PGPASSWORD", password)

    with postgres.connect("postgres", superuser=True) as connection:
        connection.autocommit = True
        for name, rights in ((owner, ""), (administrator, "superuser")):
            text = sql.SQL("create role {} login password {} ").format(
                name, PASSWORDS[name.as_string()[1:-1]]
            )
            connection.execute(text + sql.SQL(rights))
        connection.execute(sql.SQL("create database {} owner {}").format(sql.Identifier(DATABASE), owner))
        # A server that logs every statement must not come to know a password.
        connection.execute(sql.SQL("alter role {} set log_statement = 'all'").format(administrator))
    monkeypatch.setenv("PGHOST", "127.0.0.1")
    monkeypatch.setenv("PGPORT", str(stack.settings().ports["postgres"]))
    monkeypatch.setenv("PGDATABASE", DATABASE)
    use(OWNER, PASSWORDS[OWNER])
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values ('1')")
    yield use
    with postgres.connect("postgres", superuser=True) as connection:
        connection.autocommit = True
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(DATABASE)))
        for user in (f"{DATABASE}_a", f"{DATABASE}_b", OWNER, ADMINISTRATOR):
            connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(user)))


def test_roles_take_turns_and_act_as_the_owner(
    login: Login, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roles, "SESSIONS_PATIENCE", 0.2)
    previous, password = OWNER, PASSWORDS[OWNER]
    for turn in range(1, 4):
        user, following = f"{DATABASE}_{'ab'[turn % 2]}", f"password-of-turn-{turn}"
        login(ADMINISTRATOR, PASSWORDS[ADMINISTRATOR])
        for _ in range(2):  # a step that was killed is done again
            roles.prepare(user, following)
        with psycopg.connect(user=previous, password=password, autocommit=True) as old:
            login(user, following)
            with psycopg.connect(autocommit=True) as new:  # both at once, while servers are replaced
                new.execute("begin")
                new.execute(f"create table of_turn_{turn} (a int)")
                new.execute(f"alter table alembic_version add column turn_{turn} int")
                new.execute("commit")
                new.execute(f"create index concurrently index_of_turn_{turn} on of_turn_{turn} (a)")
                assert new.execute("select count(*) from alembic_version").fetchone() == (1,)
            old.execute(f"insert into of_turn_{turn} values (1)")
            login(ADMINISTRATOR, PASSWORDS[ADMINISTRATOR])
            for _ in range(2):
                roles.retire(previous)
            with pytest.raises(psycopg.OperationalError):
                old.execute("select 1")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(user=previous, password=password)
        previous, password = user, following
    with psycopg.connect() as connection:
        owners = connection.execute(
            "select distinct pg_get_userbyid(relowner) from pg_class "
            "where relnamespace = 'public'::regnamespace"
        ).fetchall()
    assert owners == [(OWNER,)]
    log = "".join(p.read_text(errors="replace") for p in (stack.folder.root / "logs").glob("postgres*"))
    assert "SCRAM-SHA-256$" in log  # the statements are in it
    assert "password-of-turn" not in log


def test_a_login_without_the_right_is_told_what_to_bring(login: Login) -> None:
    with pytest.raises(Rejected, match="may not change role rotated_a") as refused:
        roles.prepare("rotated_a", "anything")
    assert "--administrator-secret" in str(refused.value)
    with pytest.raises(BadInput, match="the one that this login uses"):
        roles.retire(OWNER)
    login(ADMINISTRATOR, PASSWORDS[ADMINISTRATOR])
    with psycopg.connect(autocommit=True) as connection:
        connection.execute("drop table alembic_version")
    with pytest.raises(Fatal, match="no tables of MLflow"):
        roles.prepare("rotated_a", "anything")


def test_a_role_is_not_retired_under_a_backup(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    key = database.LOCK
    with psycopg.connect(autocommit=True) as backup:
        backup.execute("select pg_advisory_lock(%s)", (key,))
        login(ADMINISTRATOR, PASSWORDS[ADMINISTRATOR])
        with pytest.raises(Transient, match="a backup, a retention run or another migration holds the lock"):
            roles.retire(OWNER, patience=1)
        assert backup.execute("select 1").fetchone() == (1,)
    with psycopg.connect(user=OWNER, password=PASSWORDS[OWNER]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """SeaweedFS by the chart's own commands, on free ports; its environment, as servers have it."""
    chart = find_chart()
    manifests = chart.render(chart.values(), Release())
    (found,) = (m.object for m in manifests if m.kind == "StatefulSet" and m.name == "mlflow-store")
    (container,) = found["spec"]["template"]["spec"]["containers"]
    start, hook = container["args"][0], container["lifecycle"]["postStart"]["exec"]["command"]
    chosen = choose({})
    ports = {
        n: chosen[f"s3-{n}"]
        for n in ("master", "master-grpc", "volume", "volume-grpc", "filer", "filer-grpc", "grpc")
    }
    flags = {
        **{f"{c}.port": ports[c] for c in ("master", "volume", "filer")},
        **{f"{c}.port.grpc": ports[f"{c}-grpc"] for c in ("master", "volume", "filer")},
        "s3.port": chosen["s3"],
        "s3.port.grpc": ports["grpc"],
        "s3.ip.bind": "127.0.0.1",
        "dir": tmp_path / "data",
        "filer.localSocket": tmp_path / "f.sock",
        "s3.localSocket": tmp_path / "s.sock",
    }
    (tmp_path / "data").mkdir()
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("AWS_")},
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "STORE_ACCESS_KEY_ID": "firstKey000000000",
        "STORE_SECRET_ACCESS_KEY": "first-secret-of-the-store",
    }
    start = start.rstrip() + "".join(f" -{k}={v}" for k, v in flags.items())
    master = f"127.0.0.1:{ports['master']}.{ports['master-grpc']}"
    filer = f"127.0.0.1:{ports['filer']}.{ports['filer-grpc']}"
    hook = [part.replace("127.0.0.1:9333", master).replace("127.0.0.1:8888", filer) for part in hook]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["/bin/sh", "-ec", start], env=environment, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        for _ in range(2):  # a restarted pod runs it again
            done = subprocess.run(hook, env=environment, capture_output=True, timeout=60, check=False)
            assert done.returncode == 0, (tmp_path / "log").read_text()
        while not answers(chosen["s3"]):  # the hook asks the filer, which is there before the S3 port
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        servers = {
            "AWS_ACCESS_KEY_ID": "firstKey000000000",
            "AWS_SECRET_ACCESS_KEY": "first-secret-of-the-store",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{chosen['s3']}",
        }
        for name, value in servers.items():
            monkeypatch.setenv(name, value)
        yield servers
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def s3(store: dict[str, str], key: str, secret: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=store["MLFLOW_S3_ENDPOINT_URL"],
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def test_a_pair_of_keys_is_added_tried_and_removed_under_load(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failed: list[str] = []
    stop = threading.Event()
    pairs = [("firstKey000000000", "first-secret-of-the-store")]
    s3(store, *pairs[0]).put_object(Bucket="mlflow", Key="a", Body=b"1")

    def work() -> None:
        while not stop.is_set():
            try:
                s3(store, *pairs[-1]).get_object(Bucket="mlflow", Key="a")["Body"].read()
            except (BotoCoreError, ClientError) as error:
                failed.append(str(error))

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for turn in range(3):
            key, secret = f"keyOfTurn00000000{turn}", f"secret-of-turn-{turn}-of-the-store"
            for _ in range(2):
                store_keys.add_pair(key, secret)
                store_keys.try_pair(key, secret, "mlflow", "some/prefix")
            pairs.append((key, secret))
            time.sleep(0.3)  # the worker's request under way has ended
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
            for _ in range(2):
                store_keys.remove_pair(pairs[-2][0])
            with pytest.raises(ClientError, match="InvalidAccessKeyId"):
                s3(store, *pairs[-2]).list_buckets()
    finally:
        stop.set()
        worker.join()
    assert failed == []
    listed = s3(store, *pairs[-1]).list_objects_v2(Bucket="mlflow")["Contents"]
    assert [o["Key"] for o in listed] == ["a"]


def test_a_pair_that_the_store_refuses_is_not_used(
    store: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_keys, "PATIENCE", 1.0)
    with pytest.raises(Rejected, match="cannot list in bucket mlflow") as refused:
        store_keys.try_pair("unknown-key", "a-secret-nobody-knows", "mlflow", "")
    assert "a-secret-nobody-knows" not in str(refused.value)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Rejected, match="takes no second pair of keys"):
        store_keys.add_pair("anotherKey0000000", "another-secret-of-the-store")


def test_the_previous_password_is_accepted_until_its_time(tmp_path: Path) -> None:
    assert not auth.accepted(tmp_path / "absent", "old")
    previous = {"older": time.time() - 1, "old": time.time() + 60, "öld": None}
    (tmp_path / "previous").write_text(json.dumps(previous))
    assert [p for p in ("older", "old", "öld", "new", "") if auth.accepted(tmp_path, p)] == ["old", "öld"]
    (tmp_path / "password").write_text("new")
    assert auth.accepted(tmp_path, "new")
    assert not auth.accepted(tmp_path, "new\n")
