"""A broken plugin fails with one message that names its distribution, its object and what is missing."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from pydantic import Field

from jukebox_orch.assets import build_training_graph
from jukebox_orch.contract import Hyperparameters, ModelProject, Settings, SourceFile
from jukebox_orch.plugins import GROUP, ProjectError, check_project, discover
from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.installed import install
from jukebox_orch_tests.support.projects import Blobs, Rents


class NoDefault(Settings):
    day: str = Field(description="Day of the test split")


class TooLong(Hyperparameters):
    epochs: int = Field(default=0, ge=1, description="Passes over the training split")


class Unpinned(Hyperparameters):
    backbones: list[SourceFile] = Field(default_factory=list, description="Pre-trained weights")


def broken(**attributes: Any) -> type:
    return type("Broken", (Blobs,), attributes)


def lacking(name: str) -> type:
    return type("Broken", (Blobs,), {name: getattr(ModelProject, name)})


PROBLEMS = {
    "module": (pytest, "is not a subclass of jukebox_orch.contract.ModelProject"),
    "instance": (Blobs(), "is not a subclass of jukebox_orch.contract.ModelProject"),
    "unrelated class": (dict, "is not a subclass of jukebox_orch.contract.ModelProject"),
    "contract itself": (ModelProject, "lacks build_features(), lacks build_model(), lacks load()"),
    "no load": (lacking("load"), "lacks load()"),
    "no validate": (lacking("validate"), "lacks validate()"),
    "no build_features": (lacking("build_features"), "lacks build_features()"),
    "no build_model": (lacking("build_model"), "lacks build_model()"),
    "upper-case name": (broken(name="Blobs"), "has the illegal name 'Blobs'"),
    "path as name": (broken(name="../blobs"), "has the illegal name '../blobs'"),
    "no name": (broken(name=None), "has the illegal name None"),
    "too long name": (broken(name="b" * 41), "has the illegal name"),
    "no description": (broken(description=None), "lacks description"),
    "task class": (broken(task=type(Blobs.task)), "lacks task (Classification(), Regression()"),
    "illegal rule": (broken(rules={"no gaps!": "?"}), "has the illegal rule name 'no gaps!'"),
    "rule that is not a string": (broken(rules={3: "?"}), "has the illegal rule name 3"),
    "rules that are a list": (broken(rules=["numbers"]), "rules"),
    "tables that are a list": (broken(tables=["rows"]), "tables"),
    "rule of product": (broken(rules={"invalid_share": "?"}), "rule name 'invalid_share'"),
    "other rule of product": (broken(rules={"invalid_rows": "?"}), "rule name 'invalid_rows'"),
    "illegal owner": (broken(owners=("the team",)), "has the illegal owner 'the team'"),
    "owners that are not a list": (broken(owners=None), "owners"),
    "settings of wrong class": (broken(hyperparameters=Settings), "lacks hyperparameters, a subclass of"),
    "settings that are not a class": (
        broken(split={"test_share": 0.2}),
        "lacks split, a subclass of Settings",
    ),
    "setting without default": (broken(split=NoDefault), "has no default for split.day"),
    "file of any content": (
        broken(hyperparameters=Unpinned),
        "has the SourceFile hyperparameters.backbones: use a PinnedFile, whose sha256 is required",
    ),
    "default out of bounds": (
        broken(hyperparameters=TooLong),
        "has the default hyperparameters.epochs = 0: Input should be",
    ),
    "limitations None": (broken(limitations=None), "has limitations None, not a text"),
    "tolerance text": (broken(parity_tolerance="small"), "has the parity_tolerance 'small', not a number"),
    "tolerance NaN": (broken(parity_tolerance=float("nan")), "has the parity_tolerance nan, not a number"),
    "too few arguments": (
        broken(load=lambda self: {}),
        "has load(self), expected load(self, source)",
    ),
    "other argument name": (
        broken(build_model=lambda self, features, parameters: None),
        ", expected build_model(self, features, hyperparameters)",
    ),
    "optional method": (broken(augment=lambda self, x: x), "has augment(self, x), expected augment("),
    "not callable": (broken(validate=None), "has validate = None, expected a method"),
    "constructor with arguments": (
        broken(__init__=lambda self, path: None),
        "cannot be created without arguments",
    ),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_broken_class_is_refused_with_reason(problem: str):
    candidate, message = PROBLEMS[problem]
    with pytest.raises(ProjectError) as error:
        check_project(candidate, "acme-models: 'acme:Broken'")
    assert str(error.value).startswith("acme-models: 'acme:Broken' ")
    assert message in str(error.value)


def test_all_problems_are_in_one_message():
    with pytest.raises(ProjectError) as error:
        check_project(broken(name="B", description=None, rules={"!": ""}), "acme-models: 'acme:Broken'")
    for text in ("illegal name 'B'", "lacks description", "illegal rule name '!'"):
        assert text in str(error.value)


def test_additional_optional_arguments_are_accepted():
    def build_model(self: Blobs, features: Any, hyperparameters: Any, width: int = 8) -> None: ...

    assert check_project(broken(build_model=build_model), "acme").name == "blobs"


def install_plugin(folder: Path, distribution: str, entries: dict[str, str], source: str) -> None:
    """Write an installed plugin: its module and its entry points."""
    install(folder, distribution, {GROUP: entries})
    (folder / f"{distribution.replace('-', '_')}.py").write_text(source)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def entries(site: Path) -> list[metadata.EntryPoint]:
    found = metadata.distributions(path=[str(site)])
    return [entry for distribution in found for entry in distribution.entry_points.select(group=GROUP)]


def test_import_error_names_distribution_and_object(site: Path):
    install_plugin(site, "acme-shoes", {"shoes": "acme_shoes:Shoes"}, "import missing_module\n")
    assert discover(entries(site)).problems == {
        "shoes": "acme-shoes: 'acme_shoes:Shoes' cannot be imported: ModuleNotFoundError: "
        "No module named 'missing_module'"
    }


def test_missing_attribute_and_raising_module_are_named(site: Path):
    install_plugin(site, "acme-hats", {"hats": "acme_hats:Hats"}, "")
    install_plugin(site, "acme-ties", {"ties": "acme_ties:Ties"}, "raise RuntimeError('no licence')\n")
    problems = discover(entries(site)).problems
    assert "acme-hats: 'acme_hats:Hats' cannot be imported: AttributeError" in problems["hats"]
    assert problems["ties"] == "acme-ties: 'acme_ties:Ties' cannot be imported: RuntimeError: no licence"


def test_projects_with_same_name_are_refused_naming_both(site: Path):
    source = "from jukebox_orch_tests.support.projects import Blobs\nclass Mine(Blobs):\n    pass\n"
    install_plugin(site, "acme-a", {"a": "acme_a:Mine"}, source)
    install_plugin(site, "acme-b", {"b": "acme_b:Mine"}, source)
    found = discover(entries(site))
    assert list(found.projects) == ["blobs"]
    assert found.problems == {
        "b": "acme-b: 'acme_b:Mine' has the name 'blobs', which acme-a: 'acme_a:Mine' already has"
    }


def test_broken_plugins_with_same_entry_point_are_both_reported(site: Path):
    install_plugin(site, "acme-a", {"shoes": "acme_a:Shoes"}, "")
    install_plugin(site, "acme-b", {"shoes": "acme_b:Shoes"}, "")
    text = "\n".join(discover(entries(site)).problems.values())
    assert "acme-a: 'acme_a:Shoes'" in text
    assert "acme-b: 'acme_b:Shoes'" in text


def test_broken_plugin_stops_definitions_unless_left_out(site: Path):
    install_plugin(site, "acme-shoes", {"shoes": "acme_shoes:Shoes"}, "import missing_module\n")
    code = "from jukebox_orch.definitions import defs; print([j.name for j in defs.resolve_all_job_defs()])"

    def load(choice: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code],
            env={"PATH": "", "PYTHONPATH": f"{site}", "JUKEBOX_ORCH_BROKEN_PROJECTS": choice},
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    stopped, left_out, unknown = load("stop"), load("leave_out"), load("maybe")
    assert stopped.returncode == 1
    assert "acme-shoes: 'acme_shoes:Shoes' cannot be imported" in stopped.stderr
    assert left_out.returncode == 0, left_out.stderr
    assert "jukebox_training" in left_out.stdout
    assert "acme-shoes: 'acme_shoes:Shoes' cannot be imported" in left_out.stderr
    assert "JUKEBOX_ORCH_BROKEN_PROJECTS = 'maybe': use stop or leave_out" in unknown.stderr


def test_left_out_plugin_is_asset_with_its_problem(site: Path):
    install_plugin(site, "acme-shoes", {"shoes": "acme_shoes:Shoes"}, "import missing_module\n")
    listed = subprocess.run(
        [Path(sys.executable).with_name("dg"), "list", "defs", "--json"],
        env={**os.environ, "PYTHONPATH": f"{site}", "JUKEBOX_ORCH_BROKEN_PROJECTS": "leave_out"},
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    assert "left out: acme-shoes: 'acme_shoes:Shoes' cannot be imported" in listed.stderr
    assets = {asset["asset_key"]: asset for asset in json.loads(listed.stdout)["assets"]}
    assert "jukebox/dataset" in assets
    asset = assets["broken_projects/shoes"]
    assert "This model project is left out" in asset["description"]
    assert "No module named 'missing_module'" in asset["description"]


def test_projects_with_equal_settings_names_load_together():
    """Dagster identifies enums and shapes by name, and two plugins may both have a class Split."""
    from typing import Literal

    def split(*choices: str) -> type[Settings]:
        by = (Literal[choices], Field(default=choices[0], description="How"))
        return type("Split", (Settings,), {"__annotations__": {"by": by[0]}, "by": by[1]})

    one = type("One", (Blobs,), {"__module__": __name__, "name": "one", "split": split("day", "song")})
    two = type("Two", (Rents,), {"__module__": __name__, "name": "two", "split": split("customer")})
    definitions = dg.Definitions.merge(
        build_training_graph(one()),
        build_training_graph(two()),
        build_training_graph(two(), name="three"),
        build_training_graph(two(), key_prefix=("emea",)),
        build_training_graph(two(), key_prefix=("apac", "south-east")),
        dg.Definitions(resources=_resources()),
    )
    dg.Definitions.validate_loadable(definitions)
    for job in ("one_training", "two_training", "three_training", "emea_two_training"):
        definitions.resolve_job_def(job)
    names = {spec.group_name for spec in definitions.resolve_all_asset_specs()}
    assert names == {"one", "two", "three", "emea_two", "apac_south_east_two"}
    definitions.resolve_implicit_global_asset_job_def()


def test_setting_without_form_field_is_reported():
    from datetime import date

    class Days(Hyperparameters):
        first: date = Field(default=date(2024, 1, 1), description="First day")

    with pytest.raises(ProjectError, match=r"acme-models: 'acme:Broken' .*hyperparameters .*Days_first"):
        check_project(broken(hyperparameters=Days), "acme-models: 'acme:Broken'")


def _resources() -> dict[str, Any]:
    from jukebox_orch import deployment

    return deployment.resources()
