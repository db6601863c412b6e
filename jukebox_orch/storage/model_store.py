"""The model store: `<root>/<model name>/<version>/model.onnx` and side files, in the layout of model servers."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from jukebox_orch.storage.publishing import is_local, publish

if TYPE_CHECKING:
    from upath import UPath


class StoreError(RuntimeError):
    """An entry of the model store is missing or differs from the registered file."""


class ModelStore(dg.ConfigurableResource):
    """Registered models for model servers: in a folder, a mounted volume or `s3://bucket/prefix`."""

    root: str = Field(description="Folder or fsspec URL of the store")
    model_storage_pvc: str = Field(
        default="",
        description="Kubernetes volume claim that contains `root`; used as storage URI in the InferenceService",
    )
    cluster_domain: str = Field(default="cluster.local", description="DNS domain of the Kubernetes cluster")
    namespace: str = Field(default="default", description="Kubernetes namespace of the model servers")

    def folder(self) -> "UPath":
        """Return the root folder of the store."""
        from upath import UPath

        return UPath(self.root)

    def entry(self, model_name: str, version: str) -> "UPath":
        """Return the folder of one version."""
        return self.folder() / model_name / version

    def save(self, model_name: str, version: str, files: Mapping[str, bytes]) -> "UPath":
        """Write an entry; an existing entry must have the same model.

        Raises:
            StoreError: the entry exists with another model.
        """
        target = self.entry(model_name, version)
        if (target / "model.onnx").exists():
            self.load(model_name, version, _sha256(files["model.onnx"]))
        if target.exists() and not is_local(target):
            # Object stores have no rename, so a process killed between two uploads leaves an incomplete entry.
            for name, content in files.items():
                if not (target / name).exists():
                    (target / name).write_bytes(content)
        if target.exists():
            self.load(model_name, version, _sha256(files["model.onnx"]))
            return target

        def write(folder: Path) -> None:
            for name, content in files.items():
                (folder / name).write_bytes(content)

        publish(write, target, self.folder())
        self.load(model_name, version, _sha256(files["model.onnx"]))
        return target

    def load(self, model_name: str, version: str, sha256: str) -> bytes:
        """Return the ONNX file of a version, verified.

        Raises:
            StoreError: the file is missing or has another sha256.
        """
        path = self.entry(model_name, version) / "model.onnx"
        if not path.exists():
            raise StoreError(f"{path} is missing in the model store; restore it")
        content = path.read_bytes()
        if (found := _sha256(content)) != sha256:
            raise StoreError(
                f"{path} has sha256 {found}, this version's model has {sha256}: restore its file or remove the entry"
            )
        return content

    def side_file(self, model_name: str, version: str, name: str) -> Any:
        """Return a JSON side file of a version, or None if it does not exist."""
        path = self.entry(model_name, version) / name
        return json.loads(path.read_text()) if path.exists() else None

    def latest(self, model_name: str) -> str | None:
        """Return the highest version number in the store, or None."""
        folder = self.folder() / model_name
        if not folder.exists():
            return None
        return max((path.name for path in folder.iterdir() if path.name.isdigit()), key=int, default=None)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
