"""Run config and pipeline parameters: types, defaults, names, and which task takes which."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from jukebox_orch_tests.bridge.graph_reader import DATASET, SOURCE, graph_of, steps, strict_export_error
from kfp_bridge.pipeline_graph import Parameter, PipelineGraph
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.reading.run_config import parameter_values, read_parameters, run_config


def test_config_mapping_fields_become_parameters():
    parameters = {p.name: p for p in read_graph(bridge_graphs.toy, SOURCE, job="toy_training").parameters}
    assert parameters["epochs"] == Parameter(
        "epochs", ("training", "epochs"), "NUMBER_INTEGER", 5, False, "Passes over the training data"
    )
    assert parameters["optimizer"].description == "(one of sgd, adam)"
    assert {name: (p.type, p.default) for name, p in parameters.items()} == {
        "bad_data": ("BOOLEAN", False),
        "epochs": ("NUMBER_INTEGER", 5),
        "extra": ("STRUCT", {}),
        "floor": ("NUMBER_DOUBLE", None),
        "layers": ("LIST", [4, 2]),
        "learning_rate": ("NUMBER_DOUBLE", 0.1),
        "model_name": ("STRING", "toy"),
        "optimizer": ("STRING", "sgd"),
    }


def test_op_fields_become_parameters_with_job_config_as_default():
    graph = read_graph(bridge_graphs.toy, SOURCE, job="toy_by_op")
    parameters = {p.name: p for p in graph.parameters}
    assert parameters["toy__trained_model_training_epochs"].default == 7
    assert parameters["toy__dataset_training_epochs"].default == 5
    assert parameters["toy__dataset_training_epochs"].path == (
        "ops",
        "toy__dataset",
        "config",
        "training",
        "epochs",
    )
    assert set(steps(graph)["toy__dataset"].parameters) == {
        n for n in parameters if n.startswith("toy__dataset_")
    }
    assert steps(graph)["toy__published"].parameters == ()


@pytest.fixture(scope="module")
def toy_parameters() -> tuple[Parameter, ...]:
    return read_graph(bridge_graphs.toy, SOURCE, job="toy_training").parameters


@given(
    values=st.fixed_dictionaries(
        {},
        optional={
            "epochs": st.integers(1, 99),
            "layers": st.lists(st.integers(), max_size=3),
            "extra": st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2),
            "model_name": st.text(max_size=5),
            "bad_data": st.booleans(),
            "floor": st.floats(allow_nan=False),
        },
    )
)
def test_parameter_values_invert_run_config(toy_parameters: tuple[Parameter, ...], values: dict[str, Any]):
    config = run_config({parameter.name: parameter.path for parameter in toy_parameters}, values)
    assert parameter_values(toy_parameters, config) == values


def test_run_config_field_without_parameter_is_named(toy_parameters: tuple[Parameter, ...]):
    with pytest.raises(KeyError, match=r"training\.momentum"):
        parameter_values(toy_parameters, {"training": {"momentum": 1}})


class Settings(dg.Config):
    rows: int = 3
    epochs: int = 5
    rate: float = 0.1


def declared(fields: list[str], *, rate_matters: bool = False) -> PipelineGraph:
    """Return the graph of data and a model that declares these fields of the job's config."""

    @dg.asset(metadata=DATASET, code_version="1", config_schema={"rows": int})
    def data():
        return 1

    metadata = {"kfp/artifact_type": "Model", "kfp/config": fields}

    @dg.asset(metadata=metadata, code_version="1", deps=[data], config_schema={"epochs": int, "rate": float})
    def model():
        return 1

    @dg.config_mapping
    def settings(val: Settings):
        rate = val.rate if rate_matters else 0.5
        return {
            "ops": {
                "data": {"config": {"rows": val.rows}},
                "model": {"config": {"epochs": val.epochs, "rate": rate}},
            }
        }

    job = dg.define_asset_job("training", selection=[data, model], config=settings)
    return graph_of(data, model, jobs=[job], job="training")


def test_cached_task_takes_declared_parameters_others_take_all():
    graph = declared(["epochs"])
    assert {name: step.parameters for name, step in steps(graph).items()} == {
        "data": ("epochs", "rate", "rows"),
        "model": ("epochs",),
    }
    assert not graph.unmapped


def test_incomplete_declaration_stops_export(tmp_path: Path):
    message = strict_export_error(declared(["epochs"], rate_matters=True), tmp_path)
    assert "task model: kfp/config: its config also depends on rate; declare it" in message
    assert not declared(["epochs", "rate"], rate_matters=True).unmapped


def test_declared_unknown_field_stops_export(tmp_path: Path):
    message = strict_export_error(declared(["epochs", "epoch"]), tmp_path)
    assert "task model: kfp/config: the job has no config field 'epoch'" in message


def test_fields_whose_names_collide_are_named():
    nested = {"a_b": {"x": int}, "a": {"b": {"x": int}}}

    @dg.config_mapping(config_schema=nested)
    def settings(_config: dict[str, Any]) -> dict[str, Any]:
        return {}

    @dg.op
    def nothing() -> None: ...

    @dg.job(config=settings)
    def plain() -> None:
        nothing()

    _, rows = read_parameters(plain)
    (unmapped,) = [row for row in rows if row.outcome == "unmapped"]
    assert unmapped.subject == "parameter a_b_x"
    assert {"a_b.x", "a.b.x"} <= set(unmapped.becomes.split())
    assert "rename one" in unmapped.becomes
