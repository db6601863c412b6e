"""The pod executor: what a run may set, and the reasons for pods that fail or cannot start. Needs no cluster."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
import yaml
from dagster_k8s import k8s_job_executor
from dagster_k8s.executor import K8sStepHandler
from kubernetes import client

from jukebox_orch.contract import InputError
from jukebox_orch.k8s.step_executor import pod_executor, pod_failure_reason, pod_start_problem
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
def test_run_config_beyond_resources_is_refused(job, config):
    assert "Received unexpected config entr" in _refused(job, config)


def test_run_config_may_set_resources_and_concurrency(job):
    given = {
        "resources": {"nothing": {"limits": {"memory": "8Gi", "nvidia.com/gpu": "1"}}},
        "max_concurrent": 2,
    }
    assert dg.validate_run_config(job, {"execution": {"config": given}})


def test_run_resources_are_merged_into_deployment_settings():
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
    ("content", "reason"), [(None, "No such file"), ("- a", "is a list; use a mapping"), ("{", "")]
)
def test_bad_settings_file_is_named(tmp_path, content, reason):
    file = tmp_path / "executor.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(InputError, match=f"JUKEBOX_ORCH_EXECUTOR_CONFIG.*executor.yaml.*{reason}"):
        pod_executor(str(file))


def test_out_of_memory_reason_names_limit():
    reason = pod_failure_reason([_pod(_ended("OOMKilled", 137), phase="Failed")])
    assert "OOMKilled" in reason
    assert "64Mi" in reason
    assert "memory limit" in reason


def test_failure_reason_is_of_newest_pod():
    old, new = _pod(_ended("OOMKilled", 137), age=300), _pod(_ended("Error", 1), age=5, phase="Failed")
    assert pod_failure_reason([new, old]) == "pod step-1: Failed: Error, exit code 1"


def test_evicted_and_missing_pods_have_different_reasons():
    evicted = _pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory.")
    assert pod_failure_reason([evicted]) == "pod step-1: Evicted: The node was low on resource: memory."
    assert "missing" in pod_failure_reason([])


def test_pod_without_image_fails_after_45_seconds():
    waiting = client.V1ContainerState(
        waiting=client.V1ContainerStateWaiting(reason="ImagePullBackOff", message='pull "x/y"')
    )
    assert pod_start_problem([_pod(waiting, age=40)], NOW) is None
    reason = pod_start_problem([_pod(waiting, age=50)], NOW)
    assert reason == 'pod step-1 cannot start: ImagePullBackOff: pull "x/y"'


def test_pod_without_node_fails_after_ten_minutes():
    condition = client.V1PodCondition(type="PodScheduled", status="False", message="unbound claim")
    assert pod_start_problem([_pod(age=599, conditions=[condition])], NOW) is None
    reason = pod_start_problem([_pod(age=601, conditions=[condition])], NOW)
    assert reason == "pod step-1 found no node in 601 s: unbound claim"


def test_pod_with_missing_claim_fails_after_45_seconds():
    message = '0/3 nodes are available: persistentvolumeclaim "models" not found.'
    condition = client.V1PodCondition(type="PodScheduled", status="False", message=message)
    assert pod_start_problem([_pod(age=40, conditions=[condition])], NOW) is None
    reason = pod_start_problem([_pod(age=50, conditions=[condition])], NOW)
    assert reason == f"pod step-1 found no node in 50 s: {message}"


def test_pulling_or_running_pod_has_no_problem():
    creating = client.V1ContainerState(waiting=client.V1ContainerStateWaiting(reason="ContainerCreating"))
    assert pod_start_problem([_pod(creating, age=3_000)], NOW) is None
    assert pod_start_problem([_pod(phase="Running", age=3_000)], NOW) is None
    assert pod_start_problem([], NOW) is None


def test_dagster_executor_has_step_handler_with_health_check():
    """`_step_handler` and `check_step_health` belong to Dagster; this fails when a release changes them."""
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
