"""Registers a version: adds it to MLflow, then to the model store, then sets the alias `challenger`.

The alias is set only after both copies were read back, so a crash at any point leaves no alias on an incomplete
version. The next attempt finds the existing version by its sha256 and continues. Registrations of one model are
serialised by `MlflowResource.lock` on one machine, and by a Dagster pool across machines (see
`jukebox_orch.assets.registered_model`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jukebox_orch.ml.artifacts import OnnxModel
from jukebox_orch.registry.mlflow_resource import MlflowResource
from jukebox_orch.registry.versions import CHALLENGER, SHA256_TAG, verify
from jukebox_orch.storage.model_store import ModelStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# Versions with equal values of these tags are the same version, even if different runs registered them.
_IDENTITY_TAGS = (SHA256_TAG, "features_digest", "version_label")


@dataclass(frozen=True)
class RegistrationRequest:
    """The version to register.

    Attributes:
        log_model: logs the ONNX file to the MLflow run and returns the model's URI.
        files: version number -> side files of the model store entry, without `model.onnx`.
        tags: tags of the version, in addition to the sha256 and `verified` set here.
    """

    model_name: str
    onnx: OnnxModel
    mlflow_run_id: str
    log_model: Callable[[], str]
    files: Callable[[str], Mapping[str, bytes]]
    tags: Mapping[str, str]
    description: str


@dataclass(frozen=True)
class RegistrationResult:
    """A version that is complete in registry and store.

    Attributes:
        number: number of the version.
        adopted: whether a version with the same file, features and label existed before.
        example_difference: largest difference between the example's recorded and new prediction.
    """

    number: str
    adopted: bool
    example_difference: float


def add_version(
    mlflow: MlflowResource, store: ModelStore, request: RegistrationRequest
) -> RegistrationResult:
    """Add the version to registry and store, verify both copies, and set the alias `challenger`.

    Raises:
        RegistrationError: a copy differs from the registered file.
    """
    client, name = mlflow.client(), request.model_name
    _ensure_model(client, name)
    existing = _same_versions(client, request)
    number = str(existing[0].version if existing else _create_version(client, request))
    store.save(name, number, {**request.files(number), "model.onnx": request.onnx.content})
    difference = verify(mlflow, store, name, number)
    client.set_model_version_tag(name, number, "verified", "true")
    client.set_registered_model_alias(name, CHALLENGER, number)
    return RegistrationResult(number, bool(existing), difference)


def _create_version(client: MlflowClient, request: RegistrationRequest) -> str:
    """Create the version in MLflow; return its number."""
    name, source = request.model_name, request.log_model()
    created = client.create_model_version(
        name,
        source=source,
        # A server refuses the URI of a logged model without its id; the embedded store does not check.
        model_id=source.removeprefix("models:/"),
        run_id=request.mlflow_run_id,
        tags={**request.tags, SHA256_TAG: request.onnx.report.sha256},
        description=request.description,
    )
    # The client repeats a POST whose response was lost, which creates duplicates: keep the first.
    first, *duplicates = _same_versions(client, request) or [created]
    for duplicate in duplicates:
        client.delete_model_version(name, duplicate.version)
    return first.version


def _same_versions(client: MlflowClient, request: RegistrationRequest) -> list[ModelVersion]:
    """Return versions with the same identity tags, oldest first."""
    expected = {**request.tags, SHA256_TAG: request.onnx.report.sha256}
    found = client.search_model_versions(f"name = '{request.model_name}'")
    return sorted(
        (v for v in found if all(v.tags.get(k, "") == expected.get(k, "") for k in _IDENTITY_TAGS)),
        key=lambda v: int(v.version),
    )


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
