"""`dataset`: what the source holds, never altered."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from jukebox_orch.assets.metadata import column_schema, image, preview, verdict
from jukebox_orch.assets.training_graph import Check, Graph
from jukebox_orch.contract.project import Dataset
from jukebox_orch.storage.model_store import ModelStore

NOUN = "dataset"


def dataset_asset(graph: Graph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(
        NOUN,
        kinds={"pandas", "parquet"},
        artifact_type="Dataset",
        description=f"Data of {graph.name} exactly as its source holds it, as named tables and arrays.",
        checks=[
            Check("not_empty", "Every table and array has rows."),
            Check("expected_columns", "Every table has the columns the project needs."),
            Check(
                "drift",
                "Population stability index of every monitored column against the data of the last registered model.",
                blocking=False,
            ),
        ],
    )
    def dataset(context: dg.AssetExecutionContext, model_store: ModelStore):
        from jukebox_orch.ml.formats import format_of

        settings = graph.settings(NOUN, context)
        tables = graph.project.load(settings.source)
        return dg.MaterializeResult(
            value=tables,
            data_version=dg.DataVersion(format_of(tables).digest(tables)),
            metadata=_metadata(tables, settings.source),
            check_results=[
                _not_empty(tables),
                _expected_columns(tables, graph.project.tables),
                _drift(graph, tables, settings, model_store),
            ],
        )

    return dataset


def _metadata(tables: Dataset, source: Any) -> dict[str, Any]:
    import pandas as pd

    frames = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    metadata: dict[str, Any] = {f"{name} rows": len(table) for name, table in tables.items()}
    metadata["source"] = (
        source.location or ", ".join(f.url for f in source.files) or "embedded sample (synthetic)"
    )
    for name, table in frames.items():
        metadata[f"{name} preview"] = preview(table)
    if frames:
        metadata["dagster/column_schema"] = column_schema(max(frames.values(), key=len))
    return metadata


def _not_empty(tables: Dataset) -> dg.AssetCheckResult:
    empty = [name for name, table in tables.items() if not len(table)]
    rows = min((len(table) for table in tables.values()), default=0)
    text = (
        f"empty: {', '.join(empty)}" if empty else f"the smallest of {len(tables)} tables has {rows:,} rows"
    )
    return verdict("not_empty", not empty and bool(tables), rows, ">= 1 row each", text)


def _expected_columns(tables: Dataset, expected: Mapping[str, Any]) -> dg.AssetCheckResult:
    import pandas as pd

    missing = [name for name in expected if name not in tables] + [
        f"{name}.{column}"
        for name, columns in expected.items()
        if isinstance(table := tables.get(name), pd.DataFrame)
        for column in columns
        if column not in table
    ]
    text = f"missing: {', '.join(missing)}" if missing else "all expected tables and columns are there"
    return verdict("expected_columns", not missing, len(missing), "0 missing", text)


def _drift(graph: Graph, tables: Dataset, settings: Any, model_store: ModelStore) -> dg.AssetCheckResult:
    from jukebox_orch.assets import figures
    from jukebox_orch.ml import drift

    threshold = settings.gates.drift_warn
    latest = model_store.latest(settings.model_name)
    reference = model_store.side_file(settings.model_name, latest, "profile.json") if latest else None
    if not reference:
        return verdict("drift", True, 0.0, threshold, "no registered model to compare with", warn=True)
    values = drift.psi(reference, graph.project.monitored(tables))
    worst = max(values, key=lambda name: values[name], default="")
    moved = sorted(name for name, value in values.items() if value >= threshold)
    text = f"against version {latest}: " + (
        f"{', '.join(moved)} moved"
        if moved
        else f"largest index {values[worst]:.3f} ({worst})"
        if worst
        else "nothing monitored"
    )
    return verdict(
        "drift",
        not moved,
        values.get(worst, 0.0),
        threshold,
        text,
        warn=True,
        metadata={
            "registered_version": latest,
            "psi": dg.MetadataValue.json(values),
            **({"plot": image(figures.png(figures.drift(values, threshold)), "drift")} if values else {}),
        },
    )
