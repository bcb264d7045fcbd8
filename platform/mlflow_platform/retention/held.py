"""What is in quarantine and in the journal: `status` tells it, `undo` brings back what it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlflow_platform.adapters.postgres import Database, translated
from mlflow_platform.retention import journal
from mlflow_platform.retention.roots import Roots, owner

if TYPE_CHECKING:
    import psycopg

#: What still is as the quarantine left it: not restored, not deleted again by somebody else.
_STILL_HELD = """
select q.kind, q.id, q.policy from mlplatform.quarantine q
left join public.runs r on q.kind = 'run' and r.run_uuid = q.id
left join public.logged_models m on q.kind = 'logged model' and m.model_id = q.id
where (q.kind = 'run' and r.lifecycle_stage = 'deleted' and r.deleted_time = q.stamp)
   or (q.kind = 'logged model' and m.lifecycle_stage = 'deleted' and m.last_updated_timestamp_ms = q.stamp)
   or (q.kind = 'version' and not q.kept)
"""


def undo(database: Database, *, policy: str | None = None, ids: Sequence[str] = ()) -> dict[str, int]:
    """Bring back what is in quarantine, all or of one policy or only `ids`; how many of each kind.

    No rule chooses it again: for its policy it counts as restored by somebody.
    """
    counts = {"run": 0, "logged model": 0, "version": 0}
    with database.connect(autocommit=True) as connection, translated():
        journal.check_revision(connection)
        if not journal.exists(connection):
            return counts
        installation = journal.open_journal(connection)
        query = (
            f"select * from ({_STILL_HELD}) as q where q.kind = %(kind)s"
            " and (%(policy)s::text is null or q.policy = %(policy)s)"
            " and (%(all)s or q.id = any(%(ids)s)) and q.id > %(last)s order by q.id limit 1000"
        )
        for kind in counts:
            last = ""
            while True:
                with connection.transaction():
                    journal.check_unchanged(connection, installation)
                    values = {"kind": kind, "policy": policy, "ids": list(ids), "all": not ids, "last": last}
                    found = [row[1] for row in connection.execute(query, values)]
                    if not found:
                        break
                    last = found[-1]
                    counts[kind] += connection.execute(_RESTORE[kind], (found,)).rowcount
    return counts


_RESTORE = {
    "run": "update public.runs r set lifecycle_stage = 'active', deleted_time = null"
    " from mlplatform.quarantine q where q.kind = 'run' and q.id = r.run_uuid and r.run_uuid = any(%s)"
    " and r.lifecycle_stage = 'deleted' and r.deleted_time = q.stamp",
    "logged model": "update public.logged_models m set lifecycle_stage = 'active'"
    " from mlplatform.quarantine q where q.kind = 'logged model' and q.id = m.model_id"
    " and m.model_id = any(%s) and m.lifecycle_stage = 'deleted' and m.last_updated_timestamp_ms = q.stamp",
    "version": "update mlplatform.quarantine set kept = true where kind = 'version' and id = any(%s)",
}


def status(database: Database, roots: Roots) -> dict[str, Any]:
    """Whose data this is, what is in quarantine, what waits in the journal, how the last runs ended."""
    found: dict[str, Any] = {"roots": {}, "quarantine": [], "journal": [], "problems": [], "runs": []}
    for uri, store in roots.all.items():
        whose = owner(store)
        found["roots"][uri] = str(whose) if whose else None
    with database.connect(autocommit=True) as connection, translated():
        found["schema"] = journal.check_revision(connection)
        if not journal.exists(connection):
            found["installation"] = None
            return found
        found["installation"] = _one(connection, "select id::text from mlplatform.installation")
        held = (
            f"select h.policy, h.kind, count(*), min(q.chosen_at) from ({_STILL_HELD}) as h(kind, id, policy)"
            " join mlplatform.quarantine q using (kind, id) group by 1, 2 order by 1, 2"
        )
        found["quarantine"] = [
            {"policy": p, "kind": k, "count": n, "since": since.isoformat()}
            for p, k, n, since in connection.execute(held)
        ]
        states = (
            "select state, kind, count(*), sum(objects), sum(bytes) from mlplatform.purged"
            " group by 1, 2 order by 1, 2"
        )
        found["journal"] = [
            {"state": s, "kind": k, "count": n, "objects": int(o), "bytes": int(b)}
            for s, k, n, o, b in connection.execute(states)
        ]
        problems = (
            "select kind, id, problem, wait_until from mlplatform.purged where problem is not null"
            " and state in ('pending', 'claimed') order by kind, id limit 100"
        )
        found["problems"] = [
            {"kind": k, "id": i, "problem": p, "waitsUntil": u.isoformat() if u else None}
            for k, i, p, u in connection.execute(problems)
        ]
        runs = (
            "select started_at, finished_at, outcome from mlplatform.retention_run order by id desc limit 5"
        )
        found["runs"] = [
            {"started": a.isoformat(), "finished": b.isoformat() if b else None, "outcome": o}
            for a, b, o in connection.execute(runs)
        ]
    return found


def _one(connection: psycopg.Connection[Any], query: str) -> Any:
    row = connection.execute(query).fetchone()
    return row[0] if row else None
