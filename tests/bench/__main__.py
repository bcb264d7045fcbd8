"""Run benchmarks: `python -m tests.bench` for all, or with names. Exit code 1 when a promise is not met.

Each starts a stack of its own on free ports and stops it. Figures depend on the machine; ratios are of
things measured side by side in one run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow_platform.local import Stack
from tests.bench import (
    analysis,
    archive,
    backup,
    logging,
    operator,
    programs,
    render,
    retention,
    scale,
    search,
    startup,
    throughput,
)


def with_stack(measure: Callable[[dict[str, str], Path], bool]) -> bool:
    """Call `measure` with the environment of a fresh stack, and a folder that has it in `stack`."""
    with tempfile.TemporaryDirectory(prefix="mlplatform-bench-") as scratch:
        stack = Stack(Path(scratch) / "stack")
        try:
            stack.up(port=0, owned=True)
            return measure({**os.environ, **stack.endpoints().environment()}, Path(scratch))
        finally:
            stack.reset()


BENCHMARKS: dict[str, Callable[[], bool]] = {
    "startup": lambda: startup.main(dict(os.environ)),
    "render": lambda: render.main(dict(os.environ)),
    "scale": lambda: with_stack(scale.main),
    "throughput": lambda: with_stack(lambda _, scratch: throughput.main(Stack(scratch / "stack"), scratch)),
    "logging": lambda: with_stack(logging.main),
    "drain": lambda: with_stack(logging.drain),
    "programs": lambda: with_stack(programs.main),
    "retention": lambda: with_stack(retention.main),
    "backup": lambda: with_stack(backup.main),
    "archive": lambda: with_stack(archive.main),
    "search": lambda: with_stack(search.main),
    "analysis": lambda: with_stack(analysis.main),
    "operator": lambda: with_stack(operator.main),
}


def main(names: list[str]) -> int:
    unknown = [n for n in names if n not in BENCHMARKS]
    if unknown:
        print(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}", file=sys.stderr)
        return 64
    held = [BENCHMARKS[name]() for name in names or BENCHMARKS]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
