"""Registers a proven model: a version in MLflow, an entry in the model store, and aliases, in this order.

An alias is set only after both copies were read back, so a crash at any point leaves no alias on half a
version; the next attempt finds what is there by its sha256 and goes on. Registrations of one model are
serialised by `MlflowTracking.lock` on one machine and by a Dagster pool over many (see
`jukebox_orch.assets.registered_model`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jukebox_orch.ml.artifacts import OnnxModel
from jukebox_orch.ml.onnx_export import OnnxPredictor
from jukebox_orch.registry.mlflow_resource import MlflowTracking
from jukebox_orch.storage.model_store import ModelStore, StoreError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CHAMPION, CHALLENGER = "champion", "challenger"
_SHA256 = "onnx_sha256"
_HISTORY = "champion_history"
_HISTORY_LENGTH = 20
# A recorded example must be predicted again this closely, on any CPU.
EXAMPLE_TOLERANCE = 1e-4


class RegistrationError(RuntimeError):
    """The registry or the store does not hold what it should; nothing was aliased."""


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of the registry with its verified file, or the problem with it."""

    model_name: str
    version: str
    sha256: str
    content: bytes
    problem: str = ""


@dataclass(frozen=True)
class Registration:
    """What is to be registered.

    Attributes:
        log_model: logs the ONNX file to the MLflow run and returns the model's URI.
        files: side files of the model store entry, without `model.onnx`.
        tags: of the version, beside the ones set here.
    """

    model_name: str
    onnx: OnnxModel
    mlflow_run_id: str
    log_model: Callable[[], str]
    files: Callable[[str], Mapping[str, bytes]]
    tags: Mapping[str, str]
    description: str


def current_champion(mlflow: MlflowTracking, store: ModelStore, model_name: str) -> RegisteredVersion | None:
    """The version with the alias `champion`, its file read from the store and verified; None without one."""
    number = _aliases(mlflow.client(), model_name).get(CHAMPION)
    return None if number is None else _version(mlflow, store, model_name, number)


def base_version(mlflow: MlflowTracking, store: ModelStore, base: str) -> RegisteredVersion | None:
    """The version that a run names to compare with, as MODEL (its champion) or MODEL/VERSION; None without one."""
    from mlflow.exceptions import MlflowException

    model_name, _, number = base.partition("/")
    if not number:
        return current_champion(mlflow, store, model_name)
    try:
        return _version(mlflow, store, model_name, number)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


@dataclass(frozen=True)
class AddedVersion:
    """A version that is complete in registry and store.

    Attributes:
        number: of the version.
        adopted: whether a version with the same file, features and label was there already.
        example_difference: largest difference of the recorded example's prediction, read back.
    """

    number: str
    adopted: bool
    example_difference: float


def add_version(mlflow: MlflowTracking, store: ModelStore, registration: Registration) -> AddedVersion:
    """Make the version complete in registry and store, read both back, and alias it `challenger`.

    Raises:
        RegistrationError: a copy read back is not the file that was registered.
    """
    client, name = mlflow.client(), registration.model_name
    _ensure_model(client, name)
    existing = _same_versions(client, registration)
    if existing:
        number = existing[0].version
    else:
        source = registration.log_model()
        number = client.create_model_version(
            name,
            source=source,
            # A server refuses a logged model's URI without its id; the embedded store does not ask.
            model_id=source.removeprefix("models:/"),
            run_id=registration.mlflow_run_id,
            tags={**registration.tags, _SHA256: registration.onnx.report.sha256},
            description=registration.description,
        ).version
        # A POST whose answer was lost is sent again by the client: keep the first of our own twins.
        twins = _same_versions(client, registration)
        for twin in twins[1:]:
            client.delete_model_version(name, twin.version)
        number = twins[0].version if twins else number
    number = str(number)
    store.save(name, number, {**registration.files(number), "model.onnx": registration.onnx.content})
    difference = verify(mlflow, store, name, number)
    client.set_model_version_tag(name, number, "verified", "true")
    client.set_registered_model_alias(name, CHALLENGER, number)
    return AddedVersion(number, bool(existing), difference)


def promote(mlflow: MlflowTracking, model_name: str, number: str, *, alias: str, by: str, why: str) -> None:
    """Move `champion` and the stage's alias to the version, and note who and why."""
    client = mlflow.client()
    aliases = _aliases(client, model_name)
    if aliases.get(CHAMPION) != number:
        entry = {
            "version": number,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": by,
            "why": why,
        }
        history = [*champion_history(mlflow, model_name), entry][-_HISTORY_LENGTH:]
        client.set_registered_model_tag(model_name, _HISTORY, json.dumps(history))
        client.set_registered_model_alias(model_name, CHAMPION, number)
    if aliases.get(alias) != number:
        client.set_registered_model_alias(model_name, alias, number)


def champion_history(mlflow: MlflowTracking, model_name: str) -> list[dict[str, str]]:
    """Who was champion since when, by which run and why; oldest first, at most 20 entries."""
    found = _registered(mlflow.client(), model_name)
    return json.loads(found.tags.get(_HISTORY, "[]")) if found else []


def rollback(
    mlflow: MlflowTracking, store: ModelStore, model_name: str, version: str, *, by: str, why: str
) -> tuple[str | None, str]:
    """Move the champion to `version`, or to the one before the current one when empty.

    The other aliases of the version that is left, such as `staging` and `production`, move along; `challenger` stays.

    Args:
        by: who moves it, and by which run: a second attempt of the same run goes on with what the first began.

    Returns:
        The version that was champion, and the one that is now.

    Raises:
        RegistrationError: no such version, none before, or its file or example prediction do not verify.
    """
    client = mlflow.client()
    aliases, history = _aliases(client, model_name), champion_history(mlflow, model_name)
    left = aliases.get(CHAMPION)
    if history and history[-1]["by"] == by:
        version = version or history[-1]["version"]
        left = next((e["version"] for e in reversed(history[:-1]) if e["version"] != version), left)
    version = version or _champion_before(history, left)
    if not version:
        raise RegistrationError(f"{model_name}: no champion before version {left}; name a version")
    verify(mlflow, store, model_name, version)
    promote(mlflow, model_name, version, alias=CHAMPION, by=by, why=why)
    for alias, holder in aliases.items():
        if holder == left and alias not in (CHAMPION, CHALLENGER):
            client.set_registered_model_alias(model_name, alias, version)
    return left, version


def verify(mlflow: MlflowTracking, store: ModelStore, model_name: str, number: str) -> float:
    """Read a version back from registry and store: recorded sha256, and the recorded example's prediction.

    Returns:
        The largest difference between the example's recorded and new prediction.

    Raises:
        RegistrationError: naming what differs.
    """
    from mlflow.exceptions import MlflowException

    client = mlflow.client()
    try:
        recorded = client.get_model_version(model_name, number).tags.get(_SHA256, "")
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
            f"{model_name} version {number}: the file in MLflow is not the registered one"
        )
    example = store.side_file(model_name, number, "example.json")
    if example is None:
        raise RegistrationError(f"{model_name} version {number}: example.json is missing in the model store")
    predictor = OnnxPredictor(content)
    feed = {i.name: np.asarray(example["inputs"][i.name]) for i in predictor.session.get_inputs()}
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    feed = {i.name: feed[i.name].astype(types[i.type]) for i in predictor.session.get_inputs()}
    output = np.asarray(predictor.session.run(None, feed)[0])
    difference = float(np.abs(output - np.asarray(next(iter(example["outputs"].values())))).max())
    if not difference <= EXAMPLE_TOLERANCE:
        raise RegistrationError(
            f"{model_name} version {number}: the recorded example is predicted {difference:.2g} off "
            f"(at most {EXAMPLE_TOLERANCE:g})"
        )
    return difference


def _version(mlflow: MlflowTracking, store: ModelStore, model_name: str, number: str) -> RegisteredVersion:
    sha256 = mlflow.client().get_model_version(model_name, number).tags.get(_SHA256, "")
    try:
        return RegisteredVersion(model_name, number, sha256, store.load(model_name, number, sha256))
    except StoreError as error:
        return RegisteredVersion(model_name, number, sha256, b"", f"version {number}: {error}")


def _same_versions(client: MlflowClient, registration: Registration) -> list[ModelVersion]:
    """Versions that hold the same file for the same purpose, oldest first."""
    wanted = {**registration.tags, _SHA256: registration.onnx.report.sha256}
    # Who started it is no difference; what it holds is.
    identity = (_SHA256, "features_digest", "version_label")
    found = client.search_model_versions(f"name = '{registration.model_name}'")
    return sorted(
        (v for v in found if all(v.tags.get(k, "") == wanted.get(k, "") for k in identity)),
        key=lambda v: int(v.version),
    )


def _ensure_model(client: MlflowClient, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _champion_before(history: Sequence[Mapping[str, str]], current: str | None) -> str:
    """The champion before `current` was it for the last time; empty when there is none."""
    times = [i for i, entry in enumerate(history) if entry["version"] == current]
    before = [e["version"] for e in history[: times[-1] if times else None] if e["version"] != current]
    return before[-1] if before else ""


def _aliases(client: MlflowClient, name: str) -> dict[str, str]:
    found = _registered(client, name)
    return {alias: str(version) for alias, version in found.aliases.items()} if found else {}


def _registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _download(client: MlflowClient, name: str, number: str) -> bytes:
    import tempfile

    from mlflow.artifacts import download_artifacts

    uri = client.get_model_version_download_uri(name, number)
    with tempfile.TemporaryDirectory() as folder:
        local = download_artifacts(uri, dst_path=folder)
        path = Path(local) / "model.onnx" if Path(local).is_dir() else Path(local)
        return path.read_bytes()
