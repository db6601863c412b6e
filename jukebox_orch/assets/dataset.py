"""`dataset`: the data exactly as its source holds it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dagster as dg

from jukebox_orch.assets.check_builder import Check, Outcome, check_results
from jukebox_orch.assets.metadata import column_schema, image, preview
from jukebox_orch.assets.run_config import refuse_mixed_data
from jukebox_orch.assets.training_graph import AssetNode, TrainingGraph
from jukebox_orch.contract import SAMPLE, Dataset, ModelProject, Source, display_url
from jukebox_orch.ml.artifacts import DataOrigin, SourcedDataset
from jukebox_orch.storage.model_store import ModelStore

NODE = AssetNode(
    name="dataset",
    description="Data exactly as its source holds it, as named tables and arrays.",
    kinds=frozenset({"pandas", "parquet"}),
    artifact_type="Dataset",
    settings=("source", "dataset_name", "gates", "model_name"),
)


@dataclass(frozen=True)
class LoadedData:
    """A dataset, and the data profile of the last registered model, to compare it with.

    Attributes:
        origin: where the dataset comes from.
        model_name: name under which the run registers its model.
        profile: profile of version `registered_version`; None if no model is registered.
        drift_warn: population stability index at or above which the drift check warns.
    """

    dataset: Dataset
    origin: DataOrigin
    model_name: str
    registered_version: str | None
    profile: Mapping[str, Any] | None
    drift_warn: float


def _not_empty(project: ModelProject, loaded: LoadedData) -> Outcome:
    sizes = {name: len(table) for name, table in loaded.dataset.items()}
    empty = [name for name, rows in sizes.items() if not rows]
    smallest = min(sizes.values(), default=0)
    text = (
        f"empty: {', '.join(empty)}"
        if empty
        else f"the smallest of {len(sizes)} tables has {smallest:,} rows"
    )
    return Outcome(not empty and bool(sizes), smallest, ">= 1 row each", text)


def _expected_columns(project: ModelProject, loaded: LoadedData) -> Outcome:
    import pandas as pd

    missing = [name for name in project.tables if name not in loaded.dataset] + [
        f"{name}.{column}"
        for name, columns in project.tables.items()
        if isinstance(table := loaded.dataset.get(name), pd.DataFrame)
        for column in columns
        if column not in table
    ]
    text = f"missing: {', '.join(missing)}" if missing else "all expected tables and columns are present"
    return Outcome(not missing, len(missing), "0 missing", text)


def _real_data(project: ModelProject, loaded: LoadedData) -> Outcome:
    if loaded.origin.sample:
        text = (
            f"the project's embedded sample: the model is registered as {loaded.model_name} and replaces no model "
            "of real data; set source.location to train on yours"
        )
        return Outcome(False, loaded.origin.name, "a source", text)
    text = f"dataset {loaded.origin.name}, read from {loaded.origin.source}"
    return Outcome(True, loaded.origin.name, "a source", text)


def _drift(project: ModelProject, loaded: LoadedData) -> Outcome:
    from jukebox_orch.assets import figures
    from jukebox_orch.ml import drift, project_calls

    threshold = loaded.drift_warn
    if not loaded.profile:
        return Outcome(True, 0.0, threshold, "no registered model to compare with")
    values = drift.psi(dict(loaded.profile), project_calls.drift_table(project, loaded.dataset))
    if not values:
        return Outcome(True, 0.0, threshold, "the project monitors no column")
    worst = max(values, key=lambda name: values[name])
    drifted = sorted(name for name, value in values.items() if value >= threshold)
    text = f"drifted: {', '.join(drifted)}" if drifted else f"largest index {values[worst]:.3f} ({worst})"
    return Outcome(
        not drifted,
        values[worst],
        threshold,
        f"against version {loaded.registered_version}: {text}",
        {
            "registered_version": loaded.registered_version,
            "psi": dg.MetadataValue.json(values),
            "plot": image(figures.png(figures.drift(values, threshold)), "drift"),
        },
    )


CHECKS = (
    Check("not_empty", "Every table and array has rows.", _not_empty),
    Check("expected_columns", "Every table has the columns that the project needs.", _expected_columns),
    Check(
        "real_data",
        "The data comes from the run's source, not from the project's embedded sample.",
        _real_data,
        blocking=False,
    ),
    Check(
        "drift",
        "The population stability index (PSI) of every monitored column, compared with the data of the last "
        "registered model, is below gates.drift_warn.",
        _drift,
        blocking=False,
    ),
)


def dataset_asset(graph: TrainingGraph) -> dg.AssetsDefinition:
    """Define the asset and its checks."""

    @graph.asset(NODE, CHECKS)
    def dataset(context: dg.AssetExecutionContext, model_store: ModelStore):
        from jukebox_orch.ml import project_calls
        from jukebox_orch.ml.artifact_formats import format_of

        settings = graph.settings(NODE, context)
        refuse_mixed_data(settings)
        origin = origin_of(settings.source, graph.dataset_name(settings))
        name = graph.model_name(settings, origin.sample)
        tables = project_calls.load(graph.project, settings.source)
        latest = model_store.latest(name)
        profile = model_store.side_file(name, latest, "profile.json") if latest else None
        loaded = LoadedData(tables, origin, name, latest, profile, settings.gates.drift_warn)
        value = SourcedDataset(tables, origin)
        return dg.MaterializeResult(
            value=value,
            data_version=dg.DataVersion(format_of(value).digest(value)),
            metadata=_metadata(tables, origin),
            check_results=check_results(graph.project, CHECKS, loaded),
        )

    return dataset


def origin_of(source: Source, dataset_name: str) -> DataOrigin:
    """Return the name that the run gives its data, or the source's default, and where the data is read."""
    if source.is_sample:
        return DataOrigin(name=SAMPLE, source="the project's embedded sample", sample=True)
    name = dataset_name or source.dataset_name
    files = [display_url(file.url) for file in source.files]
    where = display_url(source.location) or source.dataset_name
    if len(files) == 1:
        where = files[0]
    elif files:
        where = f"{len(files):,} files in {where}"
    return DataOrigin(name=name, source=where, sample=False)


def _metadata(tables: Dataset, origin: DataOrigin) -> dict[str, Any]:
    import pandas as pd

    frames = {name: table for name, table in tables.items() if isinstance(table, pd.DataFrame)}
    metadata: dict[str, Any] = {f"{name} rows": len(table) for name, table in tables.items()}
    metadata |= {"dataset name": origin.name, "source": origin.source}
    for name, frame in frames.items():
        metadata[f"{name} preview"] = preview(frame)
    if frames:
        metadata["dagster/column_schema"] = column_schema(max(frames.values(), key=len))
    return metadata
