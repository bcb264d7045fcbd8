"""The embedded stack: Postgres and S3 from wheels, MLflow with basic authentication."""
