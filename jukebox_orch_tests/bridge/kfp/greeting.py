"""An asset graph for a real cluster: its values depend on a secret or on settings only. `acceptance.py` submits it."""

import hashlib
import os
import time
from pathlib import Path

import dagster as dg
from pydantic import Field

from jukebox_orch_tests.bridge.graphs import JsonFiles

PLACED = {
    "container_config": {
        "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "512Mi"}},
        "env": [
            {"name": "SCRATCH", "value": "/scratch"},
            {
                "name": "GREETING",
                "value_from": {"secret_key_ref": {"name": "kfp-bridge-test", "key": "greeting"}},
            },
        ],
        "volume_mounts": [{"name": "scratch", "mount_path": "/scratch"}],
    },
    "pod_spec_config": {"volumes": [{"name": "scratch", "empty_dir": {}}]},
    "pod_template_spec_metadata": {"labels": {"kfp-bridge": "acceptance"}},
}


class Greeting(dg.Config):
    seconds: float = Field(default=0.0, description="How long the step runs, so that it can be killed")
    fail: bool = Field(default=False, description="Whether the gate fails")


class Draw(dg.Config):
    seed: int = Field(default=1, description="What is drawn")


class GreetingRun(Greeting, Draw):
    """Settings of the job."""


@dg.asset(
    metadata={"kfp/artifact_type": "Dataset", "kfp/cache": True, "kfp/config": ["seed"]}, code_version="1"
)
def drawn(config: Draw):
    return config.seed % 97


@dg.asset(
    key="greeted",
    metadata={"kfp/artifact_type": "Dataset"},
    code_version="1",
    op_tags={"dagster-k8s/config": PLACED},
    retry_policy=dg.RetryPolicy(max_retries=2, delay=1),
    check_specs=[dg.AssetCheckSpec("polite", asset="greeted", blocking=True)],
)
def greeted(config: Greeting):
    time.sleep(config.seconds)
    (Path(os.environ["SCRATCH"]) / "written").write_text("a volume is mounted here")
    greeting = os.environ["GREETING"]
    value = int(hashlib.sha256(greeting.encode()).hexdigest()[:6], 16)
    yield dg.Output(value, metadata={"letters": len(greeting)})
    yield dg.AssetCheckResult(check_name="polite", passed=not config.fail, description="the greeting is rude")


@dg.config_mapping
def greeting_config(val: GreetingRun):
    return {
        "ops": {
            "drawn": {"config": {"seed": val.seed}},
            "greeted": {"config": {"seconds": val.seconds, "fail": val.fail}},
        }
    }


def greetings(code_version: str) -> dg.Definitions:
    """Return assets that depend on a secret or on settings only; `scaled` has this code version."""

    @dg.asset(metadata={"kfp/artifact_type": "Model", "kfp/config": []}, code_version=code_version)
    def scaled(drawn: int):
        return 10 * drawn

    @dg.asset(
        metadata={"kfp/artifact_type": "Model", "kfp/config": []}, code_version="1", group_name="greeting"
    )
    def doubled(context: dg.AssetExecutionContext, greeted: int):
        matrix = {"labels": ["short", "long"], "matrix": [[greeted, 0], [0, 1]]}
        context.add_output_metadata({"half": greeted / 2, "confusion_matrix": matrix})
        return 2 * greeted

    job = dg.define_asset_job("greeting", selection=[drawn, scaled, greeted, doubled], config=greeting_config)
    every_minute = dg.ScheduleDefinition(
        name="every_minute",
        job=job,
        cron_schedule="* * * * *",
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    return dg.Definitions(
        assets=[drawn, scaled, greeted, doubled],
        jobs=[job],
        schedules=[every_minute],
        resources={"io_manager": JsonFiles()},
    )


greeting = greetings("1")
greeting_recoded = greetings("2")
