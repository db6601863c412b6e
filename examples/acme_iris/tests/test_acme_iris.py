"""The project passes the contract suite and refuses bad data."""

from pathlib import Path

import pytest
from acme_iris import AcmeIris

from jukebox_orch.contract import InputError, Source
from jukebox_orch.testing.suite import ProjectContract


class TestAcmeIris(ProjectContract):
    """Runs all tests of the suite."""

    project_class = AcmeIris


def test_impossible_measurement_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text(
        "sepal_length,sepal_width,petal_length,petal_width,species\n"
        "5.1,3.5,1.4,0.2,setosa\n-1,3.5,1.4,0.2,setosa\n510,3.5,1.4,0.2,setosa\n"
    )
    project = AcmeIris()
    result = project.validate(project.load(Source(location=str(path))))
    assert (result.rows, result.invalid_rows) == (3, 2)
    assert result.findings[0].rule == "measurements"


def test_unknown_species_stops_run(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text("sepal_length,sepal_width,petal_length,petal_width,species\n5.1,3.5,1.4,0.2,sibirica\n")
    project = AcmeIris()
    unknown, missing = project.validate(project.load(Source(location=str(path)))).findings
    assert unknown.fatal
    assert "unknown species sibirica" in unknown.message
    assert missing.fatal
    assert "no flowers of setosa, versicolor, virginica" in missing.message


def test_unreadable_csv_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"flowers\.csv"):
        AcmeIris().load(Source(location=str(path)))
