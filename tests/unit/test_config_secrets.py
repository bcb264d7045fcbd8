"""Secrets are found by reference, never shown, and missing ones say where they were looked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_platform.config.secrets import SecretSource, secret_source, variable_of
from mlflow_platform.errors import BadInput

VALUE = "correct horse battery"


def folder(tmp_path: Path, text: str, mode: int = 0o600) -> SecretSource:
    (tmp_path / "ada").mkdir()
    file = tmp_path / "ada" / "password"
    file.write_text(text)
    file.chmod(mode)
    return SecretSource(str(tmp_path), {})


@pytest.mark.parametrize(
    ("written", "value"),
    [(f"{VALUE}\n", VALUE), (VALUE, VALUE), (f"{VALUE}\r\n", VALUE), (f"{VALUE}\n\n", f"{VALUE}\n")],
)
def test_a_file_without_one_line_end(written: str, value: str, tmp_path: Path) -> None:
    file = folder(tmp_path, "")
    (tmp_path / "ada" / "password").write_bytes(written.encode())
    assert file.resolve("ada", "password") == value


def test_a_variable() -> None:
    source = SecretSource("env:MLP", {"MLP_MLFLOW_USER_ADA_PASS_WORD": VALUE})
    assert source.resolve("mlflow-user.ada", "pass-word") == VALUE
    assert variable_of("mlp", "mlflow-user.ada", "pass-word") == "MLP_MLFLOW_USER_ADA_PASS_WORD"


def test_the_option_reads_the_environment_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLP_ADA_PASSWORD", VALUE)
    assert secret_source("env:MLP").resolve("ada", "password") == VALUE


def test_a_missing_one_says_where_it_was_looked_for(tmp_path: Path) -> None:
    what = "there is no secret 'ada' with the key 'pw' (namespace team-a)"
    remedies = {
        None: "say where secrets are: --secrets DIR (files <name>/<key>) or --secrets env:PREFIX",
        "env:MLP": "set the environment variable MLP_ADA_PW",
        str(tmp_path): f"write it into the file {tmp_path}/ada/pw",
    }
    for setting, remedy in remedies.items():
        with pytest.raises(BadInput) as caught:
            SecretSource(setting, {}).resolve("ada", "pw", "team-a")
        assert str(caught.value) == f"{what}\n    {remedy}"


def test_no_name_leads_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "secret").write_text(VALUE)
    with pytest.raises(BadInput, match="outside of"):
        SecretSource(str(tmp_path / "in"), {}).resolve("..", "secret")


def test_one_that_everybody_may_read_is_noted_once(tmp_path: Path) -> None:
    folder(tmp_path, VALUE, 0o644)
    notes: list[str] = []
    source = SecretSource(str(tmp_path), {}, notes.append)
    assert [source.resolve("ada", "password") for _ in range(2)] == [VALUE] * 2
    file = tmp_path / "ada" / "password"
    assert notes == [f"{file} can be read by every user of this machine; run: chmod 600 {file}"]


def test_it_never_shows_values(tmp_path: Path) -> None:
    source = folder(tmp_path, VALUE)
    source.resolve("ada", "password")
    assert VALUE not in repr(source) + str(vars(source))


def test_no_text_and_too_much(tmp_path: Path) -> None:
    source = folder(tmp_path, "")
    file = tmp_path / "ada" / "password"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput, match="is not UTF-8 text"):
        source.resolve("ada", "password")
    file.write_bytes(b"a" * ((1 << 20) + 1))
    with pytest.raises(BadInput, match="is larger than a secret can be"):
        source.resolve("ada", "password")


@pytest.mark.parametrize(
    ("setting", "said"),
    [("env:", "no prefix of environment variables"), ("env:A-B", "no prefix"), ("nowhere", "no such folder")],
)
def test_a_setting_that_cannot_be(setting: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        SecretSource(setting, {})
