"""Reads what is there, in bounded batches, and notes what the rules choose in a temporary table.

`chosen` belongs to one connection: after a crash nothing of it is left, and the next run chooses anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mlflow_platform.model.experiment import RESERVED_NAMES
from mlflow_platform.model.retention_policy import RetentionPolicy, RetentionPolicySpec, seconds
from mlflow_platform.retention import rules
from mlflow_platform.retention.protections import protected
from mlflow_platform.retention.rules import Choice, Held

if TYPE_CHECKING:
    import psycopg

#: Rows looked at together.
_ROWS = 5000
#: mlflow/prompt/constants.py: IS_PROMPT_TAG_KEY.
_PROMPT = "mlflow.prompt.is_prompt"

_TABLE = """
create temp table if not exists chosen (
  policy text not null, kind text not null, id text not null, experiment_id integer, action text not null,
  rule text not null, new boolean not null, stamp bigint, uri text, primary key (kind, id))
"""
_EXPERIMENTS = """
select e.experiment_id, e.name, e.workspace, e.lifecycle_stage, e.last_update_time,
  coalesce((select jsonb_object_agg(t.key, t.value) from public.experiment_tags t
            where t.experiment_id = e.experiment_id), '{}'::jsonb)
from public.experiments e order by e.experiment_id
"""
#: Columns of `Held`; `ripe` by the database's clock, which wrote `chosen_at`.
_HELD = (
    "extract(epoch from q.chosen_at) * 1000, q.stamp,"
    " q.chosen_at <= now() - make_interval(secs => %(wait)s), q.kept"
)
_RUNS = f"""
select r.run_uuid, r.experiment_id, r.lifecycle_stage = 'active', r.status, r.start_time, r.end_time,
  r.deleted_time, r.artifact_uri,
  case when r.lifecycle_stage = 'active' then row_number() over (
    partition by r.experiment_id, r.lifecycle_stage order by r.start_time desc nulls last, r.run_uuid) end,
  case when m.value is not null and r.lifecycle_stage = 'active' then row_number() over (
    partition by r.experiment_id, r.lifecycle_stage, m.value is null
    order by m.value * %(sign)s desc, r.start_time desc, r.run_uuid) end,
  {_HELD}
from public.runs r
left join public.latest_metrics m on m.run_uuid = r.run_uuid and m.key = %(metric)s and not m.is_nan
left join mlplatform.quarantine q on q.kind = 'run' and q.id = r.run_uuid
where r.experiment_id = any(%(experiments)s)
"""
_MODELS = f"""
select m.model_id, m.experiment_id, m.lifecycle_stage is distinct from 'deleted', m.creation_timestamp_ms,
  m.last_updated_timestamp_ms, m.artifact_location,
  {_HELD}
from public.logged_models m
left join mlplatform.quarantine q on q.kind = 'logged model' and q.id = m.model_id
where m.experiment_id = any(%(experiments)s)
"""
_VERSIONS = f"""
select v.workspace, v.name, v.version, v.creation_time, v.current_stage,
  row_number() over (partition by v.workspace, v.name order by v.version desc),
  exists (select from public.registered_model_aliases a
          where a.workspace = v.workspace and a.name = v.name and a.version = v.version),
  exists (select from public.model_version_tags t where t.workspace = v.workspace and t.name = v.name
          and t.version = v.version and t.key = %(pin)s and lower(t.value) is distinct from 'false'),
  {_HELD}
from public.model_versions v
left join mlplatform.quarantine q
  on q.kind = 'version' and q.id = v.workspace || '/' || v.name || '/' || v.version
where v.current_stage is distinct from 'Deleted_Internal'
  and not exists (select from public.registered_model_tags t where t.workspace = v.workspace
                  and t.name = v.name and t.key = %(prompt)s)
"""
_TRACES = """
select request_id, experiment_id, timestamp_ms from public.trace_info
where experiment_id = any(%(experiments)s) and timestamp_ms <= %(until)s
"""


@dataclass
class Seen:
    """What a policy saw and chose, in numbers."""

    seen: Counter[str] = field(default_factory=Counter)
    """How many there are of each kind."""
    kept: Counter[str] = field(default_factory=Counter)
    """How many a rule chose and a protection keeps, by reason."""
    names: dict[int, str] = field(default_factory=dict)
    """Names of the experiments that the policy is about."""


def prepare(connection: psycopg.Connection[Any]) -> None:
    """An empty table `chosen`."""
    connection.execute(_TABLE)
    connection.execute("truncate pg_temp.chosen")


def now(connection: psycopg.Connection[Any]) -> int:
    """The database's clock, in milliseconds since 1970."""
    row = connection.execute("select (extract(epoch from clock_timestamp()) * 1000)::bigint").fetchone()
    return int(row[0]) if row else 0


def choose(connection: psycopg.Connection[Any], policy: RetentionPolicy) -> Seen:
    """Fill `chosen` with what one policy chooses; what an earlier policy has chosen stays with that."""
    spec, name, moment = policy.spec, policy.metadata.name, now(connection)
    found = Seen()
    active, deleted = [], []
    for experiment in _experiments(connection):
        if experiment.name in RESERVED_NAMES or not rules.selects(spec.selector, experiment):
            continue
        found.names[experiment.id] = experiment.name
        if rules.pins(experiment.tags.get(spec.pinTag)):
            found.kept["pinned experiment"] += 1
        elif experiment.deleted_at is None:
            active.append(experiment.id)
        else:
            deleted.append((experiment.id, experiment.deleted_at))
    chooser = _Chooser(connection, name, spec, moment, found)
    every = sorted([*active, *(e for e, _ in deleted)])
    found.seen["experiment"] = len(found.names)
    for kind, query in _COUNTS.items():
        row = connection.execute(query, (list(found.names),)).fetchone()
        found.seen[kind] = row[0] if row else 0
    chooser.experiments(deleted)
    for start in range(0, len(every), 500):
        chooser.runs(every[start : start + 500])
        chooser.logged_models(every[start : start + 500])
        chooser.traces(every[start : start + 500])
    chooser.spare_parents()
    chooser.versions()
    return found


def _experiments(connection: psycopg.Connection[Any]) -> Iterator[rules.Experiment]:
    for row in connection.execute(_EXPERIMENTS).fetchall():
        deleted = None if row[3] == "active" else row[4] or 0
        yield rules.Experiment(row[0], row[1], row[2], row[5], deleted)


def _held(row: Sequence[Any]) -> Held | None:
    chosen_at, stamp, ripe, kept = row
    return None if chosen_at is None else Held(int(chosen_at), stamp, ripe, kept)


@dataclass
class _Chooser:
    connection: psycopg.Connection[Any]
    policy: str
    spec: RetentionPolicySpec
    now: int
    found: Seen

    @property
    def abandoned(self) -> int | None:
        return abandoned_before(self.spec, self.now)

    def rows(self, query: str, **values: Any) -> Iterator[list[Any]]:
        """The answer in lists of some thousand rows, from a cursor in the server."""
        with self.connection.transaction(), self.connection.cursor(name="retention") as cursor:
            cursor.execute(query, {"wait": seconds(self.spec.quarantine), **values})
            while rows := cursor.fetchmany(_ROWS):
                yield rows

    def experiments(self, deleted: Sequence[tuple[int, int]]) -> None:
        """Whole experiments, with everything in them, unless a part of them must stay."""
        if self.spec.rules.experiments is None:
            return
        age = seconds(self.spec.rules.experiments.softDeletedFor) * 1000
        for experiment, at in deleted:
            if experiment == 0 or self.now - at < age:  # 0: mlflow/store/tracking, DEFAULT_EXPERIMENT_ID
                continue
            reason = self.child_to_keep(experiment)
            if reason:
                self.found.kept[f"experiment with a child to keep: {reason}"] += 1
                continue
            self.note(
                "experiment", [(str(experiment), experiment, Choice("purge", "softDeletedFor"), at, None)]
            )
            for kind, query in _CHILDREN.items():
                for rows in self.rows(query, experiments=[experiment]):
                    choice = Choice("purge", "experiment")
                    self.note(kind, [(i, experiment, choice, at, uri) for i, uri in rows])

    def child_to_keep(self, experiment: int) -> str | None:
        """Why an experiment cannot go as a whole: an active run, or a protected run, logged model or trace.

        The stage of a logged model says nothing: it stays active when its experiment is deleted
        (mlflow/store/tracking/sqlalchemy_store.py, `delete_experiment`).
        """
        live = "select from public.runs where experiment_id = %s and lifecycle_stage = 'active' limit 1"
        if self.connection.execute(live, (experiment,)).fetchone() is not None:
            return "an active run"
        for kind, query in _CHILDREN.items():
            for rows in self.rows(query, experiments=[experiment]):
                reasons = self.protected(kind, [row[0] for row in rows])
                if reasons:
                    return next(iter(reasons.values()))
        return None

    def runs(self, experiments: list[int]) -> None:
        chosen = self.spec.rules.runs
        if chosen is None:
            return
        best = chosen.keepBest
        values = {"metric": best.metric if best else None, "sign": -1 if best and best.order == "min" else 1}
        for rows in self.rows(_RUNS, experiments=experiments, **values):
            picked = []
            for row in rows:
                run = rules.Run(
                    row[0], row[2], row[3], row[4], row[5], row[6], row[8], row[9], _held(row[10:])
                )
                choice = rules.choose_run(chosen, run, self.now)
                if choice is not None:
                    picked.append((run.id, row[1], choice, run.deleted_at, row[7]))
            self.pick("run", picked)

    def logged_models(self, experiments: list[int]) -> None:
        chosen = self.spec.rules.loggedModels
        if chosen is None:
            return
        for rows in self.rows(_MODELS, experiments=experiments):
            picked = []
            for row in rows:
                model = rules.LoggedModel(row[0], row[2], row[3], row[4], _held(row[6:]))
                choice = rules.choose_logged_model(chosen, model, self.now)
                if choice is not None:
                    picked.append((model.id, row[1], choice, None if model.active else model.changed, row[5]))
            self.pick("logged model", picked)

    def traces(self, experiments: list[int]) -> None:
        chosen = self.spec.rules.traces
        if chosen is None:
            return
        until = self.now - seconds(chosen.olderThan) * 1000
        for rows in self.rows(_TRACES, experiments=experiments, until=until):
            picked = [(r[0], r[1], Choice("purge", "olderThan"), r[2], None) for r in rows]
            self.pick("trace", picked)

    def versions(self) -> None:
        chosen = self.spec.rules.modelVersions
        if chosen is None:
            return
        spaces = self.spec.selector.workspaces
        for rows in self.rows(_VERSIONS, pin=self.spec.pinTag, prompt=_PROMPT):
            picked = []
            for row in rows:
                workspace, name, number = row[:3]
                if not rules.matches(chosen.models, name) or (spaces and workspace not in spaces):
                    continue
                self.found.seen["version"] += 1
                version = rules.Version(name, number, row[3], row[5], row[4], row[6], _held(row[8:]))
                choice = rules.choose_version(chosen, version, self.now)
                if choice is not None and row[7]:
                    self.found.kept["pinned"] += 1
                elif choice is not None:
                    picked.append((f"{workspace}/{name}/{number}", None, choice, None, None))
            self.note("version", picked)

    def pick(
        self, kind: str, picked: Sequence[tuple[str, int | None, Choice, int | None, str | None]]
    ) -> None:
        """Note those that nothing protects."""
        reasons = self.protected(kind, [item[0] for item in picked])
        # Whether a child is live is known when all are chosen.
        reasons = {i: why for i, why in reasons.items() if why != "parent of a live run"}
        self.found.kept.update(reasons.values())
        self.note(kind, [item for item in picked if item[0] not in reasons])

    def protected(self, kind: str, ids: Sequence[str]) -> dict[str, str]:
        return protected(
            self.connection, kind, ids, pin=self.spec.pinTag, abandoned=self.abandoned, choosing=True
        )

    def note(
        self, kind: str, items: Iterable[tuple[str, int | None, Choice, int | None, str | None]]
    ) -> None:
        rows = list(items)
        self.connection.execute(
            "insert into pg_temp.chosen select %s, %s, c.* from unnest(%s::text[], %s::int[], %s::text[],"
            " %s::text[], %s::bool[], %s::bigint[], %s::text[]) as c on conflict do nothing",
            (
                self.policy,
                kind,
                [r[0] for r in rows],
                [r[1] for r in rows],
                [r[2].action for r in rows],
                [r[2].rule for r in rows],
                [r[2].new for r in rows],
                [r[3] for r in rows],
                [r[4] for r in rows],
            ),
        )

    def spare_parents(self) -> None:
        """Take out parents of runs that stay; whoever is taken out may be the child of another parent."""
        spared = -1
        while spared:
            spared = self.connection.execute(
                "delete from pg_temp.chosen p where p.kind = 'run' and p.rule <> 'experiment'"
                " and p.policy = %s and exists (select from public.tags t join public.runs c"
                " on c.run_uuid = t.run_uuid where t.key = 'mlflow.parentRunId' and t.value = p.id"
                " and c.lifecycle_stage = 'active' and not exists (select from pg_temp.chosen x"
                " where x.kind = 'run' and x.id = c.run_uuid))",
                (self.policy,),
            ).rowcount
            self.found.kept["parent of a live run"] += spared


#: What is in an experiment: ids and artifact locations.
_CHILDREN = {
    "run": "select run_uuid, artifact_uri from public.runs where experiment_id = any(%(experiments)s)",
    "logged model": "select model_id, artifact_location from public.logged_models"
    " where experiment_id = any(%(experiments)s)",
    "trace": "select request_id, null from public.trace_info where experiment_id = any(%(experiments)s)",
}


_COUNTS = {
    "run": "select count(*) from public.runs where experiment_id = any(%s)",
    "logged model": "select count(*) from public.logged_models where experiment_id = any(%s)",
    "trace": "select count(*) from public.trace_info where experiment_id = any(%s)",
}


def abandoned_before(spec: RetentionPolicySpec, moment: int) -> int | None:
    """Runs that began before this time (ms) and say RUNNING count as failed; None: no run does."""
    after = spec.rules.runs.abandonedAfter if spec.rules.runs else None
    return moment - seconds(after) * 1000 if after else None
