"""One command at a time changes a release: a Lease in its namespace says which.

A second one waits. A command that was killed renews nothing, so the next one goes on after `TIMING.lease`;
one that was asleep for that long finds its turn over before it sends another request.
"""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from mlflow_platform.adapters.election import Elector, Timing
from mlflow_platform.adapters.kubernetes import Cluster
from mlflow_platform.chart import Release
from mlflow_platform.errors import Fatal, Transient

#: In seconds. Longer than an operator's: an API server that restarts, as that of a small cluster does for an
#: upgrade, must not end a deployment.
TIMING = Timing(lease=45.0, renew=40.0, retry=3.0)
#: How long one request for the Lease is repeated, in seconds.
_PATIENCE = 5.0


def lease(release: Release) -> str:
    """The Lease's name."""
    return f"{release.name}-deploy"


@contextmanager
def turn(
    cluster: Cluster,
    release: Release,
    *,
    timeout: float,
    say: Callable[[str], None] = lambda _: None,
    timing: Timing = TIMING,
    last: bool = False,
) -> Iterator[None]:
    """While it is this command's turn, `cluster` may be written to; afterwards as before, and without the
    Lease if it was the `last`.

    `Transient` where another command's lasts longer than `timeout` seconds, and it says whose; `Rejected`
    where this login may not have Leases. In between each request raises `Fatal` when the turn was lost.
    """
    elector = Elector(
        replace(cluster, patience=_PATIENCE), release.namespace, lease(release), _identity(), timing
    )
    deadline = time.monotonic() + timeout
    while (term := elector.take()) is None:
        holder = elector.holder or "another command"
        if time.monotonic() > deadline:
            raise Transient(
                f"{holder} is changing {release.name} in namespace {release.namespace} and has not ended yet",
                remedy="wait for it; if it was killed, others may go on within a minute",
            )
        say(f"waiting for {holder}")
        time.sleep(min(timing.retry, 1.0))

    def check() -> None:
        before()
        if term.over:
            raise Fatal(
                f"the Lease {lease(release)} was lost: another command may be changing {release.name}",
                remedy="run it again: it goes on where this one stopped",
            )

    before = cluster.gate
    keeper = threading.Thread(target=elector.keep, args=(term,), name="lease", daemon=True)
    keeper.start()
    cluster.gate = check
    try:
        yield
    finally:
        cluster.gate = before
        lost = term.over
        term.end()
        keeper.join()  # what it has under way must not follow the release
        if last and not lost:
            cluster.delete("coordination.k8s.io/v1", "Lease", release.namespace, lease(release))
        else:
            elector.release()


def _identity() -> str:
    """Who is at it, for those who wait; the end makes it this run's own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a number without a name, as in many a container
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()} (pid {os.getpid()}, {secrets.token_hex(3)})"
