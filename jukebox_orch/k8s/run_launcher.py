"""Kubernetes run launcher that does not retry a run whose tags ask for settings the instance forbids.

Dagster retries every run that could not be launched. A retry of such a run would fail the same way. The cluster's
dagster.yaml names this class.
"""

from typing import Any

from dagster_k8s import K8sRunLauncher  # noqa: TID253 - only the cluster's dagster.yaml loads this module

from jukebox_orch.dagster_internals import forbid_retries, refused_by_instance


class NonRetryingRunLauncher(K8sRunLauncher):
    """`K8sRunLauncher` with the same config. A run that asks for forbidden settings fails once."""

    def launch_run(self, context: Any) -> None:
        """Create the run's job.

        Args:
            context: Dagster's `LaunchRunContext`.

        Raises:
            Exception: the run's tags ask for more than the instance allows; the run is not retried. Or Kubernetes
                did not accept the job; the run is retried.
        """
        if error := refused_by_instance(self, context.dagster_run):
            forbid_retries(self, context.dagster_run)
            raise error
        super().launch_run(context)
