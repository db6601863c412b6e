"""Synthetic asset graphs with everything that the exporter must handle. The exported steps import them."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import dagster as dg
from pydantic import Field


class JsonFiles(dg.ConfigurableIOManager):
    """One JSON file per run; loads the file that the last materialization names and verifies its digest."""

    folder: str = ""

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        if obj is None and context.dagster_type.kind.name == "NOTHING":
            return
        path = self.path_of(context, context.step_context.instance)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(obj, sort_keys=True)
        path.write_text(text)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        context.add_output_metadata(
            {"path": dg.MetadataValue.path(str(path)), "sha256": sha256, "bytes": len(text), "rows": 1}
        )

    def load_input(self, context: dg.InputContext) -> object:
        if not context.has_asset_key:  # between the ops of one graph
            assert context.upstream_output is not None
            return json.loads(
                self.path_of(context.upstream_output, context.step_context.instance).read_text()
            )
        event = context.step_context.instance.get_latest_materialization_event(context.asset_key)
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        text = Path(str(metadata["path"].value)).read_text()
        if hashlib.sha256(text.encode()).hexdigest() != metadata["sha256"].value:
            raise ValueError(f"{context.asset_key.to_user_string()}: digest differs")
        return json.loads(text)

    def path_of(self, context: dg.OutputContext, instance: dg.DagsterInstance) -> Path:
        root = Path(self.folder or instance.storage_directory())
        name = "_".join(context.asset_key.path if context.has_asset_key else context.get_identifier()[1:])
        return root / context.run_id / f"{name}.json"


class Training(dg.Config):
    epochs: int = Field(default=5, description="Passes over the\ntraining data", gt=0)
    learning_rate: float = Field(default=0.1, description="Step size: of SGD")
    optimizer: Literal["sgd", "adam"] = "sgd"
    layers: list[int] = Field(default=[4, 2], description="Units per layer")
    extra: dict[str, str] = Field(default={})


class ModelRun(dg.Config):
    training: Training = Training()
    model_name: str = Field(default="toy", description="Name in the registry")
    bad_data: bool = False
    floor: float | None = Field(default=None, description="Lowest accuracy")


RESOURCES = {
    "container_config": {
        "resources": {
            "requests": {"cpu": "250m", "memory": "256Mi"},
            "limits": {"cpu": "2", "memory": "1Gi", "nvidia.com/gpu": "1"},
        },
        "env": [
            {"name": "TRACKING_URI", "value": "http://mlflow:5000"},
            {"name": "TOKEN", "value_from": {"secret_key_ref": {"name": "tracking", "key": "token"}}},
            {"name": "REGION", "value_from": {"config_map_key_ref": {"name": "place", "key": "region"}}},
            {"name": "POD", "value_from": {"field_ref": {"field_path": "metadata.name"}}},
        ],
        "volume_mounts": [
            {"name": "models", "mount_path": "/models"},
            {"name": "certs", "mount_path": "/certs"},
            {"name": "settings", "mount_path": "/settings"},
            {"name": "scratch", "mount_path": "/scratch"},
        ],
        "image_pull_policy": "IfNotPresent",
        "security_context": {"run_as_user": 1000, "run_as_non_root": True},
    },
    "pod_spec_config": {
        "volumes": [
            {"name": "models", "persistentVolumeClaim": {"claimName": "models-pvc"}},
            {"name": "certs", "secret": {"secret_name": "certs"}},
            {"name": "settings", "config_map": {"name": "settings"}},
            {"name": "scratch", "empty_dir": {"size_limit": "1Gi"}},
        ],
        "node_selector": {"pool": "gpu"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "image_pull_secrets": [{"name": "pull"}],
        "service_account_name": "trainer",
        "active_deadline_seconds": 3600,
    },
    "pod_template_spec_metadata": {"labels": {"team": "ml"}, "annotations": {"note": "a: b"}},
}


@dg.asset(
    key=["toy", "dataset"],
    check_specs=[
        dg.AssetCheckSpec("not_empty", asset=["toy", "dataset"], blocking=True, description="Has rows"),
        dg.AssetCheckSpec("drift", asset=["toy", "dataset"]),
    ],
    metadata={"kfp/artifact_type": "Dataset"},
    code_version="1",
    group_name="toy",
    kinds={"json"},
    owners=["team:music"],
    tags={"domain": "music"},
    description="Rows of numbers.",
    retry_policy=dg.RetryPolicy(max_retries=3, delay=2, backoff=dg.Backoff.EXPONENTIAL),
)
def dataset(config: ModelRun):
    rows = [] if config.bad_data else [1, 2, 3]
    yield dg.Output(rows, metadata={"mean": 2.0, "preview": dg.MetadataValue.md("**three** rows <b>x</b>")})
    yield dg.AssetCheckResult(
        check_name="not_empty",
        passed=bool(rows),
        description="the dataset has no rows" if not rows else "rows found",
    )
    yield dg.AssetCheckResult(check_name="drift", passed=False, severity=dg.AssetCheckSeverity.WARN)


@dg.asset(
    key=["toy", "trained_model"],
    ins={"rows": dg.AssetIn(key=["toy", "dataset"])},
    metadata={"kfp/artifact_type": "Model"},
    code_version="1",
    group_name="toy",
    op_tags={"dagster-k8s/config": RESOURCES},
    retry_policy=dg.RetryPolicy(max_retries=1),
)
def trained_model(context: dg.AssetExecutionContext, config: ModelRun, rows: list[int]):
    weights = [config.training.epochs * row for row in rows]
    matrix = {"labels": ["rock", "pop"], "matrix": [[3, 1], [0, 4]]}
    context.add_output_metadata({"accuracy": 0.875, "ok": True, "confusion_matrix": matrix})
    return {"weights": weights, "layers": config.training.layers, "name": config.model_name}


@dg.asset_check(asset=["toy", "trained_model"], blocking=True, description="Enough weights")
def enough_weights(trained_model: dict):
    return dg.AssetCheckResult(
        passed=len(trained_model["weights"]) > 1, metadata={"count": len(trained_model["weights"])}
    )


@dg.asset_check(asset=["toy", "trained_model"], additional_ins={"rows": dg.AssetIn(key=["toy", "dataset"])})
def as_long_as_data(trained_model: dict, rows: list):
    return dg.AssetCheckResult(passed=len(trained_model["weights"]) == len(rows))


@dg.asset(
    key=["toy", "published"],
    ins={"model": dg.AssetIn(key=["toy", "trained_model"])},
    deps=[["toy", "dataset"]],
    metadata={"kfp/artifact_type": "Artifact", "kfp/cache": False},
    code_version="1",
    group_name="toy",
)
def published(model: dict):
    return {"published": model["name"], "weights": model["weights"]}


@dg.asset(key=["toy", "announcement"], deps=[["toy", "published"]], group_name="toy")
def announcement() -> None:
    """Has no value."""


@dg.config_mapping
def toy_config(val: ModelRun):
    config = {"config": json.loads(val.model_dump_json())}
    return {"ops": {"toy__dataset": config, "toy__trained_model": config}}


TOY = [dataset, trained_model, published, announcement]
toy_job = dg.define_asset_job(
    "toy_training",
    selection=dg.AssetSelection.groups("toy"),
    config=toy_config,
    description="Trains the toy.",
)
toy_by_op = dg.define_asset_job(
    "toy_by_op",
    selection=dg.AssetSelection.groups("toy"),
    config={"ops": {"toy__trained_model": {"config": {"training": {"epochs": 7}}}}},
)


@dg.sensor(job=toy_job)
def new_rows():
    yield dg.SkipReason("nothing new")


@dg.schedule(job=toy_job, cron_schedule="0 3 * * *")
def by_hour(context: dg.ScheduleEvaluationContext):
    return dg.RunRequest(run_config={"training": {"epochs": context.scheduled_execution_time.day}})


nightly = dg.ScheduleDefinition(
    name="nightly", job=toy_job, cron_schedule="0 2 * * *", run_config={"training": {"epochs": 9}}
)

toy = dg.Definitions(
    assets=TOY,
    asset_checks=[enough_weights, as_long_as_data],
    jobs=[toy_job, toy_by_op],
    schedules=[nightly],
    sensors=[new_rows],
    resources={"io_manager": JsonFiles()},
)


# Everything else that an asset graph can contain.


@dg.multi_asset(
    specs=[
        dg.AssetSpec("train_split", metadata={"kfp/artifact_type": "None"}, code_version="a"),
        dg.AssetSpec(
            "test_split",
            metadata={"kfp/artifact_type": "None"},
            code_version="b",
            deps=["train_split", "lake"],
        ),
    ],
    can_subset=True,
)
def splits(context: dg.AssetExecutionContext):
    for key in sorted(context.selected_asset_keys, key=lambda key: key.to_user_string(), reverse=True):
        yield dg.MaterializeResult(asset_key=key, metadata={"rows": 3})


@dg.multi_asset(
    outs={
        "left": dg.AssetOut(metadata={"kfp/artifact_type": "Dataset"}, code_version="1"),
        "right": dg.AssetOut(metadata={"kfp/artifact_type": "Metrics"}, code_version="1"),
    },
    deps=["train_split"],
)
def halves():
    return [1], [2]


@dg.op
def add_one(left: list[int]) -> list[int]:
    return [value + 1 for value in left]


class Factor(dg.Config):
    factor: int = 3


@dg.op
def multiply(config: Factor, values: list[int]) -> list[int]:
    return [value * config.factor for value in values]


@dg.graph_asset(metadata={"kfp/artifact_type": "Dataset"})
def scaled(left):
    return multiply(add_one(left))


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec("positive", asset="left"),
        dg.AssetCheckSpec("positive", asset="scaled", blocking=True),
    ]
)
def positive(left: list[int], scaled: list[int]):
    yield dg.AssetCheckResult(asset_key="left", check_name="positive", passed=min(left) > 0)
    yield dg.AssetCheckResult(
        asset_key="scaled", check_name="positive", passed=False, severity=dg.AssetCheckSeverity.WARN
    )


DAYS = dg.StaticPartitionsDefinition(["monday", "tuesday"])


@dg.asset(partitions_def=DAYS, metadata={"kfp/artifact_type": "Dataset"})
def daily(context: dg.AssetExecutionContext):
    return context.partition_key


@dg.asset(partitions_def=DAYS, metadata={"kfp/artifact_type": "Dataset"})
def daily_upper(daily: str):
    return daily.upper()


lake = dg.AssetSpec("lake", metadata={"kfp/artifact_type": "Dataset"})

all_kinds = dg.Definitions(
    assets=[splits, halves, scaled, lake],
    asset_checks=[positive],
    resources={"io_manager": JsonFiles()},
)
partitioned = dg.Definitions(assets=[daily, daily_upper], resources={"io_manager": JsonFiles()})


@dg.asset(metadata={"kfp/artifact_type": "Dataset"})
def numbers():
    return [1, 2, 3]


@dg.asset(metadata={"kfp/artifact_type": "Dataset"})
def total(numbers: list[int]):
    return sum(numbers)


with_default_files = dg.Definitions(assets=[numbers, total])


@dg.asset(metadata={"kfp/artifact_type": "Dataset"}, retry_policy=dg.RetryPolicy(max_retries=2))
def broken():
    raise ValueError("no such table: songs")


failing = dg.Definitions(assets=[broken])
