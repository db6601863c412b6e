"""Models in MLflow: tracking, versions, registration and promotion."""
