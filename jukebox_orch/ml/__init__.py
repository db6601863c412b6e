"""What the steps compute, and how their values become files; knows neither Dagster nor MLflow."""
