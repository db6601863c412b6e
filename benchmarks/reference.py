"""Plain script from songs and rankings to a checked ONNX file, for comparison: row by row, without aggregation.

    python benchmarks/reference.py --data FOLDER

Merges every ranking with its song's features into one matrix, fits two epochs, predicts and checks every test row.
Split, network and packages are the product's defaults: the last day is the test split, the day before the validation
split; 2 x 256 units. Everything else is a default of Keras. Prints one JSON object: seconds, bytes, accuracy over the
test rows, difference between Keras and ONNX.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FEATURES = [
    "is_explicit",
    "duration_ms",
    "danceability",
    "energy",
    "key",
    "loudness",
    "mode",
    "speechiness",
    "acousticness",
    "instrumentalness",
    "liveness",
    "valence",
    "tempo",
]


def main() -> None:
    """Run the script and print the figures."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with songs and rankings in Parquet")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32, help="of a gradient step; Keras' own default")
    parser.add_argument("--seed", type=int, default=42)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options.data, Path(folder), options.epochs, options.batch_size, options.seed)
        figures["bytes_written"] = sum(file.stat().st_size for file in Path(folder).rglob("*"))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures["wall_seconds"] = time.perf_counter() - started
    figures["cpu_seconds"] = usage.ru_utime + usage.ru_stime
    figures["peak_rss_bytes"] = usage.ru_maxrss * 1024  # Linux counts KiB
    print(json.dumps(figures))


def run(data: Path, folder: Path, epochs: int, batch_size: int, seed: int) -> dict[str, Any]:
    """Train on `data`, write model.keras and model.onnx to `folder`, return accuracy and parity."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras

    keras.utils.set_random_seed(seed)
    rows = read(data)
    labels = sorted(rows["country"].unique())
    days = np.sort(rows["snapshot_date"].unique())
    train, validation, test = (
        rows[rows["snapshot_date"] < days[-2]],
        rows[rows["snapshot_date"] == days[-2]],
        rows[rows["snapshot_date"] == days[-1]],
    )
    raw = train[FEATURES].to_numpy(dtype=np.float64)
    mean, deviation = raw.mean(axis=0), raw.std(axis=0)
    x_train, x_validation, x_test = (
        ((split[FEATURES].to_numpy(dtype=np.float64) - mean) / deviation).astype(np.float32)
        for split in (train, validation, test)
    )
    y_train, y_validation, y_test = (
        pd.Index(labels).get_indexer(pd.Index(split["country"])) for split in (train, validation, test)
    )

    inputs = keras.Input((len(FEATURES),), name="features")
    hidden = keras.layers.Dense(256, activation="relu")(inputs)
    hidden = keras.layers.Dense(256, activation="relu")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(len(labels), activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(
        x_train,
        y_train,
        validation_data=(x_validation, y_validation),
        epochs=epochs,
        batch_size=batch_size,
        verbose=0,  # pyright: ignore[reportArgumentType] # Keras annotates its default only
    )
    predicted = model.predict(x_test, verbose=0)  # pyright: ignore[reportArgumentType]
    model.save(folder / "model.keras")
    by_onnx = onnx_predictions(model, folder / "model.onnx", x_test)
    return {
        "train_rows": len(train),
        "test_rows": len(test),
        "accuracy": float((predicted.argmax(axis=1) == y_test).mean()),
        "onnx_max_difference": float(np.abs(predicted - by_onnx).max()),
        "onnx_same_prediction": float((predicted.argmax(axis=1) == by_onnx.argmax(axis=1)).mean()),
    }


def read(data: Path) -> pd.DataFrame:
    """Return every ranking of a country with the features of its song."""
    songs = pd.read_parquet(data / "song_properties.parquet")
    rankings = pd.read_parquet(data / "song_rankings.parquet")
    rankings = rankings.astype({"spotify_id": "str", "country": "str"})
    return rankings[rankings["country"].notna()].merge(songs, on="spotify_id", validate="m:1")


def onnx_predictions(model: Any, file: Path, x: np.ndarray) -> np.ndarray:
    """Convert `model` to the ONNX file `file` and return its predictions for `x` (n, 13)."""
    import onnxruntime
    import tensorflow as tf
    import tf2onnx

    model.output_names = ["probabilities"]
    signature = [tf.TensorSpec((None, x.shape[1]), tf.float32, name="features")]
    tf2onnx.convert.from_keras(model, signature, opset=18, output_path=str(file))
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"features": x})[0])


if __name__ == "__main__":
    main()
