"""The transactions: quarantine, and purge of a batch's rows with the journal entries of its objects.

Ids go as arrays; rows are locked in the order of their ids, experiments before runs and trace_info before
spans, as the server locks them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow_platform.retention import journal, rows
from mlflow_platform.retention.choose import now
from mlflow_platform.retention.journal import Entry
from mlflow_platform.retention.transaction import Batch, Item, Transaction


@dataclass(frozen=True)
class Purger(Transaction):
    """The transactions of one policy."""

    def carry_out(self, kind: str, action: str, items: Sequence[Item]) -> Batch:
        """Quarantine or purge a batch of one kind in one transaction, or compare it with its archive."""
        work: Callable[[Sequence[Item], Batch], None] = {
            ("run", "quarantine"): self._quarantine_runs,
            ("run", "purge"): self._purge_runs,
            ("logged model", "quarantine"): self._quarantine_models,
            ("logged model", "purge"): self._purge_models,
            ("trace", "purge"): self._purge_traces,
            ("version", "quarantine"): self._quarantine_versions,
            ("version", "purge"): self._purge_versions,
            ("experiment", "purge"): self._purge_experiments,
            (kind, "compare"): lambda items, batch: self._compare(kind, items, batch),
        }[kind, action]
        batch = Batch()
        self.step(f"{action} {kind}: begin")
        with self.connection.transaction():
            journal.check_unchanged(self.connection, self.installation)
            work(items, batch)
            self.step(f"{action} {kind}: before commit")
        self.step(f"{action} {kind}: committed")
        return batch

    # Runs

    def _quarantine_runs(self, items: Sequence[Item], batch: Batch) -> None:
        ids = [i.id for i in items]
        live = self._ids(
            "select run_uuid from public.runs where run_uuid = any(%s) and lifecycle_stage = 'active'"
            " order by run_uuid for update",
            ids,
        )
        left = self._unprotected("run", [i for i in items if i.id in live], batch, choosing=True)
        self._changed("run", items, live, batch)
        stamp = now(self.connection)
        # Not as MLflow's delete_run, which also deletes the assessments that name the run: those go with the
        # purge, so that a restored run is whole.
        self.connection.execute(
            "update public.runs set lifecycle_stage = 'deleted', deleted_time = %s where run_uuid = any(%s)",
            (stamp, [i.id for i in left]),
        )
        self._hold("run", left, stamp)
        batch.done += left

    def _purge_runs(self, items: Sequence[Item], batch: Batch) -> None:
        items = self._of_deleted_experiments(items, batch)
        found = dict(
            self.connection.execute(
                "select run_uuid, artifact_uri from public.runs where run_uuid = any(%s)"
                " and lifecycle_stage = 'deleted' and (deleted_time is not distinct from"
                " (%s::jsonb ->> run_uuid)::bigint or (%s::jsonb ? run_uuid)) order by run_uuid for update",
                ([i.id for i in items], _stamps(items), _whole(items)),
            ).fetchall()
        )
        self._lock_versions()
        left = [i for i in items if i.id in found]
        self._changed("run", items, found, batch)
        left = self._archived("run", self._unprotected("run", left, batch), batch)
        models = self.connection.execute(
            "select model_id, artifact_location, source_run_id, experiment_id from public.logged_models"
            " where source_run_id = any(%s) order by model_id for update",
            ([i.id for i in left],),
        ).fetchall()
        entries: dict[str, list[Entry]] = {i.id: [] for i in left}
        lost: dict[str, str] = {}
        for item in left:
            self._place("run", item.id, found[item.id], item.experiment, entries[item.id], item.id, lost)
        for model, uri, run, experiment in models:
            self._place("logged model", model, uri, experiment, entries[run], run, lost)
        left = self._reachable(left, lost, batch)
        ids = [i.id for i in left]
        journal.write(self.connection, self.policy.metadata.name, [e for i in ids for e in entries[i]])
        held = self._ids("select id from mlplatform.quarantine where kind = 'run' and id = any(%s)", ids)
        if held:
            self._delete_assessments_of_runs(sorted(held), batch)
        gone = [m[0] for m in models if m[2] not in lost]
        self._delete(batch, rows.RUN_ROWS, ids)
        self._delete(batch, rows.MODEL_ROWS, gone)
        self._delete(batch, {"runs": "run_uuid = any(%s)"}, ids)
        batch.done += left

    def _delete_assessments_of_runs(self, ids: list[str], batch: Batch) -> None:
        """As MLflow's delete_run: assessments name the run that made them in their metadata, as JSON text
        (mlflow/tracing/constant.py: AssessmentMetadataKey.SOURCE_RUN_ID)."""
        condition = (
            "assessment_metadata like '%%\"mlflow.assessment.sourceRunId\"%%' and"
            " substring(assessment_metadata from"
            ' \'"mlflow.assessment.sourceRunId": "([0-9a-f]{32})"\') = any(%s)'
        )
        self._invalidate(
            f"select distinct experiment_id, trace_timestamp_ms from public.assessments where {condition}",
            ids,
            ("assessment",),
        )
        self._delete(batch, {"assessments": condition}, ids)

    # Logged models

    def _quarantine_models(self, items: Sequence[Item], batch: Batch) -> None:
        live = self._ids(
            "select model_id from public.logged_models where model_id = any(%s)"
            " and lifecycle_stage is distinct from 'deleted' order by model_id for update",
            [i.id for i in items],
        )
        left = self._unprotected("logged model", [i for i in items if i.id in live], batch)
        self._changed("logged model", items, live, batch)
        stamp = now(self.connection)
        self.connection.execute(
            "update public.logged_models set lifecycle_stage = 'deleted', last_updated_timestamp_ms = %s"
            " where model_id = any(%s)",
            (stamp, [i.id for i in left]),
        )
        self._hold("logged model", left, stamp)
        batch.done += left

    def _purge_models(self, items: Sequence[Item], batch: Batch) -> None:
        items = self._of_deleted_experiments(items, batch)
        found = dict(
            self.connection.execute(
                "select model_id, artifact_location from public.logged_models where model_id = any(%s)"
                " and ((lifecycle_stage = 'deleted' and last_updated_timestamp_ms ="
                " (%s::jsonb ->> model_id)::bigint) or (%s::jsonb ? model_id)) order by model_id for update",
                ([i.id for i in items], _stamps(items), _whole(items)),
            ).fetchall()
        )
        self._lock_versions()
        left = [i for i in items if i.id in found]
        self._changed("logged model", items, found, batch)
        left = self._archived("logged model", self._unprotected("logged model", left, batch), batch)
        entries: dict[str, list[Entry]] = {i.id: [] for i in left}
        lost: dict[str, str] = {}
        for item in left:
            self._place(
                "logged model", item.id, found[item.id], item.experiment, entries[item.id], item.id, lost
            )
        left = self._reachable(left, lost, batch)
        ids = [i.id for i in left]
        journal.write(self.connection, self.policy.metadata.name, [e for i in ids for e in entries[i]])
        self._delete(batch, rows.MODEL_ROWS, ids)
        batch.done += left

    # Traces

    def _purge_traces(self, items: Sequence[Item], batch: Batch) -> None:
        items = self._of_deleted_experiments(items, batch)
        ids = [i.id for i in items]
        # Rebuilds first: whoever publishes a rollup locks its queue entry before the traces
        # (mlflow/store/tracking/utils/sql_trace_rollups.py, `enqueue_rollup_rebuild_partitions`).
        self._invalidate(
            "select distinct experiment_id, timestamp_ms from public.trace_info where request_id = any(%s)",
            ids,
            ("trace_metric", "span_cost", "assessment"),
        )
        found = self._ids(
            "select request_id from public.trace_info where request_id = any(%s)"
            " and (timestamp_ms = (%s::jsonb ->> request_id)::bigint or (%s::jsonb ? request_id))"
            " order by request_id for update",
            ids,
            _stamps(items),
            _whole(items),
        )
        left = [i for i in items if i.id in found]
        self._changed("trace", items, found, batch)
        left = self._archived("trace", self._unprotected("trace", left, batch), batch)
        entries: dict[str, list[Entry]] = {i.id: [] for i in left}
        lost: dict[str, str] = {}
        locations = self.connection.execute(
            "select request_id, value from public.trace_tags where request_id = any(%s)"
            " and key in ('mlflow.artifactLocation', 'mlflow.trace.archiveLocation')",
            ([i.id for i in left],),
        ).fetchall()
        experiments = {i.id: i.experiment for i in left}
        for trace, uri in locations:
            self._place("trace", trace, uri, experiments[trace], entries[trace], trace, lost)
        for trace, noted in entries.items():
            if not noted and trace not in lost:
                noted.append(Entry("trace", trace, "", experiments[trace], None, None))
        left = self._reachable(left, lost, batch)
        ids = [i.id for i in left]
        journal.write(self.connection, self.policy.metadata.name, [e for i in ids for e in entries[i]])
        self._delete(batch, rows.TRACE_ROWS, ids)
        batch.done += left

    def _invalidate(self, query: str, ids: Sequence[str], families: Sequence[str]) -> None:
        """Queue rebuilds of the daily rollups that there are for these rows (experiment, milliseconds)."""
        tables = {
            "trace_metric": "sql_trace_metric_daily_rollups",
            "span_cost": "sql_span_cost_daily_rollups",
            "assessment": "sql_assessment_daily_rollups",
        }
        for family in families:
            self.connection.execute(
                "insert into public.sql_trace_rollup_rebuild_queue (experiment_id, rollup_day, rollup_family)"
                f" select distinct r.experiment_id, r.rollup_day, %s from ({query}) as t(experiment_id, at)"
                f" join public.{tables[family]} r on r.experiment_id = t.experiment_id"
                " and r.rollup_day between (to_timestamp(t.at / 1000) at time zone 'utc')::date"
                " and (to_timestamp(t.at / 1000) at time zone 'utc')::date + 1 order by 1, 2"
                " on conflict do nothing",
                (family, list(ids)),
            )

    # Versions

    def _quarantine_versions(self, items: Sequence[Item], batch: Batch) -> None:
        self._hold("version", items, None)
        batch.done += items

    def _purge_versions(self, items: Sequence[Item], batch: Batch) -> None:
        """Rows go, never the highest one, tombstone or not: MLflow counts on from it, and numbers would come
        again (mlflow/store/model_registry/sqlalchemy_store.py, `create_model_version`)."""
        self._lock_versions()
        self.connection.execute("lock table public.registered_model_aliases in share row exclusive mode")
        keys = [i.id.split("/") for i in items]
        free = self._ids(
            "select v.workspace || '/' || v.name || '/' || v.version from public.model_versions v"
            " join unnest(%s::text[], %s::text[], %s::int[]) as w(workspace, name, version)"
            " using (workspace, name, version)"
            " where coalesce(v.current_stage, 'None') = 'None' and not exists"
            " (select from public.registered_model_aliases a where a.workspace = v.workspace"
            "  and a.name = v.name and a.version = v.version)"
            " and not exists (select from public.model_version_tags t where t.workspace = v.workspace"
            "  and t.name = v.name and t.version = v.version and t.key = %s"
            "  and lower(t.value) is distinct from 'false')"
            " and v.version < (select max(x.version) from public.model_versions x"
            "  where x.workspace = v.workspace and x.name = v.name) for update",
            [k[0] for k in keys],
            [k[1] for k in keys],
            [int(k[2]) for k in keys],
            self.policy.spec.pinTag,
        )
        left = [i for i in items if i.id in free]
        batch.kept["behind an alias, in a stage, pinned, or the newest"] += len(items) - len(left)
        left = self._archived("version", left, batch)
        ids = [i.id for i in left]
        name = self.policy.metadata.name
        journal.write(self.connection, name, [Entry("version", i, "", None, None, None) for i in ids])
        self._delete(
            batch,
            dict.fromkeys(
                ("model_version_tags", "model_versions"),
                "workspace || '/' || name || '/' || version = any(%s)",
            ),
            ids,
        )
        self.connection.execute(
            "delete from mlplatform.quarantine where kind = 'version' and id = any(%s)", (ids,)
        )
        batch.done += left

    # Experiments

    def _purge_experiments(self, items: Sequence[Item], batch: Batch) -> None:
        """The experiment itself, when all that was in it has gone."""
        items = self._of_deleted_experiments(
            [Item(i.id, int(i.id), "experiment", i.stamp) for i in items], batch
        )
        ids = [int(i.id) for i in items]
        full = {
            row[0]
            for row in self.connection.execute(
                "select experiment_id from public.runs where experiment_id = any(%s) union"
                " select experiment_id from public.logged_models where experiment_id = any(%s) union"
                " select experiment_id from public.trace_info where experiment_id = any(%s)",
                (ids, ids, ids),
            )
        }
        batch.kept["experiment that is not empty"] += len(full)
        left = self._archived("experiment", [i for i in items if int(i.id) not in full], batch)
        ids = [int(i.id) for i in left]
        name = self.policy.metadata.name
        journal.write(
            self.connection, name, [Entry("experiment", i.id, "", int(i.id), None, None) for i in left]
        )
        self._delete(batch, rows.EXPERIMENT_ROWS, ids)
        batch.done += left


def _stamps(items: Sequence[Item]) -> str:
    import json

    return json.dumps({i.id: i.stamp for i in items if i.rule != "experiment"})


def _whole(items: Sequence[Item]) -> str:
    import json

    return json.dumps({i.id: None for i in items if i.rule == "experiment"})
