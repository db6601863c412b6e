"""What the last run of a project did, for a terminal: every asset with its checks, value against threshold."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape

from jukebox_orch.contract import InputError

_SHOWN = ("model", "aliases", "model store", "onnx_sha256", "mlflow run")


def print_summary(instance: dg.DagsterInstance, definitions: dg.Definitions, project: str) -> None:
    """Print the newest materializations of the project's assets and the verdicts of their checks.

    Raises:
        InputError: no such project.
    """
    specs = [spec for spec in definitions.resolve_all_asset_specs() if spec.group_name == project]
    if not specs:
        groups = sorted({spec.group_name or "" for spec in definitions.resolve_all_asset_specs()})
        raise InputError(f"no project {project!r} is installed; there are: {', '.join(groups)}")
    console = Console(soft_wrap=True, highlight=False)
    registered: Mapping[str, Any] = {}
    # Upstream first, as the run went.
    order = {key: i for i, key in enumerate(definitions.resolve_asset_graph().toposorted_asset_keys)}
    for spec in sorted(specs, key=lambda spec: order[spec.key]):
        noun = spec.key.path[-1]
        event = instance.get_latest_materialization_event(spec.key)
        if event is None or event.asset_materialization is None:
            console.print(f"[bold]{noun}[/bold]: never materialized")
            continue
        console.print(f"[bold]{noun}[/bold] (run {event.run_id[:8]})")
        for check in _checks(instance, spec.key, event.run_id):
            console.print(check)
        if noun == "registered_model":
            registered = event.asset_materialization.metadata
    for name in _SHOWN:
        if name in registered:
            console.print(f"[bold]{name}[/bold]: {registered[name].value}")


def _checks(instance: dg.DagsterInstance, key: dg.AssetKey, run_id: str) -> list[str]:
    """A line for each check of the asset in the run."""
    records = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    lines = []
    for record in records:
        dagster_event = record.event_log_entry.dagster_event
        evaluation = dagster_event.asset_check_evaluation_data if dagster_event else None
        if evaluation is None or evaluation.asset_key != key:
            continue
        warn = evaluation.severity == dg.AssetCheckSeverity.WARN
        mark = (
            "[green]ok  [/green]"
            if evaluation.passed
            else "[yellow]WARN[/yellow]"
            if warn
            else "[red]FAIL[/red]"
        )
        value, threshold = (_text(evaluation.metadata.get(name)) for name in ("value", "threshold"))
        text = escape(evaluation.description or "")
        lines.append(f"  {mark} {evaluation.check_name:<24} {value} (threshold {threshold}) {text}")
    return lines


def _text(value: dg.MetadataValue | None) -> str:
    plain = value.value if value else ""
    return f"{plain:.4g}" if isinstance(plain, float) else str(plain)
