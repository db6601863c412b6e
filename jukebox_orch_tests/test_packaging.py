"""Contents of the wheel, and the extras that its modules need: new environments with one extra at a time."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.installed import build_wheel, new_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
PACKAGES = ("jukebox_orch", "kfp_bridge")
# Modules that need an extra to be imported; every other module imports with the base dependencies only.
NEEDS = {
    "jukebox_orch.k8s.run_launcher": "k8s",
    "jukebox_orch.run_api": "run-api",
    "jukebox_orch.testing": "testing",
}
# Imports inside functions, by extra.
USES = {
    "training": (
        "from jukebox_orch.ml.keras_runtime import import_keras; import_keras();"
        "from jukebox_orch.ml import onnx_predictor; import tf2onnx, onnx, onnxruntime, sklearn.metrics;"
        "from jukebox_orch.projects.image_processor import ImageProcessor; p = ImageProcessor(); p.load(p.source());"
        "import mlflow; from jukebox_orch.assets import figures; figures.balance;"
        "from jukebox_orch.contract import Classification"
    ),
    "kfp": "import kfp, kfp.kubernetes, kfp_server_api, tenacity, docker, markdown_it, kfp_bridge.compiling.compiler",
    "s3": "import fsspec; fsspec.filesystem('s3')",
    "webserver": "import dagster_webserver",
    "k8s": "import dagster_k8s, dagster_postgres, psycopg2, kubernetes",
}


def modules() -> list[str]:
    """Return every module of the two packages."""
    found = []
    for package in PACKAGES:
        for path in sorted((CHECKOUT / package).rglob("*.py")):
            parts = path.relative_to(CHECKOUT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def extra_of(module: str) -> str:
    return next((extra for prefix, extra in NEEDS.items() if f"{module}.".startswith(f"{prefix}.")), "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


def test_wheel_contains_two_packages_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == set(PACKAGES)
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("extra", ["", "training", "webserver", "k8s", "run-api", "kfp", "s3", "testing"])
def test_modules_import_with_their_extra_only(extra: str, wheel: Path, tmp_path: Path) -> None:
    bin_ = new_environment(tmp_path / "env", wheel, [extra] if extra else [])
    names = [module for module in modules() if extra_of(module) in ("", extra)]
    assert len(names) > 100
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)\n{USES.get(extra, '')}"
    done = subprocess.run(
        [bin_ / "python", "-c", code],
        cwd=tmp_path,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3_000:]


@pytest.mark.parametrize("module", NEEDS)
def test_module_without_its_extra_fails_to_import(module: str, wheel: Path, tmp_path: Path) -> None:
    """The import fails without the extra; otherwise the table above names an extra that is not needed."""
    if module == "jukebox_orch.testing":
        module += ".suite"
    bin_ = new_environment(tmp_path / "env", wheel)
    done = subprocess.run(
        [bin_ / "python", "-c", f"import {module}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named" in done.stderr
