"""Child program: bring both of MLflow's databases to the installed MLflow's schema.

The same steps as `mlflow db upgrade` and `mlflow.server.auth db upgrade`, which take the URI with its
password as an argument that every user of the machine can read. Here it comes from the environment:
MLPLATFORM_TRACKING_DB and MLPLATFORM_AUTH_DB.
"""

from __future__ import annotations

import os


def main() -> None:
    import mlflow.store.db.utils as tracking
    import psycopg
    import sqlalchemy
    from mlflow.server.auth.db import utils as auth

    from mlflow_platform.server.schemas import build_indexes

    # mlflow/db.py, `upgrade`
    engine = tracking.create_sqlalchemy_engine_with_retry(os.environ["MLPLATFORM_TRACKING_DB"])
    if tracking._is_empty_database(engine):
        tracking._initialize_tables(engine)
    else:
        tracking._upgrade_db(engine)
    engine.dispose()
    uri = os.environ["MLPLATFORM_TRACKING_DB"].replace("+psycopg", "", 1)
    with psycopg.connect(uri, autocommit=True) as connection:
        build_indexes(connection)

    # mlflow/server/auth/db/cli.py, `upgrade`
    engine = sqlalchemy.create_engine(os.environ["MLPLATFORM_AUTH_DB"])
    auth.migrate(engine, "head")
    engine.dispose()


if __name__ == "__main__":
    main()
