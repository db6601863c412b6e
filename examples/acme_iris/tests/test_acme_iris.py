"""The project keeps to the contract, and refuses what it should."""

from pathlib import Path

import pytest
from acme_iris import AcmeIris

from jukebox_orch.contract import InputError, Source
from jukebox_orch.testing.suite import ProjectContract


class TestAcmeIris(ProjectContract):
    """The whole suite for project authors."""

    project_class = AcmeIris


def test_an_impossible_measurement_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text(
        "sepal_length,sepal_width,petal_length,petal_width,species\n"
        "5.1,3.5,1.4,0.2,setosa\n-1,3.5,1.4,0.2,setosa\n510,3.5,1.4,0.2,setosa\n"
    )
    project = AcmeIris()
    result = project.validate(project.load(Source(location=str(path))))
    assert (result.rows, result.invalid_rows) == (3, 2)
    assert result.findings[0].rule == "measurements"


def test_an_unknown_species_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_text("sepal_length,sepal_width,petal_length,petal_width,species\n5.1,3.5,1.4,0.2,sibirica\n")
    project = AcmeIris()
    unknown, missing = project.validate(project.load(Source(location=str(path)))).findings
    assert unknown.fatal
    assert "unknown species sibirica" in unknown.message
    assert missing.fatal
    assert "no flower of setosa, versicolor, virginica" in missing.message


def test_a_file_that_is_no_csv_is_named(tmp_path: Path) -> None:
    path = tmp_path / "flowers.csv"
    path.write_bytes(b"")
    with pytest.raises(InputError, match=r"flowers\.csv"):
        AcmeIris().load(Source(location=str(path)))
