"""The pod executor: what a run may ask for, and what it says of pods that failed or never start. No cluster."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import yaml
from dagster_k8s import k8s_job_executor
from dagster_k8s.executor import K8sStepHandler
from kubernetes import client

from jukebox_orch.contract import InputError
from jukebox_orch.k8s.step_executor import pod_executor, why_pod_cannot_start, why_pod_failed
from jukebox_orch_tests import CHECKOUT

EXECUTOR = CHECKOUT / "k8s/base/executor.yaml"
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _step_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUKEBOX_ORCH_STEP_IMAGE", "localhost/jukebox-step:dev")


@pytest.fixture(scope="module")
def job() -> dg.JobDefinition:
    @dg.op
    def nothing() -> None: ...

    @dg.job(executor_def=pod_executor(str(EXECUTOR)))
    def plain() -> None:
        nothing()

    return plain


def _refused(job: dg.JobDefinition, config: dict) -> str:
    with pytest.raises(dg.DagsterInvalidConfigError) as refused:
        dg.validate_run_config(job, {"execution": {"config": config}})
    return str(refused.value)


def _pod(state: client.V1ContainerState | None = None, *, age: float = 60, phase: str = "Pending", **status):
    statuses = [
        client.V1ContainerStatus(
            name="dagster", image="i", image_id="", ready=False, restart_count=0, state=state
        )
    ]
    resources = client.V1ResourceRequirements(limits={"memory": "64Mi"})
    return client.V1Pod(
        metadata=client.V1ObjectMeta(name="step-1", creation_timestamp=NOW - timedelta(seconds=age)),
        spec=client.V1PodSpec(containers=[client.V1Container(name="dagster", resources=resources)]),
        status=client.V1PodStatus(phase=phase, container_statuses=statuses if state else None, **status),
    )


def _ended(reason: str, code: int) -> client.V1ContainerState:
    return client.V1ContainerState(
        terminated=client.V1ContainerStateTerminated(exit_code=code, reason=reason)
    )


@pytest.mark.parametrize(
    "config",
    [
        {"job_image": "elsewhere/evil"},
        {"service_account_name": "jukebox-orchestrator"},
        {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]},
        {"step_k8s_config": {"container_config": {"security_context": {"privileged": True}}}},
        {"per_step_k8s_config": {"nothing": {"pod_spec_config": {"host_network": True}}}},
        {"job_namespace": "kube-system"},
        {"env_secrets": ["other-secret"]},
        {"resources": {"nothing": {"limits": {"memory": "1Gi"}, "volumes": []}}},
    ],
    ids=lambda config: next(iter(config)),
)
def test_a_run_config_that_asks_for_more_than_resources_is_refused(job, config):
    assert "Received unexpected config entr" in _refused(job, config)


def test_a_run_config_may_set_resources_of_a_step_and_the_number_of_pods(job):
    given = {
        "resources": {"nothing": {"limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}},
        "max_concurrent": 2,
    }
    assert dg.validate_run_config(job, {"execution": {"config": given}})


def test_resources_of_a_run_config_go_to_that_step_and_the_deployments_settings_stay():
    settings = yaml.safe_load(EXECUTOR.read_text())
    mapped = pod_executor(str(EXECUTOR)).apply_config_mapping(
        {"config": {"resources": {"a": {"limits": {"memory": "8Gi"}}}}}
    )
    assert mapped.success, mapped.errors
    config = (mapped.value or {})["config"]
    assert config["per_step_k8s_config"]["a"]["container_config"] == {
        "resources": {"limits": {"memory": "8Gi"}}
    }
    assert config["service_account_name"] == settings["service_account_name"] == "jukebox-step"
    assert config["step_k8s_config"]["pod_spec_config"]["automount_service_account_token"] is False


@pytest.mark.parametrize(
    ("content", "said"), [(None, "No such file"), ("- a", "must hold a mapping"), ("{", "")]
)
def test_a_bad_settings_file_is_named(tmp_path, content, said):
    file = tmp_path / "executor.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=f"JUKEBOX_ORCH_EXECUTOR_CONFIG.*executor.yaml.*{said}"):
        pod_executor(str(file))


def test_a_pod_out_of_memory_is_said_to_be_with_its_limit():
    said = why_pod_failed([_pod(_ended("OOMKilled", 137), phase="Failed")])
    assert "OOMKilled" in said
    assert "64Mi" in said
    assert "memory limit" in said


def test_the_newest_pod_of_a_step_is_the_one_spoken_of():
    old, new = _pod(_ended("OOMKilled", 137), age=300), _pod(_ended("Error", 1), age=5, phase="Failed")
    assert why_pod_failed([new, old]) == "pod step-1: Failed: Error, exit code 1"


def test_evicted_and_deleted_pods_are_told_apart():
    evicted = _pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    assert why_pod_failed([evicted]) == "pod step-1: Evicted: The node was low on resource: memory."
    assert "gone" in why_pod_failed([])


def test_a_pod_that_waits_for_an_image_or_a_secret_is_given_up_after_45_seconds():
    waiting = client.V1ContainerState(
        waiting=client.V1ContainerStateWaiting(reason="ImagePullBackOff", message='pull "x/y"')
    )
    assert why_pod_cannot_start([_pod(waiting, age=40)], NOW) is None
    said = why_pod_cannot_start([_pod(waiting, age=50)], NOW)
    assert said == 'pod step-1 cannot start: ImagePullBackOff: pull "x/y"'


def test_a_pod_without_a_node_has_ten_minutes():
    condition = client.V1PodCondition(type="PodScheduled", status="False", message="unbound claim")
    assert why_pod_cannot_start([_pod(age=599, conditions=[condition])], NOW) is None
    said = why_pod_cannot_start([_pod(age=601, conditions=[condition])], NOW)
    assert said == "pod step-1 found no node in 601 s: unbound claim"


def test_a_pod_whose_claim_does_not_exist_is_given_up_after_45_seconds():
    words = '0/3 nodes are available: persistentvolumeclaim "models" not found.'
    condition = client.V1PodCondition(type="PodScheduled", status="False", message=words)
    assert why_pod_cannot_start([_pod(age=40, conditions=[condition])], NOW) is None
    said = why_pod_cannot_start([_pod(age=50, conditions=[condition])], NOW)
    assert said == f"pod step-1 found no node in 50 s: {words}"


def test_a_pod_that_is_pulling_or_running_is_left_alone():
    creating = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason="ContainerCreating"))
    assert why_pod_cannot_start([_pod(creating, age=3_000)], NOW) is None
    assert why_pod_cannot_start([_pod(phase="Running", age=3_000)], NOW) is None
    assert why_pod_cannot_start([], NOW) is None


def test_dagsters_executor_has_the_names_that_the_explanation_hooks_into():
    """`_step_handler` and `check_step_health` are Dagster's own; this fails when a release changes them."""
    from dagster._core.executor.step_delegating import StepDelegatingExecutor
    from dagster._core.executor.step_delegating.step_handler import StepHandler

    assert issubclass(K8sStepHandler, StepHandler)
    executor = StepDelegatingExecutor(
        object.__new__(K8sStepHandler), retries=dg._core.execution.retries.RetryMode.ENABLED
    )  # type: ignore[attr-defined]
    assert isinstance(executor._step_handler, K8sStepHandler)
    assert callable(executor._step_handler.check_step_health)
    assert callable(executor._step_handler.terminate_step)
    assert k8s_job_executor.executor_creation_fn is not None
