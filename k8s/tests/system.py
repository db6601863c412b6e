"""Clients of the system in a cluster: kubectl, Dagster's GraphQL API, MLflow's REST API, the volumes."""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from jukebox_orch.assets import NODES
from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support import waiting

NAMESPACE = "jukebox"
OVERLAY = os.environ.get("OVERLAY", "k8s/tests/overlay")
FINISHED = ("SUCCESS", "FAILURE", "CANCELED")
LOCATION = {"repositoryLocationName": "jukebox_orch.definitions", "repositoryName": "__repository__"}
ASSETS = [node.name for node in NODES]
# Every two seconds: each poll of a cluster is a process or a request.
wait_until = partial(waiting.wait_until, every=2)
SEED = int(time.time()) % 2**30
"""New in every session: volumes and history are kept, and a step with unchanged inputs is not computed again."""


@dataclass
class Cluster:
    """kubectl in a namespace; default: the system's."""

    namespace: str = NAMESPACE
    _forwards: dict[tuple[str, int], tuple[subprocess.Popen[str], str]] = field(default_factory=dict)

    def run(
        self, *arguments: str, check: bool = True, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            ["kubectl", "--namespace", self.namespace, *arguments],
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            check=False,
            input=stdin,
            timeout=300,
        )
        if check and result.returncode:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {result.stderr}")
        return result

    def get(self, *arguments: str) -> Any:
        return json.loads(self.run("get", *arguments, "-o", "json").stdout)

    def apply(self, *objects: dict[str, Any]) -> None:
        self.run("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def delete(self, *arguments: str) -> None:
        """Delete objects if they exist, with a grace period of one second."""
        self.run("delete", *arguments, "--ignore-not-found", "--grace-period=1", "--wait=true")

    def pods(self, selector: str) -> list[dict[str, Any]]:
        return self.get("pods", "-l", selector)["items"]

    def steps(self, run_id: str) -> dict[str, list[dict[str, Any]]]:
        """Return the pods of the run's steps, by asset name."""
        found: dict[str, list[dict[str, Any]]] = {}
        for pod in self.pods(f"dagster/run-id={run_id},app.kubernetes.io/component=step_worker"):
            found.setdefault(pod["metadata"]["labels"]["jukebox/asset"], []).append(pod)
        return found

    def step_pod(self, run_id: str, name: str, phases: tuple[str, ...] = ("Running",)) -> str:
        """Wait until the step's pod is in one of the phases and return its name."""

        def found() -> str | None:
            for pod in self.steps(run_id).get(name, []):
                if pod["status"]["phase"] in phases:
                    return pod["metadata"]["name"]
            return None

        return wait_until(found, 240, f"the pod of step {name} to be {' or '.join(phases)}", every=0.5)

    def rolled_out(self) -> None:
        for name in (
            "statefulset/jukebox-postgresql",
            "deployment/jukebox-mlflow",
            "deployment/jukebox-code-location",
            "deployment/jukebox-webserver",
            "deployment/jukebox-daemon",
        ):
            self.run("rollout", "status", name, "--timeout=280s")

    def step_template(self) -> dict[str, Any]:
        """Return the pod spec of the overlay's template of a step, with the restrictions of steps."""
        return self.get("podtemplate", "jukebox-step")["template"]["spec"]

    def pod_of_step_image(
        self, name: str, container: dict[str, Any], volumes: list[dict[str, Any]], **spec: Any
    ) -> dict[str, Any]:
        """Return a plain pod of the step image."""
        template = self.step_template()
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace, "labels": {"jukebox/test": name}},
            "spec": template
            | {"containers": [template["containers"][0] | container], "volumes": volumes}
            | spec,
        }

    @contextmanager
    def config_map(self, name: str, changed: dict[str, str]) -> Iterator[None]:
        """Temporarily change values of a config map with a fixed name, which pods of runs read."""
        before = self.get("configmap", name)["data"]

        def put(data: dict[str, str]) -> None:
            self.run("patch", "configmap", name, "--type=merge", "-p", json.dumps({"data": data}))

        put(changed)
        try:
            yield
        finally:
            put(before)

    def url(self, target: str, port: int) -> str:
        """Return the address on this machine of a port in the cluster; it is stable while the forward runs."""
        process, url = self._forwards.get((target, port), (None, ""))
        if process is None or process.poll() is not None:
            process, url = self._forward(target, port)
            self._forwards[target, port] = process, url
        return url

    def request(self, method: str, target: str, port: int, path: str, **options: Any) -> httpx.Response:
        """Send a request to a pod; retry if the pod of the forward was deleted."""
        for attempt in range(6):
            try:
                return httpx.request(method, self.url(target, port) + path, **{"timeout": 60, **options})
            except (httpx.TransportError, AssertionError):
                if attempt == 5:
                    raise
                self._stop(target, port)
                time.sleep(2)
        raise AssertionError("unreachable")

    def close(self) -> None:
        for target, port in list(self._forwards):
            self._stop(target, port)

    def _forward(self, target: str, port: int) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            ["kubectl", "--namespace", self.namespace, "port-forward", target, f":{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", line)
        if not found:
            process.kill()
            process.wait()
            raise AssertionError(f"port-forward {target}: {line}")
        return process, f"http://127.0.0.1:{found[1]}"

    def _stop(self, target: str, port: int) -> None:
        process, _ = self._forwards.pop((target, port), (None, ""))
        if process is not None:
            process.kill()
            process.wait()


_READS_DATA = ("jukebox_training", "jukebox_data")


@dataclass(frozen=True)
class Dagster:
    """The webserver's GraphQL API."""

    cluster: Cluster

    def query(self, query: str, **variables: Any) -> dict[str, Any]:
        """Run a query; retry if a connection was lost.

        After a restart of PostgreSQL each idle connection of the webserver fails once.
        """
        content: dict[str, Any] = {}
        for _ in range(5):
            body = {"query": query, "variables": variables}
            response = self.cluster.request("POST", "service/jukebox-webserver", 80, "/graphql", json=body)
            content = response.json()
            if "OperationalError" not in json.dumps(content.get("errors", [])):
                break
            time.sleep(3)
        assert "errors" not in content, content["errors"]
        return content["data"]

    def launch(
        self,
        config: dict[str, Any],
        *,
        job: str = "jukebox_training",
        assets: tuple[str, ...] = (),
        tags: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """Launch the job, or some of the project's assets, and return GraphQL's result: a run, or why there is none."""
        selector: dict[str, Any] = LOCATION | {"pipelineName": "__ASSET_JOB" if assets else job}
        if assets:
            selector["assetSelection"] = [{"path": ["jukebox", name]} for name in assets]
        params = {
            "selector": selector,
            "runConfigData": config,
            "mode": "default",
            "executionMetadata": {"tags": [{"key": k, "value": v} for k, v in (tags or {}).items()]},
        }
        return self.query(_LAUNCH, params=params)["launchRun"]

    def start(self, config: dict[str, Any] | None = None, **options: Any) -> str:
        """Launch and return the run's id; retry if a connection was lost, as in `query`.

        A job that reads data reads the embedded sample, unless the config names a source: the deployment has one.
        """
        reads = not options.get("assets") and options.get("job", "jukebox_training") in _READS_DATA
        config = ({"source": {"location": ""}} if reads else {}) | (config or {})
        result: dict[str, Any] = {}
        for _ in range(5):
            result = self.launch(config, **options)
            if result["__typename"] != "PythonError" or "OperationalError" not in result["message"]:
                break
            time.sleep(3)
        assert result["__typename"] == "LaunchRunSuccess", result
        return result["run"]["runId"]

    def terminate(self, run_id: str) -> None:
        self.query("mutation($id: String!) { terminateRun(runId: $id) { __typename } }", id=run_id)

    def end_retries(self, run_id: str) -> None:
        """Cancel the run that the daemon started instead of the failed one; the test does not need it."""
        for again in self.runs("dagster/parent_run_id", run_id):
            self.terminate(again["runId"])

    def loaded(self) -> bool:
        """Return whether the webserver has the code location; for some seconds after a roll-out it is the old one."""
        content = self.query(
            "{ repositoriesOrError { ... on RepositoryConnection { nodes { jobs { name } } } } }"
        )
        nodes = content["repositoriesOrError"].get("nodes", [])
        return any(job["name"] == "jukebox_training" for node in nodes for job in node["jobs"])

    def status(self, run_id: str) -> str:
        return self.query("query($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run_id)[
            "runOrError"
        ]["status"]

    def run(self, run_id: str) -> dict[str, Any]:
        return self.query(_RUN, id=run_id)["runOrError"]

    def finished(self, run_id: str, timeout: float = 600) -> dict[str, Any]:
        """Wait until the run is finished and return it with its events."""
        wait_until(
            lambda: self.status(run_id) in FINISHED,
            timeout,
            lambda: f"run {run_id} to finish: {events_text(self.run(run_id))}",
        )
        return self.run(run_id)

    def step_started(self, run_id: str, name: str) -> None:
        """Wait until the step's process has recorded that it started."""

        def started() -> bool:
            events = self.run(run_id)["eventConnection"]["events"]
            return any(
                e["__typename"] == "ExecutionStepStartEvent" and e["stepKey"].endswith(f"__{name}")
                for e in events
            )

        wait_until(started, 240, f"step {name} to start", every=0.5)

    def runs(self, tag: str, value: str) -> list[dict[str, Any]]:
        return self.query(_RUNS, tags=[{"key": tag, "value": value}])["runsOrError"]["results"]

    def ticks(self, sensor: str, limit: int = 5) -> list[dict[str, Any]]:
        """Return the sensor's newest ticks, newest first."""
        selector = LOCATION | {"sensorName": sensor}
        state = self.query(_TICKS, selector=selector, limit=limit)["sensorOrError"]["sensorState"]
        assert state["status"] == "RUNNING", f"{sensor} is {state['status']}"
        return state["ticks"]


@dataclass(frozen=True)
class Registry:
    """MLflow's REST API."""

    cluster: Cluster

    def versions(self, model: str) -> list[dict[str, Any]]:
        return self._get("model-versions/search", filter=f"name = '{model}'").get("model_versions", [])

    def aliases(self, model: str) -> dict[str, str]:
        found = self._get("registered-models/get", name=model).get("registered_model", {})
        return {a["alias"]: a["version"] for a in found.get("aliases", [])}

    def _get(self, path: str, **params: str) -> dict[str, Any]:
        path = f"/api/2.0/mlflow/{path}"
        return self.cluster.request("GET", "service/jukebox-mlflow", 5000, path, params=params).json()


@dataclass(frozen=True)
class Volumes:
    """The claims, each mounted in one pod under /data and its name."""

    cluster: Cluster
    pod: str

    def sh(self, script: str, stdin: str | None = None) -> str:
        return self.cluster.run("exec", "-i", self.pod, "--", "sh", "-c", script, stdin=stdin).stdout

    def drop(self, name: str, content: str) -> None:
        """Put a file into the landing folder: write it under a hidden name, then rename it."""
        self.sh(f"mkdir -p /data/landing/{SEED}; cd /data/landing/{SEED}; cat >.new; mv .new {name}", content)


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
query($tags: [ExecutionTag!]) { runsOrError(filter: {tags: $tags}) { ... on Runs { results {
  runId status tags { key value } } } } }
"""
_TICKS = """
query($selector: SensorSelector!, $limit: Int!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
  sensorState { status ticks(limit: $limit) { id status skipReason runIds timestamp endTimestamp } } } } }
"""


def events_text(run: dict[str, Any]) -> str:
    """Return all events of a run as one JSON text."""
    return json.dumps(run["eventConnection"]["events"])


def retries(run: dict[str, Any], name: str) -> list[str]:
    """Return the event of each failed attempt of a step that was retried, as JSON text."""
    return [
        json.dumps(e)
        for e in run["eventConnection"]["events"]
        if e["__typename"] == "ExecutionStepUpForRetryEvent" and e["stepKey"].endswith(f"__{name}")
    ]


def metadata(run: dict[str, Any], name: str) -> dict[str, str]:
    """Return the metadata of the materialization of an asset in the run."""
    for event in run["eventConnection"]["events"]:
        if event["__typename"] == "MaterializationEvent" and event["assetKey"]["path"][-1] == name:
            return {e["label"]: e.get("text") or e.get("path") or "" for e in event["metadataEntries"]}
    raise AssertionError(f"{name} was not materialized: {events_text(run)}")
