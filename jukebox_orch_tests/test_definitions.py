"""The code location: a fast import without side effects or warnings, and the documented graph."""

import json
import subprocess
import sys
from typing import Any

import dagster as dg
import pytest

PROBE = """
import json, socket, sys, warnings
from pathlib import Path

events = []

def note(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writing = any(letter in (mode or "") for letter in "wax+") or (isinstance(flags, int) and flags & 3)
        harmless = isinstance(path, int) or ".pyc" in str(path) or str(path) == "/dev/null"
        if writing and not harmless:
            events.append(["write", str(path)])
    elif event.startswith(("socket.connect", "socket.bind", "socket.getaddr", "subprocess.", "os.mkdir", "os.rename")):
        if event in ("os.mkdir", "os.rename") and "__pycache__" in str(arguments[0]):
            return
        events.append([event, str(arguments[:1])])

import dagster  # its import starts the program `file`
sys.addaudithook(note)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from jukebox_orch.definitions import defs
    own = [str(w.message) for w in caught if "jukebox_orch" in w.filename or "jukebox" in str(w.message)]
print(json.dumps({"modules": sorted({m.split(".")[0] for m in sys.modules}), "events": events, "warnings": own}))
"""


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("import")
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        cwd=folder,
        env={"HOME": str(folder), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert list(folder.iterdir()) == []
    return json.loads(result.stdout)


HEAVY = ["tensorflow", "keras", "mlflow", "onnx", "onnxruntime", "tf2onnx", "sklearn", "scipy", "matplotlib"]
HEAVY += ["kubernetes", "dagster_k8s", "kfp", "kfp_bridge", "PIL", "dagster_webserver"]
# Lighter than those, but together half as heavy as Dagster.
HEAVY += ["numpy", "pandas", "pyarrow", "fsspec", "upath", "httpx", "aiohttp"]


@pytest.mark.parametrize("module", HEAVY)
def test_import_of_definitions_does_not_load(module: str, imported: dict[str, Any]):
    assert module not in imported["modules"]


def test_import_of_definitions_has_no_side_effects(
    imported: dict[str, Any],
):
    assert imported["events"] == []


def test_import_of_definitions_gives_no_warning(imported: dict[str, Any]):
    assert imported["warnings"] == []


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    from jukebox_orch.definitions import defs

    return defs


def test_definitions_are_loadable(defs: dg.Definitions):
    dg.Definitions.validate_loadable(defs)


GRAPH = {
    "dataset": (
        [],
        {"pandas", "parquet"},
        {"not_empty": True, "expected_columns": True, "real_data": False, "drift": False},
    ),
    "validated_data": (
        ["dataset"],
        {"python", "json"},
        {
            "schema": True,
            "types": True,
            "ranges": True,
            "join_completeness": True,
            "label_coverage": True,
            "invalid_share": True,
            "invalid_rows": False,
        },
    ),
    "features": (
        ["dataset"],
        {"numpy"},
        {
            "finite": True,
            "normalised": True,
            "fitted_on_train": True,
            "no_overlap": True,
            "time_order": True,
            "class_balance": False,
        },
    ),
    "trained_model": (
        ["features", "validated_data"],
        {"keras", "tensorflow"},
        {"finite_loss": True, "beats_baseline": True, "overfitting": False},
    ),
    "evaluation": (
        ["features", "trained_model"],
        {"scikitlearn", "json"},
        {"metric_floor": True, "not_worse_than_champion": True, "class_collapse": False},
    ),
    "onnx_model": (
        ["features", "trained_model"],
        {"onnx", "tensorflow"},
        {
            "same_as_keras": True,
            "same_decisions": True,
            "valid": True,
            "dynamic_batch": True,
            "self_contained": True,
            "size": False,
            "opset": False,
        },
    ),
    "registered_model": (
        ["evaluation", "features", "onnx_model"],
        {"mlflow", "onnx"},
        {"reads_back": True, "promoted": False},
    ),
}


def test_graph_has_documented_assets_and_checks(defs: dg.Definitions):
    graph = defs.resolve_asset_graph()
    found = {}
    for asset in GRAPH:
        key = dg.AssetKey(["jukebox", asset])
        node = graph.get(key)
        specs = defs.resolve_assets_def(key).check_specs
        checks = {spec.name: spec.blocking for spec in specs if spec.asset_key == key}
        found[asset] = (sorted(p.path[-1] for p in node.parent_keys), node.kinds, checks)
    assert found == GRAPH


def test_every_asset_has_description_and_version(defs: dg.Definitions):
    for spec in defs.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.code_version, spec.key
        assert spec.kinds, spec.key
        assert spec.group_name == spec.key.path[0]
        assert spec.metadata["kfp/artifact_type"] in ("Dataset", "Model", "Artifact")
    assert {s.key.path[0] for s in defs.resolve_all_asset_specs()} == {"jukebox", "image_processor"}


def test_every_check_has_description(defs: dg.Definitions):
    for asset in GRAPH:
        for spec in defs.resolve_assets_def(["jukebox", asset]).check_specs:
            assert spec.description, spec.key


JOBS = {
    "training": list(GRAPH),
    "data": ["dataset", "validated_data", "features"],
    "evaluate_and_register": ["evaluation", "onnx_model", "registered_model"],
}


@pytest.mark.parametrize("job", JOBS)
def test_job_selects_its_assets_with_all_checks(job: str, defs: dg.Definitions):
    found = defs.resolve_job_def(f"jukebox_{job}")
    selected = {key.path[-1] for key in found.asset_layer.executable_asset_keys}
    assert selected == set(JOBS[job])
    checks = {(k.asset_key.path[-1], k.name) for k in found.asset_layer.asset_graph.asset_check_keys}
    assert {(asset, name) for asset in JOBS[job] for name in GRAPH[asset][2]} <= checks


def test_every_project_has_same_jobs(defs: dg.Definitions):
    jobs = {job.name for job in defs.resolve_all_job_defs() if not job.name.startswith("__")}
    suffixes = ["training", "data", "evaluate_and_register", "promote", "rollback"]
    assert jobs == {
        f"{project}_{suffix}" for project in ("jukebox", "image_processor") for suffix in suffixes
    }


def test_sensors_are_stopped_by_default(defs: dg.Definitions):
    running = {s.name for s in defs.sensors or () if s.default_status == dg.DefaultSensorStatus.RUNNING}
    assert running == {"mlflow_run_status"}
    assert len(list(defs.sensors or ())) == 1 + 3 * 2
    assert not list(defs.schedules or ())
