"""What the steps compute, and how their values become files; knows neither Dagster nor MLflow."""

LIBRARIES = {
    "fsspec": "fsspec",
    "google": "protobuf",
    "keras": "keras",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "pydantic": "pydantic",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tf2onnx": "tf2onnx",
    "typing_extensions": "typing-extensions",
}
"""Import name -> distribution of every library that `contract/` and `ml/` import: their versions are part of the
fingerprint of a result. A test compares it with the import statements."""
