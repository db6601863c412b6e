"""The system in a cluster, for tests: applied once, reached through port-forwards, left running at the end.

`KUBECONFIG` says which cluster; its node must have the images (`make image`, then load them as
docs/kubernetes.md says).
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

ROOT = Path(__file__).parent.parent.parent
NAMESPACE = "jukebox"
OVERLAY = os.environ.get("OVERLAY", "k8s/tests/overlay")
_HOW = (
    "needs a Kubernetes cluster: export KUBECONFIG=... of kind, k3s or any other, load the images of `make image` "
    "into its node, then `make k8s-test`; see docs/kubernetes.md"
)
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.cluster)
        if not os.environ.get("KUBECONFIG"):
            item.add_marker(pytest.mark.skip(reason=_HOW))


@dataclass(frozen=True)
class Cluster:
    """kubectl in a namespace; by default the system's."""

    namespace: str = NAMESPACE

    def run(
        self, *arguments: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["kubectl", "--namespace", self.namespace, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=300,
        )
        if check and done.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done

    def get(self, *arguments: str) -> Any:
        return json.loads(self.run("get", *arguments, "-o", "json").stdout)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return self.get("pods", "-l", selector)["items"]

    def steps(self, run_id: str) -> dict[str, list[dict[str, Any]]]:
        """Pods of the run's steps, by asset noun."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in self.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=step_worker"):
            found.setdefault(pod["metadata"]["labels"]["jukebox/asset"], []).append(pod)
        return found

    def in_pod(self, deployment: str, *command: str) -> str:
        return self.run("exec", f"deployment/{deployment}", "--", *command).stdout

    def rolled_out(self, timeout: int = 300) -> None:
        for name in (
            "statefulset/jukebox-postgresql",
            "deployment/jukebox-mlflow",
            "deployment/jukebox-code-location",
            "deployment/jukebox-webserver",
            "deployment/jukebox-daemon",
        ):
            self.run("rollout", "status", name, f"--timeout={timeout}s")

    @contextmanager
    def forwarded(self, target: str, port: int) -> Iterator[str]:
        """The address on this machine of a port in the cluster."""
        process = subprocess.Popen(
            ["kubectl", "--namespace", self.namespace, "port-forward", target, f":{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not found:
                raise AssertionError(f"port-forward {target}: {process.stderr and process.stderr.read()}")
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()
            process.wait(10)


@dataclass(frozen=True)
class Dagster:
    """The webserver's GraphQL API."""

    cluster: Cluster

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """Ask, and again where a connection was lost.

        After a restart of PostgreSQL the webserver meets each of its idle connections once with an error.
        """
        for _ in range(5):
            with self.cluster.forwarded("service/jukebox-webserver", 80) as url:
                answer = httpx.post(
                    f"{url}/graphql", json={"query": query, "variables": variables}, timeout=60
                )
            content = answer.json()
            if "OperationalError" not in json.dumps(content.get("errors", [])):
                break
            time.sleep(3)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def launch(
        self, config: dict[str, Any], *, job: str = "jukebox_training", tags: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Launch and return GraphQL's answer: a run, or why not."""
        selector = {
            "repositoryLocationName": "jukebox_orch.definitions",
            "repositoryName": "__repository__",
            "pipelineName": job,
        }
        metadata = {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]}
        params = {
            "selector": selector,
            "runConfigData": config,
            "mode": "default",
            "executionMetadata": metadata,
        }
        return self.ask(_LAUNCH, params=params)["launchRun"]

    def start(self, config: dict[str, Any] | None = None, **options: Any) -> str:
        """Launch and return the run's id; again where a connection was lost, as in `ask`."""
        for _ in range(5):
            answer = self.launch(config or {}, **options)
            if answer["__typename"] != "PythonError" or "OperationalError" not in answer["message"]:
                break
            time.sleep(3)
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return answer["run"]["runId"]

    def loaded(self) -> bool:
        """Whether the webserver has the code location; for some seconds after a roll-out it has the old one."""
        answer = self.ask(
            "{ locationStatusesOrError { __typename } repositoriesOrError { ... on "
            "RepositoryConnection { nodes { jobs { name } } } } }"
        )
        nodes = answer["repositoriesOrError"].get("nodes", [])
        return any(job["name"] == "jukebox_training" for node in nodes for job in node["jobs"])

    def run(self, run_id: str) -> dict[str, Any]:
        return self.ask(_RUN, id=run_id)["runOrError"]

    def finished(self, run_id: str, timeout: float = 600) -> dict[str, Any]:
        """The run once it is finished, with its events."""
        wait_until(lambda: self.run(run_id)["status"] in FINISHED, timeout, f"run {run_id} to finish")
        return self.run(run_id)

    def runs(self, tag: str, value: str) -> list[dict[str, Any]]:
        return self.ask(_RUNS, tags=[{"key": tag, "value": value}])["runsOrError"]["results"]


_LAUNCH = """
mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on RunConfigValidationInvalid { errors { message } }
  ... on PythonError { message }
} }
"""
_RUN = """
query($id: ID!) { runOrError(runId: $id) { ... on Run {
  status startTime endTime tags { key value }
  stepStats { stepKey status startTime endTime attempts { startTime endTime } }
  eventConnection(limit: 1000) { events {
    __typename
    ... on MessageEvent { message timestamp stepKey }
    ... on ErrorEvent { error { message causes { message } } }
    ... on ExecutionStepUpForRetryEvent { error { message } }
    ... on MaterializationEvent { assetKey { path } metadataEntries {
      label ... on TextMetadataEntry { text } ... on PathMetadataEntry { path } } }
  } }
} } }
"""
_RUNS = """
query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) { ... on Runs { results { runId status } } } }
"""


def wait_until(condition: Callable[[], Any], timeout: float, what: str, every: float = 2) -> Any:
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what}")
        time.sleep(every)


def said(run: dict[str, Any]) -> str:
    """Everything that a run's events say, as one text."""
    return json.dumps(run["eventConnection"]["events"])


def metadata(run: dict[str, Any], noun: str) -> dict[str, str]:
    """Metadata of the materialization of an asset in the run."""
    for event in run["eventConnection"]["events"]:
        if event["__typename"] == "MaterializationEvent" and event["assetKey"]["path"][-1] == noun:
            return {e["label"]: e.get("text") or e.get("path") or "" for e in event["metadataEntries"]}
    raise AssertionError(f"{noun} was not materialized: {said(run)}")


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The system, applied and rolled out."""
    cluster = Cluster()
    subprocess.run([str(ROOT / "k8s/create-secrets"), NAMESPACE], check=True)
    cluster.run("apply", "-k", OVERLAY)
    cluster.rolled_out()
    return cluster


@pytest.fixture(scope="session")
def dagster(cluster: Cluster) -> Dagster:
    dagster = Dagster(cluster)
    wait_until(dagster.loaded, 120, "the webserver to load the code location")
    return dagster


@pytest.fixture(scope="session")
def trained(dagster: Dagster) -> tuple[str, dict[str, Any]]:
    """One whole run of the sample job: its id and the finished run."""
    run_id = dagster.start({"seed": 42})
    run = dagster.finished(run_id)
    assert run["status"] == "SUCCESS", said(run)
    return run_id, run
