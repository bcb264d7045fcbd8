"""The API server or MLflow away for a while, and connections that are there and deliver nothing."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.operator.running import OPS, Site, eventually, experiment


class Forwarder:
    """A TCP port that leads to another one, and can be cut or frozen."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._cut = threading.Event()
        self._frozen: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and every new one."""
        self._cut.set()
        for pair in self._pairs:
            for one in pair:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self._cut.clear()

    def freeze(self) -> None:
        """Connections that there are stay open and carry nothing any more; new ones work."""
        self._frozen |= {one for pair in self._pairs for one in pair}

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._cut.is_set():
                client.close()
                continue
            upstream = socket.create_connection(self._target)
            self._pairs.append((client, upstream))
            for source, sink in ((client, upstream), (upstream, client)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                while source in self._frozen:
                    time.sleep(0.5)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def api(site: Site, tmp_path: Path) -> Iterator[tuple[Site, Forwarder]]:
    """The site by a way to the API server that can be disturbed; the test's own is straight."""
    config = yaml.safe_load(site.control_plane.kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    at = urlsplit(cluster["server"])
    forwarder = Forwarder(at.hostname or "", at.port or 443)
    cluster["server"] = f"https://127.0.0.1:{forwarder.port}"
    path = tmp_path / "kubeconfig"
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(config))
    yield replace(site, control_plane=replace(site.control_plane, kubeconfig=path)), forwarder
    forwarder.close()
    site.forget_leader()


def test_the_api_server_away_under_load(site: Site, api: tuple[Site, Forwarder]) -> None:
    disturbed, forwarder = api
    names = [f"away-{i:02}" for i in range(40)]
    site.apply(*(experiment(name) for name in names))
    with disturbed.running() as process:
        eventually(lambda: process.metric("patches_total") > 5, "it is at work")
        for _ in range(3):
            forwarder.cut()
            time.sleep(1.5)
            forwarder.mend()
            time.sleep(0.5)
        forwarder.cut()
        eventually(lambda: not process.leading, "it stops to lead")
        site.apply(experiment("away-later"))
        forwarder.mend()
        for name in [*names, "away-later"]:
            site.reach("Experiment", name, "Synced")


@pytest.mark.soak
def test_connections_that_deliver_nothing(site: Site, api: tuple[Site, Forwarder]) -> None:
    disturbed, forwarder = api
    with disturbed.running() as process:
        process.another_round()
        forwarder.freeze()
        site.apply(experiment("frozen"))
        site.reach("Experiment", "frozen", "Synced")


def test_mlflow_away_and_back(site: Site, tmp_path: Path) -> None:
    at = urlsplit(site.stack.endpoints().tracking_uri)
    forwarder = Forwarder(at.hostname or "", at.port or 80)
    site.server("shaky", trackingUri=f"http://127.0.0.1:{forwarder.port}")
    try:
        with site.running() as process:
            site.apply(experiment("steady", server="shaky", tags={"a": "b"}))
            site.reach("Experiment", "steady", "Synced")
            patches = site.find("Experiment", "steady")["metadata"]["resourceVersion"]
            forwarder.cut()
            site.reach("TrackingServer", "shaky", "ServerUnavailable", namespace="")
            assert site.find("Experiment", "steady")["metadata"]["resourceVersion"] == patches
            site.apply(experiment("meanwhile", server="shaky"), experiment("elsewhere"))
            site.reach("Experiment", "elsewhere", "Synced")  # other servers go on
            site.reach("Experiment", "meanwhile", "ServerUnavailable")
            site.set_tag("steady", "a", "by hand")
            forwarder.mend()
            site.reach("TrackingServer", "shaky", "Connected", namespace="")
            site.reach("Experiment", "meanwhile", "Synced")
            eventually(lambda: site.experiment("steady")["tags"]["a"] == "b", "drift is corrected")
            assert "Traceback" not in process.log.read_text()
    finally:
        forwarder.close()
        for name in ("steady", "meanwhile"):
            site.delete("Experiment", name, OPS)
        site.delete("TrackingServer", "shaky", "")
