"""The suite for project authors passes on sound projects and tells what is wrong with broken ones."""

import re
import sys
import uuid
from pathlib import Path

import pytest

from jukebox_orch_tests.support.broken_projects import BROKEN
from jukebox_orch_tests.support.projects import Blobs, Rents

SOUND = (Blobs, Rents)


class Reports:
    """A pytest plugin that keeps the outcome of every test: class and test -> passed, failed and its text."""

    def __init__(self) -> None:
        self.outcomes: dict[str, tuple[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("::", 1)[1]
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[name] = (report.outcome, report.longreprtext)


def suite_of(project: type | str, name: str = "") -> str:
    """The test file that the author of a project writes."""
    module, name = (project, name) if isinstance(project, str) else (project.__module__, project.__name__)
    return (
        f"from {module} import {name}\n"
        "from jukebox_orch.testing.suite import ProjectContract\n"
        f"class TestIt(ProjectContract):\n    project_class = {name}\n"
    )


def run(folder: Path, source: str, *selected: str) -> dict[str, tuple[str, str]]:
    """Run a test file of a project's author in this process, where the frameworks are loaded already."""
    # Modules are kept by name for the life of the process.
    path = folder / f"test_{uuid.uuid4().hex}.py"
    path.write_text(source)
    reports = Reports()
    ids = [f"{path}::{name}" for name in selected] or [str(path)]
    options = [
        "-q",
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        f"--rootdir={folder}",
    ]
    pytest.main([*options, *ids], plugins=[reports])
    return reports.outcomes


@pytest.mark.parametrize("project", BROKEN, ids=lambda project: project.__name__)
def test_a_broken_project_is_told_what_is_wrong(project: type, tmp_path: Path) -> None:
    test, message = BROKEN[project]
    outcome, text = run(tmp_path, suite_of(project), f"TestIt::{test}")[f"TestIt::{test}"]
    assert outcome == "failed"
    assert re.search(message, text), text


@pytest.mark.parametrize("project", SOUND, ids=lambda project: project.__name__)
def test_a_sound_project_passes(project: type, tmp_path: Path) -> None:
    outcomes = run(tmp_path, suite_of(project))
    assert len(outcomes) > 20
    assert {name: text for name, (outcome, text) in outcomes.items() if outcome != "passed"} == {}


@pytest.mark.parametrize(
    ("line", "test", "message"),
    [
        ("import sklearn", "test_importing_the_project_is_light", r"imports \['scipy', 'sklearn'\]"),
        ("import dagster", "test_importing_the_project_is_light", r"imports \['dagster'\]"),
        ("import pickle", "test_nothing_is_pickled", "sloppy.py:1: pickle"),
        (
            "def read(path): return np.load(path, allow_pickle=True)",
            "test_nothing_is_pickled",
            "allow_pickle",
        ),
        ("def read(path): return pd.read_pickle(path)", "test_nothing_is_pickled", "read_pickle"),
    ],
)
def test_a_sloppy_module_is_told(
    line: str, test: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sloppy.py").write_text(
        f"{line}\nfrom jukebox_orch_tests.support.projects import Blobs\nclass Sloppy(Blobs):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    outcome, text = run(tmp_path, suite_of("sloppy", "Sloppy"), f"TestIt::{test}")[f"TestIt::{test}"]
    del sys.modules["sloppy"]
    assert outcome == "failed"
    assert re.search(message, text), text
