"""The computations of the steps, and the file formats of their values. Does not depend on Dagster or MLflow."""

LIBRARIES = {
    "fsspec": "fsspec",
    "google": "protobuf",
    "keras": "keras",
    "numpy": "numpy",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "sklearn": "scikit-learn",
    "tensorflow": "tensorflow",
    "tf2onnx": "tf2onnx",
    "typing_extensions": "typing-extensions",
}
"""Import name -> distribution of every library that `contract/` and `ml/` import. Their versions are part of the
fingerprint of a result. A test compares this list with the import statements."""
