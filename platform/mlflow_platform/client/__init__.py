"""Logging that never raises and never waits: calls are appended to a spool, one process delivers them.

`spool` keeps records on disk, `shipper` brings them to a tracking server, `store` is MLflow's tracking
store for the schemes `durable+...`. Nothing here imports mlflow before MLflow itself asks for a store.
"""
