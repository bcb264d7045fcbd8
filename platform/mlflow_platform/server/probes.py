"""Two probes, answered before any of MLflow's middleware and on the event loop itself:

- `GET /health`: the process is alive. MLflow's own answers as well, but where workspaces are on it first
  asks the database which one is meant, so that an outage would get pods restarted.
- `GET /readyz`: the process is alive and the tracking database answers; 503 with one reason if not. The
  artifact store is not asked: an outage of it must not take every server out of the Service.

Neither needs a login, and any Host header will do: the kubelet asks by address.

What they cannot mend: with workspaces on, and on native routes (OTLP, artifacts), MLflow asks the database
on the event loop too. While its host is silent, not merely down, one such request holds up everything,
probes included, for as long as the connection's time-outs allow (chart: _partials.yaml.j2, database_uri).
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import psycopg
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from mlflow_platform.errors import BadInput
from mlflow_platform.server.draining import Application, Message, Receive, Send

#: Seconds that an answer of the database stands for all who ask.
CACHE_SECONDS = 2.0
#: Seconds that it may take: less than the probe's own time-out (server.yaml.j2, readinessProbe).
TIMEOUT_SECONDS = 3.0

#: How its connection is called in pg_stat_activity.
APPLICATION_NAME = "mlplatform-readyz"

_REMEDY = "name a Postgres: --backend-store-uri postgresql+psycopg://HOST/DATABASE"
_SLOW = f"the tracking database did not answer within {TIMEOUT_SECONDS:.0f} s"
_logger = logging.getLogger(__name__)


def with_probes(application: Application, database: DatabaseProbe) -> Application:
    """The application, with `/health` and `/readyz` answered before it."""

    async def answer(scope: Message, receive: Receive, send: Send) -> None:
        path = scope.get("path")
        if scope["type"] != "http" or path not in ("/health", "/readyz"):
            await application(scope, receive, send)
            return
        problem = await database.problem() if path == "/readyz" else ""
        body = (problem or "OK").encode()
        headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 503 if problem else 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


class DatabaseProbe:
    """Whether a Postgres answers, asked over one connection of its own, never twice at a time.

    The connection is kept: a pool that is exhausted or a server at its `max_connections` is busy, not away.
    It is asked on the event loop: however long the database is away, no thread waits for it.
    """

    def __init__(self, uri: str) -> None:
        """`uri` is SQLAlchemy's; raises `BadInput` as `connect_arguments` does."""
        self._arguments = {**connect_arguments(uri), "application_name": APPLICATION_NAME}
        self._connection: psycopg.AsyncConnection | None = None
        self._asking: asyncio.Task[None] | None = None
        self._known_until = 0.0
        self._problem = ""

    async def problem(self) -> str:
        """Why it does not answer, in a line that names no address or user; empty if it does."""
        if time.monotonic() < self._known_until:
            return self._problem
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        # To give a query up takes psycopg some seconds of its own: nobody waits for that.
        done, _ = await asyncio.wait([self._asking], timeout=TIMEOUT_SECONDS)
        return self._problem if done else _SLOW

    async def _ask(self) -> None:
        problem, detail = "", ""
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                await self._select()
        except TimeoutError:
            problem = _SLOW
        except (OSError, psycopg.Error) as error:
            problem = "the tracking database cannot be reached"
            detail = " ".join(str(error).split()) or type(error).__name__
        if problem:
            await self._close()
        if problem != self._problem:
            _logger.warning("not ready: %s %s", problem, detail) if problem else _logger.warning(
                "ready again"
            )
        self._problem, self._known_until, self._asking = problem, time.monotonic() + CACHE_SECONDS, None

    async def _select(self) -> None:
        if self._connection is not None:
            try:
                await self._connection.execute("select 1")
                return
            except psycopg.OperationalError:
                await self._close()  # it has ended, but the server may be back since
        # No prepared statements: behind PgBouncer the next one may meet another server.
        self._connection = await psycopg.AsyncConnection.connect(
            **self._arguments, autocommit=True, prepare_threshold=None
        )
        await self._connection.execute("select 1")

    async def _close(self) -> None:
        if self._connection is not None:
            await self._connection.close()
            self._connection = None


def connect_arguments(uri: str) -> dict[str, Any]:
    """psycopg's arguments for SQLAlchemy's URI; raises `BadInput` if it is none of a Postgres."""
    try:
        url = make_url(uri)
    except ArgumentError:
        raise BadInput("the tracking database's address is no URI", remedy=_REMEDY) from None
    if url.get_backend_name() != "postgresql":
        raise BadInput(f"the tracking database is {url.get_backend_name()}", remedy=_REMEDY)
    return dict(url.get_dialect()().create_connect_args(url)[1])
