"""The guides, block for block, against the stack."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workloads.ran import ROOT, Workloads

pytest_plugins = ("tests.workloads.fixtures",)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def as_program(page: str, folder: Path) -> Path:
    """Every block of a page, one after the other, as a reader would paste them; a failure to log is one."""
    code = "\n\n".join(f"print('block {i}')\n{block}" for i, block in enumerate(blocks(page, "python"), 1))
    file = folder / page.replace(".md", ".py")
    file.write_text(code, "utf-8")
    return file


@pytest.mark.parametrize("page", ["developer-guide.md", "prompts.md", "troubleshooting.md"])
def test_the_blocks_of_a_guide_run_in_their_order(workloads: Workloads, page: str) -> None:
    ran = workloads.run(as_program(page, workloads.folder), MLPLATFORM_STRICT="1")
    done = re.findall(r"^block (\d+)$", ran.output, re.MULTILINE)
    assert len(done) == len(blocks(page, "python"))
    if page == "prompts.md":
        assert "+50%, McNemar's exact test: p = 0.125" in ran.output
        assert ran.output.strip().endswith("2")
    if page == "developer-guide.md":
        assert "p = 0.031" in ran.output
        assert re.search(r"^prompt-42-\S+ 1\.0$", ran.output, re.MULTILINE)
        names = {r.info.run_name for r in ran.runs()}
        assert {"first", "job-42", "retrieve", "agent", "tune", "trial-0"} <= names


def test_the_commands_of_troubleshooting_are_there() -> None:
    for line in "".join(blocks("troubleshooting.md", "sh")).splitlines():
        command = line.split("#")[0].split()
        assert command[0] == "mlplatform"
        subprocess.run(
            [sys.executable, "-m", "mlflow_platform.cli", *command[1:], "--help"],
            capture_output=True,
            check=True,
        )
