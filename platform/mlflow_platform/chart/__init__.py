"""The chart's renderer: values -> schema check -> templates -> manifests. Knows nothing of the rest."""

from mlflow_platform.chart.render import Chart, Manifest, Release, find_chart
from mlflow_platform.chart.values import Values

__all__ = ["Chart", "Manifest", "Release", "Values", "find_chart"]
