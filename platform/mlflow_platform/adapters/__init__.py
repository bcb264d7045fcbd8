"""The only code that talks to the outside: MLflow, Kubernetes."""
