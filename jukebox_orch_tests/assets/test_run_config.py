"""Run config: fields with bounds and defaults; bad values are refused by name before the first step."""

import json
import subprocess
import sys
from typing import Any, Literal

import dagster as dg
import pytest
import yaml
from pydantic import Field

from jukebox_orch.assets import build_training_graph
from jukebox_orch.assets.run_config import config_schema
from jukebox_orch.assets.training_graph import TrainingGraph
from jukebox_orch.contract import Gates, Hyperparameters, InputError, Settings
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch_tests.support.deployment import Deployment, made
from jukebox_orch_tests.support.projects import Blobs

BAD = {
    "below its bound": ({"hyperparameters": {"epochs": 0}}, "hyperparameters.epochs = 0"),
    "above its bound": ({"seed": 2**31}, "seed = 2147483648"),
    "share above 1": ({"gates": {"max_invalid_share": 1.5}}, "gates.max_invalid_share = 1.5"),
    "path as model name": ({"model_name": "../../etc"}, "model_name = '../../etc'"),
    "option as model name": ({"model_name": "-rf"}, "model_name = '-rf'"),
    "command as version": ({"version": "1.0; rm -rf /"}, "version = '1.0; rm -rf /'"),
    "not a number": ({"gates": {"metric_floor": float("nan")}}, "gates.metric_floor = nan"),
    "infinite": ({"hyperparameters": {"learning_rate": float("inf")}}, "hyperparameters.learning_rate = inf"),
    "several fields": (
        {"hyperparameters": {"epochs": 0, "batch_size": -1}, "seed": -1},
        "hyperparameters.batch_size = -1",
    ),
    "wrong type": ({"hyperparameters": {"epochs": "many"}}, "root:hyperparameters:epochs"),
    "unknown field": ({"hyperparameters": {"epoch": 3}}, '"epoch" at path root:hyperparameters'),
    "unknown group": ({"hyper": {}}, '"hyper" at the root'),
}


def definitions(project: Any = None, **options: Any) -> dg.Definitions:
    from jukebox_orch import deployment

    graph = build_training_graph(project or Blobs(), **options)
    return dg.Definitions.merge(graph, dg.Definitions(resources=deployment.resources()))


def messages(error: BaseException | None) -> str:
    """Return the messages of the error and its causes."""
    texts = []
    while error is not None:
        texts.append(str(error))
        error = error.__cause__
    return "\n".join(texts)


@pytest.mark.parametrize("case", BAD)
def test_bad_value_is_refused_before_run_exists(case: str):
    config, field = BAD[case]
    with dg.DagsterInstance.ephemeral() as instance:
        job = definitions().resolve_job_def("blobs_training")
        with pytest.raises(dg.DagsterError) as error:
            job.execute_in_process(run_config=config, instance=instance)
        assert field in messages(error.value)
        assert instance.get_runs_count() == 0


def test_error_names_all_bad_fields():
    with pytest.raises(dg.DagsterError) as error:
        definitions().resolve_job_def("blobs_training").execute_in_process(
            run_config=BAD["several fields"][0]
        )
    for field in ("hyperparameters.epochs = 0", "hyperparameters.batch_size = -1", "seed = -1"):
        assert field in messages(error.value)


def test_job_command_exits_with_1_and_names_field(deployment: Deployment):
    result = deployment.execute("blobs_training", {"hyperparameters": {"epochs": 0}})
    assert result.returncode == 1
    assert "hyperparameters.epochs = 0: Input should be greater than or equal to 1" in result.stderr
    assert deployment.instance.get_runs_count() == 0


def test_bad_asset_config_fails_step_without_retries(deployment: Deployment):
    project = Blobs()
    ops = {"blobs__dataset": {"config": {"gates": {"drift_warn": -1.0}}}}
    result = deployment.run(project=project, only=["dataset"], ops=ops)
    assert not result.success
    assert made(result) == []
    (failure,) = [e for e in result.all_events if e.is_step_failure]
    assert "gates.drift_warn = -1.0: Input should be greater than 0" in str(failure.event_specific_data)
    assert not [e for e in result.all_events if e.is_step_up_for_retry]


def test_empty_config_gives_defaults():
    job = definitions(Jukebox()).resolve_job_def("jukebox_training")
    config = resolved(job, {})
    assert config["jukebox__trained_model"]["hyperparameters"] == Jukebox.hyperparameters().model_dump()
    assert config["jukebox__trained_model"]["seed"] == 42
    assert (
        config["jukebox__registered_model"]["model_name"] == config["jukebox__dataset"]["dataset_name"] == ""
    )
    assert config["jukebox__registered_model"]["version"] == ""
    assert config["jukebox__registered_model"]["prod_flag"] is False
    assert config["jukebox__dataset"]["source"] == {"location": "", "files": [], "date_format": "auto"}


def test_config_value_reaches_every_step_that_takes_it():
    job = definitions(Jukebox()).resolve_job_def("jukebox_training")
    real = {"source": {"location": "/data"}, "model_name": "songs"}
    config = resolved(job, {**real, "seed": 7, "hyperparameters": {"epochs": 3}})
    steps = {step for step, values in config.items() if values.get("model_name") == "songs"}
    assert steps == {"jukebox__dataset", "jukebox__evaluation", "jukebox__registered_model"}
    assert config["jukebox__features"]["seed"] == config["jukebox__trained_model"]["seed"] == 7
    assert config["jukebox__trained_model"]["hyperparameters"]["epochs"] == 3
    assert config["jukebox__trained_model"]["hyperparameters"]["hidden_units"] == 256


@pytest.mark.parametrize(
    ("job", "fields"),
    [
        (
            "training",
            [
                *("source", "split", "hyperparameters", "gates", "seed"),
                *("dataset_name", "model_name", "base_model_name", "version", "stage", "prod_flag"),
            ],
        ),
        ("data", ["source", "split", "gates", "seed", "dataset_name", "model_name"]),
        (
            "evaluate_and_register",
            ["gates", "model_name", "base_model_name", "version", "stage", "prod_flag"],
        ),
    ],
)
def test_job_config_has_exactly_fields_of_its_assets(job: str, fields: list[str]):
    found = definitions(Jukebox()).resolve_job_def(f"jukebox_{job}")
    assert found.config_mapping is not None
    assert list(config_fields(found.config_mapping.config_schema.config_type)) == fields


def test_asset_config_has_its_declared_settings():
    job = definitions(Jukebox()).resolve_job_def("jukebox_training")
    fields = {
        node.name: set(config_fields(node.definition.config_schema.config_type))
        for node in job.graph.nodes
        if isinstance(node.definition, dg.OpDefinition)
    }
    assert fields["jukebox__dataset"] == {"source", "dataset_name", "gates", "model_name"}
    assert fields["jukebox__trained_model"] == {"hyperparameters", "seed"}
    assert fields["jukebox__registered_model"] == {"gates", "model_name", "version", "stage", "prod_flag"}


def test_every_config_field_has_description_with_bounds():
    job = definitions(Jukebox()).resolve_job_def("jukebox_training")
    assert job.config_mapping is not None
    described = dict(descriptions(job.config_mapping.config_schema.config_type))
    assert not [name for name, text in described.items() if not text]
    assert described["hyperparameters.epochs"].endswith("(>= 1, <= 10000)")
    assert described["gates.drift_warn"].endswith("(> 0)")
    assert described["seed"].endswith("(>= 0, <= 2147483647)")


def test_instance_defaults_override_project_defaults():
    graph = definitions(name="colors", defaults={"hyperparameters": {"epochs": 5}, "seed": 9})
    config = resolved(graph.resolve_job_def("colors_training"), {"hyperparameters": {"batch_size": 8}})
    assert config["colors__trained_model"]["hyperparameters"]["epochs"] == 5
    assert config["colors__trained_model"]["hyperparameters"]["batch_size"] == 8
    assert config["colors__trained_model"]["seed"] == 9
    assert config["colors__registered_model"]["model_name"] == ""
    assert TrainingGraph(Blobs(), "colors").default_model_name == "colors"


def test_key_prefix_is_part_of_names():
    graph = definitions(key_prefix=("south-east",))
    config = resolved(graph.resolve_job_def("south_east_blobs_training"), {})
    assert "south_east__south_east_blobs__registered_model" in config
    assert TrainingGraph(Blobs(), key_prefix=("south-east",)).default_model_name == "south_east_blobs"


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        ({"epochs": 5}, "blobs: unknown default(s) epochs"),
        ({"hyperparameters": {"epochs": 0}}, "defaults of hyperparameters: epochs = 0"),
        ({"hyperparameters": {"epoch": 1}}, "defaults of hyperparameters: epoch = 1"),
        ({"hyperparameters": 5}, "hyperparameters"),
        ({"seed": -1}, "seed = -1"),
        ({"seed": "many"}, "seed = 'many'"),
        ({"model_name": "a/b"}, "model_name = 'a/b'"),
        ({"version": "$(id)"}, "version = '$(id)'"),
        ({"prod_flag": "perhaps"}, "prod_flag = 'perhaps'"),
        ({"stage": "champion"}, "stage = 'champion'"),
        ({"stage": "v2"}, "stage = 'v2'"),
        ({"stage": "Staging area"}, "stage = 'Staging area'"),
        ({"base_model_name": "other/latest"}, "base_model_name = 'other/latest'"),
    ],
    ids=lambda value: "-".join(f"{k}:{v}" for k, v in value.items()) if isinstance(value, dict) else "",
)
def test_bad_instance_defaults_fail_graph_build(defaults: dict, message: str):
    with pytest.raises(InputError) as error:
        build_training_graph(Blobs(), defaults=defaults)
    assert message in str(error.value)


class Choices(Settings):
    by: Literal["day", "song"] = Field("day", description="Kind of split")
    share: float | None = Field(None, gt=0, lt=1, description="Share")
    layers: list[int] = Field([8, 4], description="Units per layer")
    gates: Gates = Field(Gates(), description="Thresholds")
    name: str = Field(default_factory=lambda: "made", description="A name")


def test_settings_types_become_config_types():
    fields = config_schema(Choices)
    assert fields["by"].default_value == "day"
    assert fields["share"].default_value is None
    assert fields["share"].description == "Share (> 0, < 1)"
    assert fields["layers"].default_value == [8, 4]
    assert fields["gates"].default_value == Gates().model_dump()
    assert fields["gates"].default_value["metric_floor"] is None
    assert fields["name"].default_value == "made"


def test_optional_list_and_choice_values_are_unchanged():
    class Project(Blobs):
        split = Choices  # pyright: ignore[reportAssignmentType]

    job = definitions(Project()).resolve_job_def("blobs_training")
    given = {"by": "song", "share": 0.25, "layers": [16], "gates": {"metric_floor": 0.5}}
    config = resolved(job, {"split": given})["blobs__features"]["split"]
    assert Choices.model_validate(config) == Choices(**{**given, "gates": Gates(metric_floor=0.5)})


@pytest.mark.parametrize(
    "annotation", [dict[str, int], tuple[int, int], bytes, Literal[1, 2], int | str], ids=str
)
def test_setting_without_config_type_is_refused_by_name(annotation: Any):
    odd = type(
        "Odd", (Settings,), {"__annotations__": {"value": annotation}, "value": Field(description="?")}
    )
    with pytest.raises(TypeError, match=r"Odd_value: a setting of type .* has no form field"):
        config_schema(odd)


@pytest.mark.parametrize(("name", "more"), [("rollback", []), ("promote", ["version"])])
def test_jobs_of_champion_have_described_fields(name: str, more: list[str]):
    job = definitions(Jukebox()).resolve_job_def(f"jukebox_{name}")
    assert job.config_mapping
    described = dict(descriptions(job.config_mapping.config_schema.config_type))
    assert list(described) == ["model_name", "reason", "requested_by", *more]
    assert all(described.values())


def test_every_step_declares_retries_resources_and_pool():
    job = definitions(Jukebox()).resolve_job_def("jukebox_training")
    for node in job.graph.nodes:
        assert isinstance(node.definition, dg.OpDefinition)
        assert node.definition.retry_policy is not None
        assert node.definition.retry_policy.max_retries == 2
        resources = json.loads(node.definition.tags["dagster-k8s/config"])["container_config"]["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        assert node.definition.pool == ("jukebox_registration" if "registered" in node.name else None)
    (rollback,) = definitions(Jukebox()).resolve_job_def("jukebox_rollback").graph.nodes
    assert isinstance(rollback.definition, dg.OpDefinition)
    assert rollback.definition.pool == "jukebox_registration"


def test_plugin_hyperparameter_bounds_are_checked():
    class Even(Hyperparameters):
        epochs: int = Field(default=4, multiple_of=2, description="Even")

    project = type("Project", (Blobs,), {"hyperparameters": Even, "__module__": __name__})
    with pytest.raises(dg.DagsterError) as error:
        resolved(definitions(project()).resolve_job_def("blobs_training"), {"hyperparameters": {"epochs": 3}})
    assert "hyperparameters.epochs = 3: Input should be a multiple of 2" in messages(error.value)


def test_bad_executor_variable_error_lists_choices():
    result = subprocess.run(
        [sys.executable, "-c", "import jukebox_orch.definitions"],
        env={"JUKEBOX_ORCH_EXECUTOR": "quantum"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1
    assert "JUKEBOX_ORCH_EXECUTOR = 'quantum': use in_process, multiprocess or k8s" in result.stderr


def resolved(job: dg.JobDefinition, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config of each step."""
    text = yaml.safe_dump(config)
    from dagster import validate_run_config

    full = validate_run_config(job, yaml.safe_load(text))
    return {name: op["config"] for name, op in full["ops"].items()}


def config_fields(config_type: Any) -> dict[str, Any]:
    return dict(config_type.fields)


def descriptions(config_type: Any, prefix: str = ""):
    for name, field in config_fields(config_type).items():
        yield f"{prefix}{name}", field.description
        if hasattr(field.config_type, "fields"):
            yield from descriptions(field.config_type, f"{prefix}{name}.")
