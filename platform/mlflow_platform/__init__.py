"""mlflow-platform: deploy MLflow, govern it from YAML, log to it without fear."""

__version__ = "0.1.0"
