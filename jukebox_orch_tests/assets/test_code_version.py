"""Code version and fingerprint change with everything that affects a result, and with nothing else."""

import ast
import importlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import jukebox_orch
from jukebox_orch.assets import code_version as subject
from jukebox_orch.assets.code_version import code_version, dependencies, fingerprint
from jukebox_orch.contract import InputError, ModelProject
from jukebox_orch.ml import LIBRARIES
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch_tests.support.projects import Blobs

PACKAGE = Path(jukebox_orch.__file__).parent
FILES = {
    "acme/__init__.py": "",
    "acme/models/__init__.py": "",
    "acme/models/iris.py": """
        import numpy as np
        from acme.common.cleaning import clean
        from jukebox_orch.projects.jukebox import Jukebox
        def lazily():
            import acme_helpers
        class Iris(Jukebox):
            name = "iris"
    """,
    "acme/models/vocabulary.json": '["setosa"]',
    "acme/common/__init__.py": "",
    "acme/common/cleaning.py": "def clean(x): return x",
    "acme_helpers.py": "import acme_numbers",
    "acme_numbers.py": "ONE = 1",
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return a folder on the import path with the plugin `acme.models.iris:Iris`."""
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [n for n in sys.modules if n.startswith("acme")]:
        del sys.modules[name]


def load(project: str = "acme.models.iris:Iris") -> ModelProject:
    """Import the plugin as a new process would."""
    for name in [n for n in sys.modules if n.startswith("acme")]:
        del sys.modules[name]
    dependencies.cache_clear()
    importlib.invalidate_caches()
    module, name = project.split(":")
    return getattr(importlib.import_module(module), name)()


def versions() -> tuple[str, str]:
    project = load()
    return code_version(project), fingerprint(project, code=code_version(project))


@pytest.mark.parametrize(
    "file", ["acme/common/cleaning.py", "acme/models/vocabulary.json", "acme/models/iris.py"]
)
def test_any_package_file_changes_code_version_and_fingerprint(file: str, site: Path) -> None:
    before = versions()
    assert versions() == before
    with (site / file).open("a") as changed:
        changed.write("\n")
    code, result = versions()
    assert code != before[0]
    assert result != before[1]


@pytest.mark.parametrize("file", ["acme_helpers.py", "acme_numbers.py"])
def test_imported_module_outside_package_changes_fingerprint(file: str, site: Path) -> None:
    before = versions()
    with (site / file).open("a") as changed:
        changed.write("\n")
    assert versions()[1] != before[1]


@pytest.mark.parametrize(
    "file", ["acme/models/__pycache__/iris.cpython-311.pyc", "acme/.notes", "acme/.git/HEAD", "other.py"]
)
def test_cache_hidden_and_unrelated_files_change_nothing(file: str, site: Path) -> None:
    before = versions()
    (site / file).parent.mkdir(parents=True, exist_ok=True)
    (site / file).write_text("changed")
    assert versions() == before


def test_renamed_file_changes_code_version(site: Path) -> None:
    before = versions()
    (site / "acme/models/vocabulary.json").rename(site / "acme/common/vocabulary.json")
    assert versions()[0] != before[0]


def test_single_module_plugin_is_versioned_by_its_file(site: Path) -> None:
    (site / "acme_single.py").write_text(
        "from jukebox_orch.projects.jukebox import Jukebox\nclass Single(Jukebox): name = 'single'\n"
    )
    before = code_version(load("acme_single:Single"))
    (site / "acme_other.py").write_text("")
    assert code_version(load("acme_single:Single")) == before
    with (site / "acme_single.py").open("a") as changed:
        changed.write("\n")
    assert code_version(load("acme_single:Single")) != before


def test_plugin_version_includes_extended_built_in_project(site: Path) -> None:
    (site / "acme_charts.py").write_text(
        "from jukebox_orch.projects.jukebox import Jukebox\nclass Charts(Jukebox): name = 'charts'\n"
    )
    roots = subject._project_roots(type(load("acme_charts:Charts")))
    assert roots == [site / "acme_charts.py", PACKAGE / "projects" / "jukebox"]


def test_project_without_source_file_is_refused() -> None:
    sourceless = type("Sourceless", (Blobs,), {"__module__": "missing_module"})
    with pytest.raises(InputError, match=r"Sourceless: has no source file.*define the project in a module"):
        code_version(sourceless())


def test_imported_library_version_changes_fingerprint(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = dependencies(type(load()))
    assert {"scikit-learn", "tensorflow", "keras", "numpy", "pandas"} <= set(found)
    assert {"acme_helpers", "acme_numbers"} <= set(found)
    before = versions()
    original = subject.metadata.version
    monkeypatch.setattr(
        subject.metadata, "version", lambda name: "0.0" if name == "scikit-learn" else original(name)
    )
    code, result = versions()
    assert code == before[0]
    assert result != before[1]


def test_code_version_reads_computation_and_project_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks, figures and descriptions do not compute a result, so they are not part of the code version."""
    read: set[Path] = set()
    original: Callable[[Path], bytes] = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.add(path) or original(path))
    code_version(Jukebox())
    folders = {path.relative_to(PACKAGE).parts[0] for path in read}
    assert folders == {"contract", "ml", "projects"}
    assert {p for folder in ("contract", "ml") for p in (PACKAGE / folder).rglob("*.py")} <= read
    assert {path.relative_to(PACKAGE).parts[1] for path in read if "projects" in path.parts} == {"jukebox"}


def test_fingerprint_covers_every_library_of_computation() -> None:
    imported = {
        name.split(".")[0]
        for folder in ("contract", "ml")
        for path in (PACKAGE / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    figures = {"matplotlib"}  # the type of a project's figures, which are not part of a stored result
    assert imported - set(sys.stdlib_module_names) - {"jukebox_orch"} - figures == set(LIBRARIES)
