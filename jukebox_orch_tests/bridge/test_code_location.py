"""Code locations and jobs that cannot be read are refused with a message that names them."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.bridge.graph_reader import DATASET, SOURCE, graph_of
from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import CodeLocation
from kfp_bridge.reading.code_location import load_definitions
from kfp_bridge.reading.graph import read_graph


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"job": "absent"}, "job 'absent'"),
        ({"job": "toy_training", "select": "key:("}, "selection 'key:\\('"),
        ({"job": "toy_training", "select": 'key:"absent"'}, "selects no asset of job 'toy_training'"),
        ({"select": 'key:"absent"'}, 'key:"absent"'),
    ],
)
def test_unknown_job_or_selection_is_refused(options: dict[str, Any], message: str):
    with pytest.raises(BridgeError, match=message):
        read_graph(bridge_graphs.toy, SOURCE, **options)


def test_job_of_ops_is_refused():
    @dg.op
    def work():
        return 1

    @dg.job
    def chores():
        work()

    with pytest.raises(BridgeError, match="is a job of ops"):
        read_graph(dg.Definitions(jobs=[chores]), SOURCE, job="chores")


def test_cycle_is_refused():
    @dg.asset(deps=["second"], metadata=DATASET)
    def first():
        return 1

    @dg.asset(deps=["first"], metadata=DATASET)
    def second():
        return 1

    with pytest.raises(BridgeError, match=r"[Cc]ircular"):
        graph_of(first, second)


@pytest.mark.parametrize(
    ("content", "attribute", "message"),
    [
        ("raise RuntimeError('broken')", None, "cannot load .*RuntimeError: broken"),
        ("x = 1", None, "expected one dagster.Definitions, found none"),
        (
            "import dagster as dg\na = dg.Definitions()\nb = dg.Definitions()",
            None,
            "found a, b; name one with -a",
        ),
        ("x = 1", "x", "is a int, expected dagster.Definitions"),
        ("x = 1", "y", "has no attribute 'y'"),
    ],
)
def test_file_without_unique_definitions_is_refused(
    content: str, attribute: str | None, message: str, tmp_path: Path
):
    path = tmp_path / "code.py"
    path.write_text(content)
    with pytest.raises(BridgeError, match=message):
        load_definitions(CodeLocation(file=str(path), attribute=attribute))


def test_missing_module_or_file_is_refused():
    with pytest.raises(BridgeError, match="cannot load no_such_module: ModuleNotFoundError"):
        load_definitions(CodeLocation(module="no_such_module"))
    with pytest.raises(BridgeError, match=r"absent\.py: no such file"):
        load_definitions(CodeLocation(file="absent.py"))


def test_lazy_definitions_in_file_are_found(tmp_path: Path):
    path = tmp_path / "lazy.py"
    path.write_text(
        "import dagster as dg\n@dg.asset\ndef one(): return 1\n"
        "@dg.definitions\ndef defs(): return dg.Definitions(assets=[one])\n"
    )
    assert load_definitions(CodeLocation(file=str(path))).resolve_all_asset_specs()[0].key == dg.AssetKey(
        "one"
    )
