"""The smoke test of a deployment against a real server: it passes, leaves nothing, and names what fails."""

from __future__ import annotations

import json

import pytest

from mlflow_platform.local import Stack
from mlflow_platform.server import smoke

PASSED = ["login", "run", "metric", "artifact written and read back", "model registered"]


@pytest.fixture
def server(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> smoke.Server:
    for name, value in stack.endpoints().environment().items():
        monkeypatch.setenv(name, value)
    return smoke.Server.of_environment()


def test_it_passes_again_and_again_and_leaves_only_its_experiment(
    server: smoke.Server, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert smoke.main() == 0
        out = capsys.readouterr().out
        assert [line.split(": passed")[0] for line in out.splitlines()] == PASSED
    found = server.ask("GET", f"mlflow/experiments/get-by-name?experiment_name={smoke.NAME}")["experiment"]
    runs = server.ask("POST", "mlflow/runs/search", {"experiment_ids": [found["experiment_id"]]})
    assert runs == {}
    search = f"mlflow/registered-models/search?filter=name LIKE '{smoke.NAME}%25'".replace(" ", "%20")
    assert server.ask("GET", search) == {}
    server.ask("POST", "mlflow/experiments/delete", {"experiment_id": found["experiment_id"]})
    assert smoke.main() == 0  # a deleted experiment is restored


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ("login", "GET /api/2.0/mlflow/users/current: HTTP 401"),
        ("artifact", "the artifact was not read back as it was written"),
        ("metric", "the metric was not read back as it was written"),
    ],
)
def test_what_fails_is_named(
    server: smoke.Server,
    broken: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real = smoke.Server.send

    def send(self: smoke.Server, method: str, path: str, data: bytes | None = None) -> bytes:
        if broken == "artifact" and method == "PUT" and data is not None:
            data = data[:-1]
        if broken == "metric" and path.endswith("log-metric") and data is not None:
            data = json.dumps(json.loads(data) | {"value": -1.0}).encode()
        return real(self, method, path, data)

    monkeypatch.setattr(smoke.Server, "send", send)
    if broken == "login":
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "not-the-password")
    assert smoke.main() == 1
    captured = capsys.readouterr()
    assert words in captured.err
    assert "not-the-password" not in captured.err
    assert [line.split(": passed")[0] for line in captured.out.splitlines()] == (
        PASSED[: {"login": 0, "metric": 2, "artifact": 3}[broken]]
    )


def test_nobody_there_is_said_without_the_password(
    server: smoke.Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(smoke, "PATIENCE", 0.1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert smoke.main() == 1
    assert "http://127.0.0.1:9 does not answer" in capsys.readouterr().err
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    assert smoke.main() == 1
    assert capsys.readouterr().err == "error: MLFLOW_TRACKING_PASSWORD is not set\n"
