"""The README, word for word, on a copy of this tree in a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What git knows of this tree, without its ignored files: no virtual environment, no data."""
    copy = tmp_path_factory.mktemp("readme") / "mlflow-platform"
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    yield copy
    subprocess.run(["make", "down"], cwd=copy, env=environment(), check=False)  # noqa: S607


def environment() -> dict[str, str]:
    """A shell in which nobody has set up MLflow yet."""
    return {
        k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "MLPLATFORM_", "VIRTUAL_ENV"))
    }


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
        cwd=folder,
        env={**environment(), "MLPLATFORM_SPOOL": str(folder.parent / "spool")},  # not the user's own
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, f"{script}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_the_first_two_blocks_are_make_up_and_make_test() -> None:
    assert [b.strip() for b in BLOCKS[:2]] == ["make up", "make test"]


def test_ci_runs_what_make_test_does_in_lanes_that_leave_nothing_out() -> None:
    run = (ROOT / ".ci" / "run").read_text("utf-8")
    apart = re.findall(r"^ARGS \?= (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert f'\nmake test ARGS="{apart[0]} ${{beside[*]/#/--ignore=}}" |' in run
    assert '\nmake test ARGS="${beside[*]}" >' in run


@pytest.mark.timeout(1800)
def test_its_commands_work_in_their_order(clone: Path) -> None:
    first = shell(BLOCKS[0], clone)
    assert "MLflow is up: http://127.0.0.1:" in first
    assert "created" in first
    again = shell(BLOCKS[0], clone)
    assert "nothing to change" in again
    assert "nothing changed" in again
    for block in BLOCKS[2:]:
        shell(block, clone)


def test_every_page_it_links_to_exists() -> None:
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page}: {target}"
