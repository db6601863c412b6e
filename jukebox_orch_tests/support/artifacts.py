"""Stores values in an artifact store as a step does."""

from typing import Any

import dagster as dg

from jukebox_orch.ml.artifacts import SourcedDataset
from jukebox_orch.storage.artifact_store import ArtifactStore

KEY = dg.AssetKey(["blobs", "dataset"])


def stored(store: ArtifactStore, value: Any, run_id: str = "run") -> dict[str, dg.MetadataValue]:
    """Store a value, or tables as a dataset, as a step does; return the metadata of its materialization."""
    if isinstance(value, dict):
        value = SourcedDataset(value, origin=None)
    context = dg.build_output_context(asset_key=KEY, run_id=run_id)
    store.handle_output(context, value)
    return {
        name: v if isinstance(v, dg.MetadataValue) else _metadata(v)
        for name, v in context.consume_logged_metadata().items()
    }


def _metadata(value: Any) -> dg.MetadataValue:
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.text(str(value))
