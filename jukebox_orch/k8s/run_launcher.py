"""Dagster's Kubernetes run launcher, whose refusals are final; the cluster's dagster.yaml names it.

Dagster takes a run that could not be launched for one whose pod was lost and starts it again. What a run's tags ask
of Kubernetes is no better the second time.
"""

from typing import Any

from dagster_k8s import K8sRunLauncher  # noqa: TID253 - nothing but the cluster's dagster.yaml loads this module


class FinalRunLauncher(K8sRunLauncher):
    """`K8sRunLauncher`, with its config. A run that asks for what is not allowed fails once."""

    def launch_run(self, context: Any) -> None:
        """Create the run's job.

        Args:
            context: Dagster's `LaunchRunContext`.

        Raises:
            Exception: the run's tags ask for more than the instance allows; it will not be tried again. Or
                Kubernetes did not take the job, which run retries are for.
        """
        run = context.dagster_run
        try:
            self.get_container_context_for_run(run)
        except Exception:
            self._instance.add_run_tags(run.run_id, {"dagster/max_retries": "0"})
            raise
        super().launch_run(context)
