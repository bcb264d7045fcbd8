"""How many requests a server works on at a time: one fewer than its database pool has connections.

MLflow's store opens a session within a session, so that one request holds a connection while it asks for a
second one (log_batch in mlflow/store/tracking/sqlalchemy_store.py). When as many requests as there are
connections have got that far, none gets its second: all of them fail after SQLAlchemy's `pool_timeout` of
30 s, with HTTP 400. One request fewer, and there is always one that can go on. The others wait for a thread,
first come first served, and hold nothing meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from mlflow_platform.server.draining import Application, Message, Receive, Send

#: What SQLAlchemy's QueuePool takes where MLflow is told nothing, or 0 (mlflow/store/db/utils.py,
#: create_sqlalchemy_engine; sqlalchemy/pool/impl.py).
POOL_SIZE = 5
MAX_OVERFLOW = 10


def limit(app: Application) -> Application:
    """The application, with that many threads for MLflow's requests; AnyIO's own limit is 40."""

    async def limited(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            from anyio.to_thread import current_default_thread_limiter

            current_default_thread_limiter().total_tokens = threads(os.environ)
        await app(scope, receive, send)

    return limited


def threads(environment: Mapping[str, str]) -> int:
    """At least one: MLflow takes no overflow of 0, so a pool has two connections or more."""
    size = int(environment.get("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE") or 0) or POOL_SIZE
    overflow = int(environment.get("MLFLOW_SQLALCHEMYSTORE_MAX_OVERFLOW") or 0) or MAX_OVERFLOW
    return max(1, size + overflow - 1)
