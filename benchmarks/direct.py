"""Calls the functions of the graph in sequence in one process, without Dagster, to measure the cost of orchestration.

    python -m benchmarks.direct --data FOLDER --home FOLDER [--settings JSON]

Prints one JSON object: seconds from start to end and the accuracy on the test split.
"""

import argparse
import json
import time
from pathlib import Path

from jukebox_orch.ml.artifact_formats import format_of
from jukebox_orch.ml.artifacts import SourcedDataset
from jukebox_orch.ml.evaluation import evaluate
from jukebox_orch.ml.features import make_features
from jukebox_orch.ml.onnx_export import export
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.ml.training import train
from jukebox_orch.projects.jukebox import Jukebox, JukeboxSource, JukeboxSplit
from jukebox_orch.registry import tracking
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.promotion import promote
from jukebox_orch.registry.registration import RegistrationRequest, add_version
from jukebox_orch.storage.model_store import ModelStore


def main() -> None:
    """Run the functions and print the figures."""
    started = time.perf_counter()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--settings", default="{}", help="hyperparameters as JSON")
    options = parser.parse_args()
    project = Jukebox()
    hyperparameters = project.hyperparameters(**json.loads(options.settings))
    mlflow = MlflowResource(
        tracking_uri=f"sqlite:///{options.home}/mlflow.db", artifact_root=str(options.home / "mlflow")
    )
    store = ModelStore(root=str(options.home / "models"))
    client = mlflow.client()
    run_id = client.create_run(client.create_experiment("direct", str(options.home / "mlflow"))).info.run_id

    tables = project.load(JukeboxSource(location=options.data))
    dataset = SourcedDataset(tables, origin=None)
    digest = format_of(dataset).digest(dataset)
    project.validate(tables)
    features = make_features(project, dataset, digest, JukeboxSplit(), 42)
    model = train(project, features, hyperparameters, 42, lambda line: None)
    tracking.log_training(mlflow, run_id, model, hyperparameters.model_dump(), {})
    report, _ = evaluate(project, model, features, None, project.gates())
    tracking.log_evaluation(mlflow, run_id, report.test.metrics, {}, {})
    onnx = export(project, model, features.features)
    predictor = OnnxPredictor(onnx.content)
    feed = features.features.raw(features.features.test, slice(2))
    example = {
        "inputs": {name: value.tolist() for name, value in feed.items()},
        "outputs": {"probabilities": predictor.predict(feed).tolist()},
    }
    added = add_version(
        mlflow,
        store,
        RegistrationRequest(
            "direct",
            onnx,
            run_id,
            lambda: tracking.log_onnx(mlflow, run_id, onnx, feed, report.test.metrics),
            lambda _: {"example.json": json.dumps(example).encode()},
            {},
            "",
        ),
    )
    promote(mlflow, "direct", added.number, aliases=["staging"], by="benchmark", why="first")
    accuracy = report.test.metrics["accuracy"]
    print(json.dumps({"seconds": time.perf_counter() - started, "accuracy": accuracy}))


if __name__ == "__main__":
    main()
