"""The command line `mlplatform`: thin commands that parse, call and print."""

from __future__ import annotations

import signal
import sys

from mlflow_platform import __version__
from mlflow_platform.errors import EXIT_INTERRUPTED


def main() -> None:
    """Entry point. `--version` alone answers before anything else is imported."""
    if sys.argv[1:] == ["--version"]:
        print(f"mlplatform {__version__}")
        return
    terminated = False

    def stop(number: int, _: object) -> None:
        """As Ctrl-C, so that temporary folders and servers go; a second signal ends it at once."""
        nonlocal terminated
        terminated = True
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    from mlflow_platform.cli.root import run

    code = run(sys.argv[1:])
    sys.exit(128 + signal.SIGTERM if terminated and code == EXIT_INTERRUPTED else code)
