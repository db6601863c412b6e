"""Every use of Dagster beyond its public API: a test fails when Dagster changes it."""

import dagster as dg
from dagster_k8s import K8sRunLauncher
from dagster_k8s.executor import K8sStepHandler

from jukebox_orch import dagster_internals as subject


def test_check_evaluations_of_run_are_listed() -> None:
    @dg.asset(check_specs=[dg.AssetCheckSpec("small", asset="table")])
    def table() -> dg.MaterializeResult:
        return dg.MaterializeResult(check_results=[dg.AssetCheckResult(passed=False, check_name="small")])

    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize([table], instance=instance)
        found = [(e.check_name, e.passed) for e in subject.check_evaluations(instance, result.run_id)]
    assert found == [("small", False)]


def test_dagster_k8s_executor_has_step_handler() -> None:
    """`k8s_job_executor` creates a `StepDelegatingExecutor`, but needs a cluster's instance to do so."""
    from dagster._core.execution.retries import RetryMode
    from dagster._core.executor.step_delegating import StepDelegatingExecutor

    handler = K8sStepHandler.__new__(K8sStepHandler)
    executor = StepDelegatingExecutor(handler, retries=RetryMode.DISABLED)
    assert subject.step_handler(executor) is handler
    assert {"check_step_health", "terminate_step"} <= set(dir(handler))


def test_pod_label_is_valid_in_kubernetes() -> None:
    assert subject.pod_label("jukebox__trained_model") == "jukebox__trained_model"
    assert len(subject.pod_label("x" * 100)) <= 63


class Launcher(K8sRunLauncher):
    """A launcher without a connection: it checks the tags of a run without Kubernetes."""

    def __init__(self, problem: Exception | None, instance: dg.DagsterInstance) -> None:
        self._problem = problem
        self._given = instance

    @property
    def _instance(self) -> dg.DagsterInstance:
        return self._given

    def get_container_context_for_run(self, dagster_run: dg.DagsterRun) -> None:  # pyright: ignore
        if self._problem:
            raise self._problem


def test_launcher_checks_tags_and_forbids_retries() -> None:
    assert "get_container_context_for_run" in vars(K8sRunLauncher)
    assert hasattr(K8sRunLauncher, "_instance")
    with dg.DagsterInstance.ephemeral() as instance:
        run = dg.DagsterRun(job_name="a", run_id=dg.DagsterRun(job_name="a").run_id)
        instance.add_run(run)
        refusal = ValueError("privileged pods are not allowed")
        assert subject.refused_by_instance(Launcher(refusal, instance), run) is refusal
        assert subject.refused_by_instance(Launcher(None, instance), run) is None
        subject.forbid_retries(Launcher(None, instance), run)
        stored = instance.get_run_by_id(run.run_id)
    assert stored is not None
    assert stored.tags["dagster/max_retries"] == "0"
