"""The default name of a dataset: where its source lies, without what is secret and without file names."""

from pathlib import Path

import pytest

from jukebox_orch.contract import Source, SourceFile


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("s3://lake/charts/songs.parquet", "s3://lake/charts"),
        ("s3://lake/charts.v2", "s3://lake/charts.v2"),
        ("s3://lake/charts.parquet/", "s3://lake/charts.parquet"),
        ("https://user:pw@host/data/cifar-10.tar.gz?sig=x#y", "https://host/data"),
        ("/data/v1.2", "/data/v1.2"),
        ("/data/charts.v3/", "/data/charts.v3"),
        ("/data/./x/../charts", "/data/charts"),
        ("file:///data/charts/rows.CSV", "/data/charts"),
    ],
)
def test_location_gives_name_without_file_user_and_query(location: str, name: str):
    assert Source(location=location).dataset_name == name


def test_two_folders_with_dots_have_two_names(tmp_path: Path):
    names = set()
    for folder in ("charts.parquet", "charts.v2"):
        (tmp_path / folder).mkdir()
        names.add(Source(location=str(tmp_path / folder)).dataset_name)
    assert names == {str(tmp_path / "charts.parquet"), str(tmp_path / "charts.v2")}


def test_location_names_files_below_it():
    """New files lie in a subfolder per day; the name stays that of the landing location."""
    files = [SourceFile(url="/landing/2026-11-27/a.csv")]
    assert Source(location="/landing/", files=files).dataset_name == "/landing"
    assert Source(files=files).dataset_name == "/landing/2026-11-27"
