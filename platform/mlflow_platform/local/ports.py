"""Free ports on 127.0.0.1, kept over restarts for as long as nobody else takes them."""

from __future__ import annotations

import random
import socket
from collections.abc import Mapping

#: MLflow's own default (mlflow/cli/__init__.py, `--port`).
MLFLOW_PORT = 5000
NAMES = (
    "mlflow",
    "postgres",
    "s3",
    "s3-grpc",
    "s3-master",
    "s3-master-grpc",
    "s3-volume",
    "s3-volume-grpc",
    "s3-filer",
    "s3-filer-grpc",
    "s3-admin",
    "s3-admin-grpc",
)
#: Below Linux' ephemeral range (net.ipv4.ip_local_port_range starts at 32768): an outgoing connection
#: of any program must not sit on a port of ours while the stack is down.
_RANGE = range(12_000, 32_000)


def is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        # As servers do it: connections in TIME_WAIT do not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def choose(kept: Mapping[str, int], *, mlflow: int | None = None) -> dict[str, int]:
    """A free port for every name: the kept one, for MLflow 5000, else any.

    `mlflow` asks for that port for MLflow, 0 for any; it is returned even if taken: the caller tells.
    """
    chosen: dict[str, int] = {}
    for name in NAMES:
        wanted = [kept[name]] if name in kept else []
        if name == "mlflow":
            if mlflow:
                chosen[name] = mlflow
                continue
            if mlflow is None and not wanted:
                wanted.append(MLFLOW_PORT)
        chosen[name] = next((p for p in wanted if p not in chosen.values() and is_free(p)), 0) or _any(
            set(chosen.values())
        )
    return chosen


def _any(taken: set[int]) -> int:
    while True:
        port = random.choice(_RANGE)  # noqa: S311 - spreads stacks that start at the same time
        if port not in taken and is_free(port):
            return port
