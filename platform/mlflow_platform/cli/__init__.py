"""The command line `mlplatform`: thin commands that parse, call and print."""

from __future__ import annotations

import sys

from mlflow_platform import __version__


def main() -> None:
    """Entry point. `--version` alone answers before anything else is imported."""
    if sys.argv[1:] == ["--version"]:
        print(f"mlplatform {__version__}")
        return
    from mlflow_platform.cli.root import run

    sys.exit(run(sys.argv[1:]))
