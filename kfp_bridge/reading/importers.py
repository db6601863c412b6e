"""Assets outside the selection: their last materialization becomes a KFP importer.

A materialization is usable if its metadata has the location of the value (`path`) and its digest (`sha256`), as the
bridge requires of every IO manager.
"""

from dataclasses import replace
from typing import Any

import dagster as dg

from kfp_bridge.pipeline_graph import ARTIFACT_TYPE_KEY, ARTIFACT_TYPES, ImportedAsset, MappingRow
from kfp_bridge.records import AssetRecord, stored_path, without_pointers


def read_import(
    instance: dg.DagsterInstance | None, graph: Any, key: dg.AssetKey, *, loads: bool
) -> tuple[ImportedAsset | None, MappingRow]:
    """Return the import of one upstream asset, or None, with a report row.

    `loads` is True if the downstream asset loads the value. If not, an asset that was never materialized is only
    lineage, which Dagster does not wait for either.
    """
    name = key.to_user_string()
    event = instance.get_latest_materialization_event(key) if instance is not None else None
    materialization = event.asset_materialization if event is not None else None
    if materialization is None:
        if not loads:
            return None, MappingRow(
                f"asset {name}", "upstream", "not in the selection; lineage only", "not exported"
            )
        reason = "is not in the selection and has no materialization in the instance (DAGSTER_HOME)"
        return None, MappingRow(f"asset {name}", "upstream", reason, "unmapped")
    sha256 = materialization.metadata.get("sha256")
    record = AssetRecord(
        name, None if sha256 is None else str(sha256.value), without_pointers(materialization)
    )
    path = record.path
    if path is not None and instance is not None:
        record = replace(record, stored=stored_path(path, instance.storage_directory()))
    artifact_type = _declared_type(graph, key)
    if not path:
        outcome = "unmapped" if loads else "not exported"
        return None, MappingRow(
            f"asset {name}", "upstream", "its last materialization records no `path`", outcome
        )
    if artifact_type is None:
        reason = f"declare metadata {ARTIFACT_TYPE_KEY!r}, one of {', '.join(ARTIFACT_TYPES)}"
        return None, MappingRow(f"asset {name}", ARTIFACT_TYPE_KEY, reason, "unmapped")
    found = ImportedAsset(name, artifact_type, path, record.to_json())
    if "://" not in path:
        reason = f"{path} is a local path, which pods on other machines cannot read"
        return found, MappingRow(f"asset {name}", "importer", reason, "unmapped")
    return found, MappingRow(f"asset {name}", "upstream", f"importer of {path}: {artifact_type}")


def _declared_type(graph: Any, key: dg.AssetKey) -> str | None:
    declared = graph.get(key).metadata.get(ARTIFACT_TYPE_KEY)
    declared = getattr(declared, "value", declared)
    return declared if declared in ARTIFACT_TYPES else None
