from mlflow_platform.cli import main

main()
