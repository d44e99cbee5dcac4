"""From a suite's YAML to the trials it means. Imports neither torch nor MLflow."""
