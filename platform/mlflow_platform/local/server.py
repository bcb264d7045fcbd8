"""The MLflow server of a stack: schema first, then the application that pods run too."""

from __future__ import annotations

import configparser
import io
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlflow_platform.local import schema
from mlflow_platform.local.credentials import Credentials
from mlflow_platform.local.folder import Folder, write_private
from mlflow_platform.local.postgres import Postgres
from mlflow_platform.local.seaweedfs import BUCKET, REGION, SeaweedFS
from mlflow_platform.local.service import Command, RunToEnd, Service, environment
from mlflow_platform.local.state import Settings

#: Seconds that a checked password is remembered. Without, every request computes a password hash twice;
#: a removed user keeps access for as long (mlflow/server/auth/basic_auth.ini, auth_cache_ttl_seconds).
AUTH_CACHE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Server:
    """The MLflow server of a stack."""

    folder: Folder
    settings: Settings
    credentials: Credentials
    postgres: Postgres
    s3: SeaweedFS
    name: str = "mlflow"
    needs: tuple[str, ...] = ("postgres",)
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 20.0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports['mlflow']}"

    def prepare(self, run: RunToEnd, say: Callable[[str], None]) -> Command:
        base = self.folder.root / "mlflow"
        temporary = base / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # uploads that a crash interrupted
        temporary.mkdir(mode=0o700, parents=True)
        write_private(base / "auth.ini", self._auth_config())
        if self._outdated():
            say("migrating the databases")
            run(self._migration(base), "migrate")
        return Command(
            arguments=(
                sys.executable,
                "-P",
                "-m",
                "mlflow_platform.server.serve",
                "--host=127.0.0.1",
                f"--port={self.settings.ports['mlflow']}",
                "--timeout-graceful-shutdown=10",
            ),
            directory=base,
            environment=self._environment(base),
        )

    def ready(self) -> bool:
        import urllib3

        http = urllib3.PoolManager(timeout=2.0, retries=False)
        try:
            return http.request("GET", f"{self.uri}/health").status == 200
        except urllib3.exceptions.HTTPError:
            return False
        finally:
            http.clear()

    def settle(self) -> None:
        """Nothing: the server makes its administrator itself."""

    def _outdated(self) -> bool:
        for database in schema.MIGRATIONS:
            with self.postgres.connect(database) as connection:
                if schema.current(connection, database) != schema.head(database):
                    return True
        return False

    def _migration(self, base: Path) -> Command:
        return Command(
            arguments=(sys.executable, "-P", "-m", "mlflow_platform.local.migrate"),
            directory=base,
            environment={
                **self._environment(base),
                "MLPLATFORM_TRACKING_DB": self.postgres.uri("mlflow"),
                "MLPLATFORM_AUTH_DB": self.postgres.uri("mlflow_auth"),
            },
        )

    def _auth_config(self) -> str:
        # MLflow reads it with interpolation (mlflow/server/auth/config.py), so a percent sign is doubled.
        config = configparser.ConfigParser()
        config["mlflow"] = {
            "default_permission": "NO_PERMISSIONS",
            "database_uri": self.postgres.uri("mlflow_auth").replace("%", "%%"),
            "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
            "grant_default_workspace_access": "false",
            "auth_cache_ttl_seconds": str(AUTH_CACHE_SECONDS),
        }
        text = io.StringIO()
        config.write(text)
        return text.getvalue()

    def _environment(self, base: Path) -> dict[str, str]:
        values = {
            "MLFLOW_BACKEND_STORE_URI": self.postgres.uri("mlflow"),
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{BUCKET}",
            "MLFLOW_AUTH_CONFIG_PATH": str(base / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": self.credentials.admin_username,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.credentials.admin_password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.credentials.flask_secret_key,
            "MLFLOW_CRYPTO_KEK_PASSPHRASE": self.credentials.kek_passphrase,
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": self.credentials.webhook_key,
            "MLFLOW_ENABLE_WORKSPACES": "true" if self.settings.options.workspaces else "false",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_S3_ENDPOINT_URL": self.s3.endpoint,
            "AWS_ACCESS_KEY_ID": self.credentials.s3_access_key,
            "AWS_SECRET_ACCESS_KEY": self.credentials.s3_secret_key,
            "AWS_DEFAULT_REGION": REGION,
            # No other configuration of the user, and no look at a cloud's metadata service.
            "AWS_CONFIG_FILE": "/dev/null",
            "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
            "AWS_EC2_METADATA_DISABLED": "true",
            "TMPDIR": str(base / "tmp"),
            "PYTHONUNBUFFERED": "1",
        }
        if self.settings.options.webhooks_local:
            # mlflow/environment_variables.py
            values["MLFLOW_WEBHOOK_ALLOWED_SCHEMES"] = "https,http"
            values["MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS"] = "true"
        return environment(self.settings.id, **values)


def services(folder: Folder, settings: Settings, keys: Credentials) -> tuple[Service, ...]:
    """Every server of a stack, in the order in which they start."""
    postgres, s3 = Postgres(folder, settings, keys), SeaweedFS(folder, settings, keys)
    return postgres, s3, Server(folder, settings, keys, postgres, s3)
