"""Targets of the Makefile that only print, with what they call already installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mlflow_platform.cli.root import run

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> str:
    """What a target prints; the installation is taken as done (`-o`)."""
    done = subprocess.run(
        ["make", "-o", ".venv/.runtime", "-o", ".venv/.project", "-o", ".venv/.dev", *arguments],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("profile", ["small", "local"])
def test_render_prints_what_the_command_prints(profile: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["render", "--profile", profile]) == 0
    chosen = [] if profile == "small" else [f"PROFILE={profile}"]
    assert make("render", *chosen) == capsys.readouterr().out


def test_render_writes_files_into_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "a folder"
    said = make("render", f"OUT={out}")
    assert said == f"{len(list(out.iterdir()))} objects written to {out}\n"


def test_help_lists_the_targets() -> None:
    listed = {line.split()[1] for line in make("help").splitlines()}
    expected = {"up", "down", "status", "render", "deploy", "test", "check", "bench", "lint", "docs"}
    assert expected <= listed


def test_sbom_writes_a_file_and_leaves_none_behind_where_it_fails(tmp_path: Path) -> None:
    out = tmp_path / "a list.json"
    make("sbom", f"OUT={out}")
    assert json.loads(out.read_text("utf-8"))["bomFormat"] == "CycloneDX"
    with pytest.raises(AssertionError, match=r"absent\.tar: not an image"):
        make("sbom", f"OUT={out}", f"IMAGE={tmp_path / 'absent.tar'}")
    assert not out.exists()
