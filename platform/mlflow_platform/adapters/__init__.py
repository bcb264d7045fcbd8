"""The only code that talks to the outside: MLflow, Postgres, S3."""
