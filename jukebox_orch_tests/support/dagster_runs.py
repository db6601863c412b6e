"""Reads the results of `dagster job execute` from its DAGSTER_HOME."""

from pathlib import Path

import dagster as dg


def stored(home: Path) -> dg.DagsterInstance:
    """Return the instance in this folder, for reading."""
    return dg.DagsterInstance.from_ref(dg.DagsterInstance.local_temp(str(home)).get_ref())


def materializations(home: Path) -> dict[str, dg.AssetMaterialization]:
    """Return the latest materialization of each asset, by key."""
    with stored(home) as instance:
        events = [instance.get_latest_materialization_event(key) for key in instance.all_asset_keys()]
    made = [event.asset_materialization for event in events if event and event.asset_materialization]
    return {event.asset_key.to_user_string(): event for event in made}


def failed_gate(home: Path) -> str:
    """Return the one failed blocking check of the only run, as `asset:check failed: message`."""
    with stored(home) as instance:
        (run,) = instance.get_runs()
        events = instance.all_logs(run.run_id, dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    evaluations = [event.dagster_event.asset_check_evaluation_data for event in events if event.dagster_event]
    blocking = [found for found in evaluations if found.blocking and not found.passed]
    (failed,) = [found for found in blocking if found.severity is dg.AssetCheckSeverity.ERROR]
    message = " ".join((failed.description or "").split())
    return f"{failed.asset_key.to_user_string()}:{failed.check_name} failed: {message}"
