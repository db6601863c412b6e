"""The model registry: MLflow tracking, versions, registration and promotion."""
