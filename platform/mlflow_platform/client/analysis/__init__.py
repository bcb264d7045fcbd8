"""Runs and traces read back: searched, compared, judged against targets, drawn.

`reading` gets them from a tracking server, page by page; `filters` says what is wanted in MLflow's language;
everything else is pure: values in, tables and figures out. Nothing imports mlflow, pandas, scipy or
matplotlib before it is used.
"""
