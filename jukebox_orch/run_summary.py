"""Prints the latest result of every asset of a project, with the values and thresholds of its checks."""

import graphlib
from collections.abc import Mapping
from typing import Any

import dagster as dg
from rich.console import Console
from rich.markup import escape

from jukebox_orch.contract import InputError
from jukebox_orch.dagster_internals import check_evaluations
from jukebox_orch.registry.mlflow_resource import MlflowResource

_SHOWN = ("model store", "onnx_sha256", "mlflow run")


def print_summary(
    instance: dg.DagsterInstance, definitions: dg.Definitions, project: str, mlflow: MlflowResource
) -> None:
    """Print the latest materializations of the project's assets, the results of their checks and today's aliases.

    Raises:
        InputError: the project is not installed.
    """
    specs = {spec.key: spec for spec in definitions.resolve_all_asset_specs() if spec.group_name == project}
    if not specs:
        groups = sorted({spec.group_name or "" for spec in definitions.resolve_all_asset_specs()})
        raise InputError(f"no project {project!r} is installed; installed: {', '.join(groups)}")
    console = Console(soft_wrap=True, highlight=False)
    registered: Mapping[str, Any] = {}
    model, version, is_champion, aliases = "", "", False, ""
    upstream = {key: sorted(dep.asset_key for dep in spec.deps) for key, spec in sorted(specs.items())}
    for key in graphlib.TopologicalSorter(upstream).static_order():
        name = key.path[-1]
        event = instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            console.print(f"[bold]{name}[/bold]: never materialized")
            continue
        console.print(f"[bold]{name}[/bold] (run {event.run_id[:8]})")
        if name == "registered_model":
            registered = event.asset_materialization.metadata
            model, version = (str(registered[key].value) for key in ("model name", "version"))
            is_champion, aliases = _aliases(mlflow, model, version)
        for evaluation in check_evaluations(instance, event.run_id):
            if evaluation.asset_key == key:
                console.print(_line(evaluation))
                if evaluation.check_name == "promoted" and not evaluation.passed and is_champion:
                    console.print("       that was at registration; a person has made it champion since")
    if registered:
        console.print(f"[bold]model[/bold]: {model} version {version}")
        console.print(f"[bold]aliases now[/bold]: {aliases}")
    for name in _SHOWN:
        if name in registered:
            console.print(f"[bold]{name}[/bold]: {registered[name].value}")


def _aliases(mlflow: MlflowResource, model_name: str, version: str) -> tuple[bool, str]:
    """Return whether the version is champion now; and its aliases, with the champion if that is another version."""
    from mlflow.exceptions import MlflowException

    from jukebox_orch.registry.versions import CHAMPION, aliases_of

    try:
        aliases = aliases_of(mlflow.client(), model_name)
    except MlflowException as error:
        return False, escape(f"unknown, because MLflow at {mlflow.address} does not answer: {error}")
    held = ", ".join(sorted(alias for alias, number in aliases.items() if number == version)) or "none"
    champion = aliases.get(CHAMPION)
    is_champion = champion == version
    return is_champion, held if is_champion else f"{held}; champion is version {champion or 'none'}"


def _line(evaluation: dg.AssetCheckEvaluation) -> str:
    """Return the line of one check: its result, value, threshold and text."""
    warns = evaluation.severity == dg.AssetCheckSeverity.WARN
    failed = "[yellow]WARN[/yellow]" if warns else "[red]FAIL[/red]"
    mark = "[green]ok  [/green]" if evaluation.passed else failed
    value, threshold = (_text(evaluation.metadata.get(name)) for name in ("value", "threshold"))
    text = escape(evaluation.description or "")
    return f"  {mark} {evaluation.check_name:<24} {value} (threshold {threshold}) {text}"


def _text(value: dg.MetadataValue | None) -> str:
    plain = value.value if value else ""
    return f"{plain:.4g}" if isinstance(plain, float) else str(plain)
