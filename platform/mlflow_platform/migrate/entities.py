"""What MLflow's API tells, as rows: the entities of its client, written in its own classes of rows."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: As mlflow/store/tracking/sqlalchemy_store.py stores infinities.
_INFINITE = 1.7976931348623157e308
#: Of ids that the API does not tell, which `settle_ids` replaces when all is read.
_NAMESPACE = uuid.UUID("0c7c0d1a-91d2-4a5f-8a07-6b0a4a4c6d52")


def add_run(session: Session, experiment: int, run: Any) -> None:
    """A run with the last values of its metrics."""
    from mlflow.store.tracking.dbmodels import models as rows

    info, own = run.info, run.info.run_id
    tags = run.data.tags
    deleted = info.lifecycle_stage == "deleted"
    session.add(
        rows.SqlRun(
            run_uuid=own,
            name=info.run_name,
            source_type=_source_type(tags.get("mlflow.source.type")),
            source_name=(tags.get("mlflow.source.name") or "")[:500],
            entry_point_name=(tags.get("mlflow.project.entryPoint") or "")[:50],
            source_version=(tags.get("mlflow.source.git.commit") or "")[:50],
            user_id=info.user_id,
            status=info.status,
            start_time=info.start_time,
            end_time=info.end_time,
            lifecycle_stage=info.lifecycle_stage,
            deleted_time=(info.end_time or info.start_time) if deleted else None,
            artifact_uri=info.artifact_uri,
            experiment_id=experiment,
        )
    )
    session.flush()
    session.add_all(rows.SqlParam(key=k, value=v, run_uuid=own) for k, v in run.data.params.items())
    session.add_all(rows.SqlTag(key=k, value=v, run_uuid=own) for k, v in tags.items())
    for last in run.data._metric_objs:
        nan, value = _stored(last.value)
        session.add(
            rows.SqlLatestMetric(
                key=last.key, run_uuid=own, timestamp=last.timestamp, step=last.step, is_nan=nan, value=value
            )
        )
        add_metrics(session, own, last.key, [last])
    _add_inputs(session, experiment, run)
    session.flush()
    session.expunge_all()


def add_metrics(session: Session, run: str, key: str, history: Iterable[Any]) -> None:
    """Some of the history of a metric; what is there already is passed over."""
    from mlflow.store.tracking.dbmodels import models as rows

    found = [(m.timestamp, m.step, *_stored(m.value)) for m in history]
    if found:
        session.execute(
            rows.SqlMetric.__table__.insert().prefix_with("or ignore"),
            [
                {"key": key, "run_uuid": run, "timestamp": at, "step": step, "is_nan": nan, "value": value}
                for at, step, nan, value in found
            ],
        )


def _add_inputs(session: Session, experiment: int, run: Any) -> None:
    from mlflow.store.tracking.dbmodels import models as rows

    own = run.info.run_id
    for one in run.inputs.dataset_inputs if run.inputs else ():
        data = one.dataset
        dataset = _id("dataset", experiment, data.name, data.digest)
        session.merge(
            rows.SqlDataset(
                dataset_uuid=dataset,
                experiment_id=experiment,
                name=data.name,
                digest=data.digest,
                dataset_source_type=data.source_type,
                dataset_source=data.source,
                dataset_schema=data.schema,
                dataset_profile=data.profile,
            )
        )
        tags = {tag.key: tag.value for tag in one.tags}
        _add_input(session, ("DATASET", dataset, "RUN", own), tags=tags)
    for model in (getattr(run.inputs, "model_inputs", None) or ()) if run.inputs else ():
        _add_input(session, ("RUN_INPUT", own, "MODEL_INPUT", model.model_id))
    outputs = getattr(run, "outputs", None)
    for model in outputs.model_outputs if outputs else ():
        _add_input(session, ("RUN_OUTPUT", own, "MODEL_OUTPUT", model.model_id), step=model.step)


def _add_input(
    session: Session, key: tuple[str, str, str, str], *, tags: dict[str, str] | None = None, step: int = 0
) -> None:
    from mlflow.store.tracking.dbmodels import models as rows

    own = _id(*key)
    session.add(
        rows.SqlInput(
            input_uuid=own,
            source_type=key[0],
            source_id=key[1],
            destination_type=key[2],
            destination_id=key[3],
            step=step,
        )
    )
    session.add_all(rows.SqlInputTag(input_uuid=own, name=k, value=v) for k, v in (tags or {}).items())


def add_model(session: Session, experiment: int, one: Any) -> None:
    """A logged model."""
    from mlflow.entities.logged_model_status import LoggedModelStatus
    from mlflow.store.tracking.dbmodels import models as rows

    here = {"model_id": one.model_id, "experiment_id": experiment}
    session.add(
        rows.SqlLoggedModel(
            **here,
            name=one.name,
            artifact_location=one.artifact_location,
            creation_timestamp_ms=one.creation_timestamp,
            last_updated_timestamp_ms=one.last_updated_timestamp,
            status=LoggedModelStatus(one.status).to_int(),
            lifecycle_stage="active",  # the API does not tell of deleted ones
            model_type=one.model_type,
            source_run_id=one.source_run_id,
            status_message=one.status_message,
        )
    )
    session.flush()
    session.add_all(
        rows.SqlLoggedModelParam(**here, param_key=k, param_value=v) for k, v in one.params.items()
    )
    session.add_all(rows.SqlLoggedModelTag(**here, tag_key=k, tag_value=v) for k, v in one.tags.items())
    for metric in one.metrics or ():
        session.add(
            rows.SqlLoggedModelMetric(
                **here,
                metric_name=metric.key,
                metric_timestamp_ms=metric.timestamp,
                metric_step=metric.step,
                metric_value=metric.value,
                run_id=metric.run_id,
                dataset_name=metric.dataset_name,
                dataset_digest=metric.dataset_digest,
                dataset_uuid=_id("dataset", experiment, metric.dataset_name, metric.dataset_digest)
                if metric.dataset_name
                else None,
            )
        )
    session.flush()


def add_registered_model(session: Session, one: Any) -> None:
    """A registered model or a prompt, without its versions.

    The entities' `tags` hide those of prompts.
    """
    from mlflow.store.model_registry.dbmodels import models as rows

    session.add(
        rows.SqlRegisteredModel(
            name=one.name,
            creation_time=one.creation_timestamp,
            last_updated_time=one.last_updated_timestamp,
            description=one.description,
        )
    )
    session.flush()
    session.add_all(rows.SqlRegisteredModelTag(name=one.name, key=k, value=v) for k, v in one._tags.items())
    session.add_all(
        rows.SqlRegisteredModelAlias(name=one.name, alias=alias, version=int(version))
        for alias, version in one.aliases.items()
    )


def add_version(session: Session, version: Any, location: str) -> None:
    """A model version; `location` is where the server says that its files are."""
    from mlflow.store.model_registry.dbmodels import models as rows

    name, number = version.name, int(version.version)
    session.add(
        rows.SqlModelVersion(
            name=name,
            version=number,
            creation_time=version.creation_timestamp,
            last_updated_time=version.last_updated_timestamp,
            description=version.description,
            user_id=version.user_id,
            current_stage=version.current_stage,
            source=version.source,
            storage_location=location if location != version.source else None,
            run_id=version.run_id,
            run_link=version.run_link,
            status=version.status,
            status_message=version.status_message,
        )
    )
    session.flush()
    session.add_all(
        rows.SqlModelVersionTag(name=name, version=number, key=k, value=v) for k, v in version._tags.items()
    )


def _stored(value: float) -> tuple[bool, float]:
    """A metric's value as MLflow's tables have it: whether it is NaN, and the number."""
    if math.isnan(value):
        return True, 0.0
    if math.isinf(value):
        return False, math.copysign(_INFINITE, value)
    return False, value


def _source_type(name: str | None) -> str:
    """mlflow/entities/source_type.py: the table takes no other."""
    return name if name in ("NOTEBOOK", "JOB", "PROJECT", "LOCAL") else "UNKNOWN"


def _id(*key: object) -> str:
    return str(uuid.uuid5(_NAMESPACE, "\0".join(map(str, key))))
