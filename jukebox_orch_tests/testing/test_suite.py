"""The contract suite passes for valid projects and reports the problem of broken ones."""

import re
import sys
import uuid
from pathlib import Path

import pytest

from jukebox_orch_tests.support.broken_projects import BROKEN
from jukebox_orch_tests.support.projects import Blobs, Rents

VALID = (Blobs, Rents)


class Reports:
    """A pytest plugin that stores the outcome of every test: class and test -> outcome and failure text."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("::", 1)[1]
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name] = (report.outcome, report.longreprtext)


def suite_of(project: type | str, name: str = "") -> str:
    """Return the test file that the author of a project writes."""
    module, name = (project, name) if isinstance(project, str) else (project.__module__, project.__name__)
    return (
        f"from {module} import {name}\n"
        "from jukebox_orch.testing.suite import ProjectContract\n"
        f"class TestContract(ProjectContract):\n    project_class = {name}\n"
    )


def run(folder: Path, source: str, *selected: str) -> dict[str, tuple[str, str]]:
    """Run a test file of a project's author in this process, which has already imported the frameworks."""
    # A unique name, because Python caches modules by name.
    path = folder / f"test_{uuid.uuid4().hex}.py"
    path.write_text(source)
    reports = Reports()
    ids = [f"{path}::{name}" for name in selected] or [str(path)]
    options = [
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        # It collects all garbage at the end of a session, of which there is one per test.
        "-p",
        "no:unraisableexception",
        "-c",
        "/dev/null",
        f"--rootdir={folder}",
    ]
    pytest.main([*options, *ids], plugins=[reports])
    return reports.outcomes


@pytest.mark.parametrize("project", BROKEN, ids=lambda project: project.__name__)
def test_broken_project_fails_with_reason(project: type, tmp_path: Path) -> None:
    test, message = BROKEN[project]
    outcome, text = run(tmp_path, suite_of(project), f"TestContract::{test}")[f"TestContract::{test}"]
    assert outcome == "failed"
    assert re.search(message, text), text


@pytest.mark.parametrize("project", VALID, ids=lambda project: project.__name__)
def test_valid_project_passes(project: type, tmp_path: Path) -> None:
    outcomes = run(tmp_path, suite_of(project))
    assert len(outcomes) > 20
    assert {name: text for name, (outcome, text) in outcomes.items() if outcome != "passed"} == {}


@pytest.mark.parametrize(
    ("line", "test", "message"),
    [
        ("import sklearn", "test_project_import_loads_no_framework", r"imports \['scipy', 'sklearn'\]"),
        ("import dagster", "test_project_import_loads_no_framework", r"imports \['dagster'\]"),
        ("import pickle", "test_sources_use_no_pickle", "careless.py:1: pickle"),
        (
            "def read(path): return np.load(path, allow_pickle=True)",
            "test_sources_use_no_pickle",
            "allow_pickle",
        ),
        ("def read(path): return pd.read_pickle(path)", "test_sources_use_no_pickle", "read_pickle"),
    ],
)
def test_heavy_or_pickling_imports_are_reported(
    line: str, test: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "careless.py").write_text(
        f"{line}\nfrom jukebox_orch_tests.support.projects import Blobs\nclass Careless(Blobs):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome, text = run(tmp_path, suite_of("careless", "Careless"), f"TestContract::{test}")[
        f"TestContract::{test}"
    ]
    del sys.modules["careless"]
    assert outcome == "failed"
    assert re.search(message, text), text
