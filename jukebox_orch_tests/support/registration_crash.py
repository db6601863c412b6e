"""Registers a model, or moves its champion, in one child process per point, and kills the child at that point.

Usage: `python -m jukebox_orch_tests.support.registration_crash <folder of a Deployment> [<MLflow URL>]`. One model per
point.
"""

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from mlflow import MlflowClient

from jukebox_orch.ml.artifacts import OnnxModel
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.registry import registration as subject
from jukebox_orch.registry import tracking
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.promotion import finish_interrupted, move_champion, promote
from jukebox_orch.registry.registration import RegistrationRequest, RegistrationResult, add_version
from jukebox_orch.storage import model_store, publishing
from jukebox_orch.storage.model_store import ModelStore
from jukebox_orch_tests.support.deployment import Deployment

# What versions of `blobs` are judged by, as their runs record it.
BASIS = {"dataset_name": "generated", "split_kind": "by share", "primary_metric": "accuracy"}

# Name -> owner, method, and whether the process is killed before or after the call.
POINTS = {
    "before the model is created": (MlflowClient, "create_registered_model", "before"),
    "after the model is created": (MlflowClient, "create_registered_model", "after"),
    "before the version is created": (MlflowClient, "create_model_version", "before"),
    "after the version is created": (MlflowClient, "create_model_version", "after"),
    "in the middle of the store's entry": (publishing, "file_digest", "before"),
    "after the store's entry": (model_store, "publish", "after"),
    "after the verification": (subject, "verify", "after"),
    "after the verified tag": (MlflowClient, "set_model_version_tag", "after"),
    "after the challenger": (MlflowClient, "set_registered_model_alias", "after"),
    "after the history": (MlflowClient, "set_registered_model_tag", "after"),
    "before the champion": (MlflowClient, "set_registered_model_alias", "before second"),
    "after the champion": (MlflowClient, "set_registered_model_alias", "after second"),
    "after the stage": (MlflowClient, "set_registered_model_alias", "after third"),
    "after the change is done": (MlflowClient, "set_registered_model_tag", "after second"),
}

CHANGE_POINTS = {
    "before the history": (MlflowClient, "set_registered_model_tag", "before"),
    "after the history": (MlflowClient, "set_registered_model_tag", "after"),
    "after the champion": (MlflowClient, "set_registered_model_alias", "after"),
    "after the other alias": (MlflowClient, "set_registered_model_alias", "after second"),
    "after the change is done": (MlflowClient, "set_registered_model_tag", "after second"),
}
CHANGES = {"rollback": "", "promote": "1"}
"""Job -> the version it names. Either makes version 1 champion in place of version 2."""


def model_of(point: str, change: str = "crash") -> str:
    return f"{change} {point}".replace(" ", "-").replace("'", "")


def register(
    mlflow: MlflowResource, store: ModelStore, onnx: OnnxModel, run_id: str, name: str
) -> RegistrationResult:
    """Register and promote a first version, as the asset `registered_model` does."""
    finish_interrupted(mlflow, store, name)
    added = add_version(mlflow, store, registration(mlflow, onnx, run_id, name))
    promote(mlflow, name, added.number, aliases=["staging"], by="test", why="first version")
    return added


def registration(
    mlflow: MlflowResource, onnx: OnnxModel, run_id: str, name: str, **tags: str
) -> RegistrationRequest:
    predictor = OnnxPredictor(onnx.content)
    inputs = {i: [[1.0], [2.0]] for i in predictor.inputs}
    feed = {i: np.asarray(value, np.float32) for i, value in inputs.items()}
    output = next(iter(onnx.report.outputs))
    example = {
        "inputs": inputs,
        "outputs": {output: np.asarray(predictor.session.run(None, feed)[0]).tolist()},
    }

    def files(number: str) -> Mapping[str, bytes]:
        return {
            "example.json": json.dumps(example).encode(),
            "labels.json": json.dumps(list(predictor.labels)).encode(),
            "README.md": f"version {number}".encode(),
        }

    return RegistrationRequest(
        model_name=name,
        onnx=onnx,
        mlflow_run_id=run_id,
        log_model=lambda: tracking.log_onnx(mlflow, run_id, onnx, feed, {"accuracy": 0.9}),
        files=files,
        tags={"features_digest": "f", "version_label": "1", **tags},
        description="A model.",
    )


def another(model: OnnxModel, mark: str) -> OnnxModel:
    """Return a model with the same predictions in a different file."""
    proto = onnx.load_model_from_string(model.content)
    onnx.helper.set_model_props(proto, {**model.report.metadata, "mark": mark})
    content = proto.SerializeToString()
    return OnnxModel(content, model.report.model_copy(update={"sha256": sha256(content).hexdigest()}))


def add(
    deployment: Deployment,
    mark: str,
    model: str = "blobs",
    champion: bool = True,
    base: OnnxModel | None = None,
) -> str:
    """Register a new version of the newest model, or of `base`, as a run does; return its number."""
    mlflow = deployment.mlflow()
    run_id = deployment.value("blobs/registered_model").mlflow_run_id
    made = another(base or deployment.value("blobs/onnx_model"), mark)
    added = add_version(
        mlflow, deployment.store(), registration(mlflow, made, run_id, model, project="blobs", **BASIS)
    )
    if champion:
        promote(mlflow, model, added.number, aliases=["production"], by=f"run {mark}", why="better")
    return added.number


def _die(owner: object, name: str, when: str) -> None:
    original, calls = getattr(owner, name), []
    number = {"second": 2, "third": 3}.get(when.rsplit(maxsplit=1)[-1], 1)

    @functools.wraps(original)
    def dying(*arguments, **named):
        calls.append(name)
        if when.startswith("before") and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*arguments, **named)
        if when.startswith("after") and len(calls) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, dying)


def two_champions(deployment: Deployment, onnx: OnnxModel, run_id: str, model: str) -> None:
    """Register two versions, each champion and in production in its turn."""
    for mark in ("first", "second"):
        request = registration(deployment.mlflow(), another(onnx, mark), run_id, model, **BASIS)
        added = add_version(deployment.mlflow(), deployment.store(), request)
        promote(
            deployment.mlflow(), model, added.number, aliases=["production"], by=f"run {mark}", why="better"
        )


def _killed(prepare: Callable[[], None], act: Callable[[], object], point: tuple[object, str, str]) -> int:
    """Return the exit code of a child that is killed at the point of `act`."""
    child = os.fork()
    if child == 0:
        prepare()
        _die(*point)
        act()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(folder: Path, mlflow_url: str = "") -> None:
    deployment = Deployment(folder, mlflow=mlflow_url)
    onnx, run_id = (
        deployment.value("blobs/onnx_model"),
        deployment.value("blobs/registered_model").mlflow_run_id,
    )
    deployment.instance.dispose()
    mlflow, store = deployment.mlflow(), deployment.store()
    ended = {}
    for point, where in POINTS.items():
        model = model_of(point)
        ended[model] = _killed(lambda: None, partial(register, mlflow, store, onnx, run_id, model), where)
    for change, version in CHANGES.items():
        for point, where in CHANGE_POINTS.items():
            model = model_of(point, change)
            prepare = partial(two_champions, deployment, onnx, run_id, model)
            act = partial(move_champion, mlflow, store, model, version, by="run 1", why="test")
            ended[model] = _killed(prepare, act, where)
    print(json.dumps(ended))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
