"""Reads versions of registered models from MLflow and the model store, and verifies that both have the same file."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.ml.artifacts import ComparisonBasis, LoadedVersion
from jukebox_orch.ml.onnx_predictor import OnnxPredictor
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.storage.model_store import ModelStore, StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
SHA256_TAG = "onnx_sha256"
EXAMPLE_TOLERANCE = 1e-4
"""Maximum difference between the recorded and the new prediction of a version's example, on any CPU."""


class RegistrationError(RuntimeError):
    """A version in registry or store is missing or wrong; no alias was set."""


def current_champion(mlflow: MlflowResource, store: ModelStore, model_name: str) -> LoadedVersion | None:
    """Return the version with the alias `champion`, its file read from the store and verified; None without one."""
    number = aliases_of(mlflow.client(), model_name).get(CHAMPION)
    return None if number is None else _load(mlflow, store, model_name, number)


def base_version(mlflow: MlflowResource, store: ModelStore, base: str) -> LoadedVersion | None:
    """Return the version named by `base`, MODEL (its champion) or MODEL/VERSION; None if it does not exist."""
    from mlflow.exceptions import MlflowException

    model_name, _, number = base.partition("/")
    if not number:
        return current_champion(mlflow, store, model_name)
    try:
        return _load(mlflow, store, model_name, number)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def verify(mlflow: MlflowResource, store: ModelStore, model_name: str, number: str) -> float:
    """Read a version from registry and store; compare sha256 and example prediction with the recorded ones.

    Returns:
        The largest difference between the example's recorded and new prediction.

    Raises:
        RegistrationError: names what is missing or different.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow.client()
    try:
        recorded = client.get_model_version(model_name, number).tags.get(SHA256_TAG, "")
    except MlflowException as error:
        raise RegistrationError(
            f"{model_name} has no version {number!r} in the registry: {error.message}"
        ) from None
    try:
        content = store.load(model_name, number, recorded)
    except StoreError as error:
        raise RegistrationError(f"{model_name} version {number}: {error}") from error
    downloaded = _download(client, model_name, number)
    if hashlib.sha256(downloaded).hexdigest() != recorded:
        raise RegistrationError(
            f"{model_name} version {number}: the file in MLflow has sha256 {hashlib.sha256(downloaded).hexdigest()}, "
            f"not {recorded} as registered; restore it or use another version"
        )
    example = store.side_file(model_name, number, "example.json")
    if example is None:
        raise RegistrationError(
            f"{model_name} version {number}: example.json is missing in the model store; restore it"
        )
    predictor = OnnxPredictor(content)
    labels = store.side_file(model_name, number, "labels.json")
    if labels != list(predictor.labels):
        raise RegistrationError(
            f"{model_name} version {number}: labels.json in the model store is missing or has other labels than the "
            "model; restore it or use another version"
        )
    output = predictor.predict(
        {name: np.asarray(example["inputs"][name], dtype) for name, dtype in predictor.dtypes.items()}
    )
    recorded_output = np.asarray(next(iter(example["outputs"].values())))
    # float32 has seven digits, so large outputs of a regression differ by more between processors.
    difference = float(np.abs(output - recorded_output).max() / max(1.0, np.abs(recorded_output).max()))
    if not difference <= EXAMPLE_TOLERANCE:
        raise RegistrationError(
            f"{model_name} version {number}: the prediction of the recorded example differs by {difference:.2g} "
            f"(at most {EXAMPLE_TOLERANCE:g}); use another version"
        )
    return difference


def aliases_of(client: MlflowClient, name: str) -> dict[str, str]:
    """Return alias -> version number of a registered model; empty if the model does not exist."""
    found = find_model(client, name)
    return {alias: str(version) for alias, version in found.aliases.items()} if found else {}


def find_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return the registered model, or None if it does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _load(mlflow: MlflowResource, store: ModelStore, model_name: str, number: str) -> LoadedVersion:
    tags = mlflow.client().get_model_version(model_name, number).tags
    sha256 = tags.get(SHA256_TAG, "")
    fields = {name: tags.get(name, "") for name in ComparisonBasis.model_fields}
    basis = ComparisonBasis(**fields) if all(fields.values()) else None
    try:
        content, problem = store.load(model_name, number, sha256), ""
    except StoreError as error:
        content, problem = b"", f"version {number}: {error}"
    return LoadedVersion(model_name, number, sha256, content, problem, basis)


def _download(client: MlflowClient, name: str, number: str) -> bytes:
    from mlflow.artifacts import download_artifacts

    uri = client.get_model_version_download_uri(name, number)
    with tempfile.TemporaryDirectory() as folder:
        local = Path(download_artifacts(uri, dst_path=folder))
        return (local / "model.onnx" if local.is_dir() else local).read_bytes()
