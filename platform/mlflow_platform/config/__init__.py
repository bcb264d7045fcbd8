"""YAML to documents and objects, with the place of every field kept for messages."""

from mlflow_platform.config.loading import Configuration, Loaded, load

__all__ = ["Configuration", "Loaded", "load"]
