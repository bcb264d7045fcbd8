"""Requests to a server by one address and Host header; also run alone, in a pod, where names are real.

    python ways_in.py '[["http://mlflow:5000", "mlflow.example.com"], ...]'

prints a JSON object: "ADDRESS HOST" -> what was asked -> HTTP status. The login is in USERNAME and PASSWORD.
"""

import json
import os
import struct
import sys
import time
import uuid
from collections.abc import Mapping

import urllib3


def try_way(address: str, host: str, login: Mapping[str, str]) -> dict[str, int]:
    """One request of each sort: served by Flask, and by the three native routes with a body."""
    headers = {**login, **({"Host": host} if host else {})}
    file = f"{address}/api/2.0/mlflow-artifacts/artifacts/ways-in/{uuid.uuid4().hex}"
    traces = {**headers, "Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": "0"}

    def status(method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] = headers) -> int:
        return urllib3.request(method, url, body=body, headers=headers, retries=False, timeout=60).status

    found = {
        "flask": status("GET", f"{address}/api/2.0/mlflow/experiments/get?experiment_id=0"),
        "artifact written": status("PUT", file, b"way"),
        "artifact read": status("GET", file),
        "trace": status("POST", f"{address}/v1/traces", trace(), traces),
    }
    status("DELETE", file)
    return found


def trace() -> bytes:
    """An OTLP request with one span (opentelemetry/proto/trace/v1/trace.proto)."""

    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    def moment(number: int) -> bytes:
        return bytes([number << 3 | 1]) + struct.pack("<Q", time.time_ns())

    span = field(1, os.urandom(16)) + field(2, os.urandom(8)) + field(5, b"way in") + moment(7) + moment(8)
    return field(1, field(2, field(2, span)))


if __name__ == "__main__":
    login = urllib3.make_headers(basic_auth=f"{os.environ['USERNAME']}:{os.environ['PASSWORD']}")
    found = {f"{address} {host}": try_way(address, host, login) for address, host in json.loads(sys.argv[1])}
    print(json.dumps(found))
