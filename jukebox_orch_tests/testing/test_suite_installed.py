"""The contract suite on the built-in projects, and on an installed project by name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jukebox_orch.projects.image_processor import ImageProcessor
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch.testing.suite import ProjectContract
from jukebox_orch_tests.support.installed import install


class TestJukebox(ProjectContract):
    project_class = Jukebox


class TestImageProcessor(ProjectContract):
    project_class = ImageProcessor


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """An environment with the project `blobs` and the pytest option, as installed by the product's wheel."""
    install(
        tmp_path,
        "acme-blobs",
        {
            "jukebox_orch.projects": {"blobs": "jukebox_orch_tests.support.projects:Blobs"},
            "pytest11": {"jukebox_orch": "jukebox_orch.testing.pytest_plugin"},
        },
    )
    return tmp_path


def suite(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        f"--rootdir={site}",
    ]
    return subprocess.run(
        [*command, "--pyargs", "jukebox_orch.testing.suite", *arguments],
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_installed_project_is_tested_by_name(site: Path) -> None:
    done = suite(
        site,
        "--project",
        "blobs",
        "-k",
        "TestProject and (run_config or valid_shape or declared_tables or keeps_shape or overlap)",
    )
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout


def test_unknown_project_fails_with_installed_names(site: Path) -> None:
    done = suite(site, "--project", "nosuch", "-k", "overlap")
    assert done.returncode == 1
    assert "no project 'nosuch'; installed: blobs, image_processor, jukebox" in done.stdout


def test_suite_without_project_is_skipped(site: Path) -> None:
    done = suite(site, "-k", "overlap")
    assert "1 skipped" in done.stdout
