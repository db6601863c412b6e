"""How KServe serves a version of the model store: its InferenceService, storage URI and address."""

from __future__ import annotations

from typing import Any

from jukebox_orch.storage.model_store import ModelStore


def inference_service(store: ModelStore, model_name: str, version: str) -> dict[str, Any]:
    """Return a KServe InferenceService (serving.kserve.io/v1beta1) for the version."""
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {
            "name": _service_name(model_name),
            "namespace": store.namespace,
            "annotations": {"jukebox/model-version": version},
        },
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "onnx"},
                    "protocolVersion": "v2",
                    "storageUri": storage_uri(store, model_name, version),
                }
            }
        },
    }


def storage_uri(store: ModelStore, model_name: str, version: str) -> str:
    """Return KServe's storage URI of the version: `pvc://claim/model/version`, or the URL of the entry."""
    if store.model_storage_pvc:
        return f"pvc://{store.model_storage_pvc}/{model_name}/{version}"
    return str(store.entry(model_name, version))


def server_url(store: ModelStore, model_name: str) -> str:
    """Return the address of the model's predictor inside the cluster, Open Inference Protocol v2."""
    service = _service_name(model_name)
    host = f"{service}-predictor.{store.namespace}.svc.{store.cluster_domain}"
    return f"http://{host}/v2/models/{service}/infer"


def _service_name(model_name: str) -> str:
    """Convert a model name to a Kubernetes object name (RFC 1123 label, at most 63 characters)."""
    return "".join(c if c.isalnum() else "-" for c in model_name.lower())[:63].strip("-")
