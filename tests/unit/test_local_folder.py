"""The data folder: which one is meant, how its files are written, who may change it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlflow_platform.errors import BadInput, Fatal
from mlflow_platform.local import folder, state
from mlflow_platform.local.folder import Folder


def test_the_option_beats_the_variable_which_beats_the_nearest_folder(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert folder.find(environment={}, start=below) == below / ".mlplatform"
    (tmp_path / "a" / ".mlplatform").mkdir()
    assert folder.find(environment={}, start=below) == below / ".mlplatform", "no stack is in there"
    (tmp_path / "a" / ".mlplatform" / "stack.json").write_text("{}")
    assert folder.find(environment={}, start=below) == tmp_path / "a" / ".mlplatform"
    variable = {"MLPLATFORM_DATA": str(tmp_path / "v")}
    assert folder.find(environment=variable, start=below) == tmp_path / "v"
    assert folder.find(tmp_path / "x", environment=variable, start=below) == tmp_path / "x"


def test_a_new_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    made = Folder(tmp_path / "deep" / "data")
    made.create()
    assert made.root.stat().st_mode & 0o777 == 0o700
    made.create()


def test_a_folder_with_other_things_and_a_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(BadInput, match="is not empty and holds no stack"):
        Folder(tmp_path).create()
    assert tmp_path.stat().st_mode & 0o077 == Path(tmp_path).stat().st_mode & 0o077
    with pytest.raises(BadInput, match="cannot use"):
        Folder(tmp_path / "mine").create()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    old = os.umask(0)
    try:
        folder.write_private(path, "one")
        folder.write_private(path, "two")
    finally:
        os.umask(old)
    assert path.read_text() == "two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    with pytest.raises(UnicodeEncodeError):
        folder.write_private(path, "\ud800")
    assert path.read_text() == "two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_lock_is_held_against_other_processes_and_dropped_at_their_end(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not folder.is_locked(path)
    program = f"""
import sys
from pathlib import Path
from mlflow_platform.local.folder import locked
with locked(Path({str(path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert folder.is_locked(path)
    told: list[None] = []
    with (
        pytest.raises(Fatal, match="another mlplatform command"),
        folder.locked(path, timeout=0.2, waiting=lambda: told.append(None)),
    ):
        pass
    assert told == [None]
    holder.kill()
    holder.communicate()
    assert not folder.is_locked(path)
    with folder.locked(path):
        assert folder.is_locked(path)


def test_settings_and_state_come_back_as_written(tmp_path: Path) -> None:
    where = Folder(tmp_path)
    assert state.read_settings(where) is None
    assert state.read_state(where) == state.State()
    settings = state.Settings("id", {"mlflow": 5000}, state.Options(workspaces=True), "plain")
    state.write_settings(where, settings)
    assert state.read_settings(where) == settings
    running = state.Running(state.Process(7, 8), ready=True, restarts=2, problem="x")
    known = state.State("running", "", "", state.Process(5, 6), {"mlflow": running})
    state.write_state(where, known)
    assert state.read_state(where) == known


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": 1, "ports": [], "options": {}}', "\x00"])
def test_damaged_files(tmp_path: Path, text: str) -> None:
    where = Folder(tmp_path)
    where.settings.write_text(text)
    with pytest.raises(Fatal, match=r"stack\.json cannot be read"):
        state.read_settings(where)
    where.state.write_text(text)
    assert state.read_state(where) == state.State(), "what runs is found by its mark"
