"""Emulates KFP to rehearse `make kfp-test`: runs of the tests' API server become processes, pods and artifacts.

A task runs as the launcher would run it, and is taken from the cache by KFP's rule: same container, same
parameter values, same input artifacts, same outputs. An input artifact is the same if ML Metadata gave it the same id:
a new artifact is another one, even if its content is equal; one from the cache keeps its id. Its type, which the driver
does not read, is empty in the executor input.
"""

import base64
import json
import shutil
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import kfp_server_api
import yaml
from kubernetes.client import ApiException

from jukebox_orch_tests.bridge.kfp.metadata import SERVICE, messages
from jukebox_orch_tests.bridge.kfp.server import KfpServer
from jukebox_orch_tests.bridge.kfp.timing import NODE
from kfp_bridge.pipeline_spec import PipelineSpec, parse_spec
from kfp_bridge.running.local import (
    executor_input,
    pipeline_values,
    task_command,
    task_environment,
    task_order,
)


class Cluster:
    """The methods of `kubernetes.client.CoreV1Api` that the script calls."""

    def __init__(self) -> None:
        self.pods: list[Any] = []
        self.logs: dict[str, list[tuple[datetime, str]]] = {}
        self.stored: dict[tuple[str, str], dict[str, Any]] = {}

    def list_namespaced_pod(self, namespace: str, label_selector: str) -> Any:
        label, _, value = label_selector.partition("=")
        return SimpleNamespace(items=[pod for pod in self.pods if pod.metadata.labels.get(label) == value])

    def read_namespaced_pod_log(
        self, name: str, namespace: str, container: str, timestamps: bool = False
    ) -> str:
        if name not in self.logs:
            raise ApiException(status=404, reason="Not Found")
        stamped = [(f"{time.isoformat()} " if timestamps else "", line) for time, line in self.logs[name]]
        return "".join(f"{stamp}{line}" for stamp, line in stamped)

    def replace_namespaced_secret(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        if ("secret", name) not in self.stored:
            raise ApiException(status=404)
        self.stored["secret", name] = body

    def create_namespaced_secret(self, namespace: str, body: dict[str, Any]) -> None:
        self.stored["secret", body["metadata"]["name"]] = body


class Emulation:
    """Executes the runs of a server one at a time under `work`; stores artifacts under `root`."""

    def __init__(self, server: KfpServer, cluster: Cluster, root: Path, work: Path) -> None:
        self.server, self.cluster, self.root, self.work = server, cluster, root, work
        self.fingerprint: Callable[[PipelineSpec, str, dict[str, Any]], str] = fingerprint
        self.cached: dict[str, Path] = {}
        self.known: dict[str, tuple[str, dict[str, Any]]] = {}
        self.uris: dict[str, str] = {}  # by path on this machine: URI in the store
        self.lock = threading.Lock()
        server.on_create = self.created

    def created(self, model: str, item: Any) -> None:
        """Start a run; fire a recurring run once."""
        if model == "V2beta1Run":
            threading.Thread(target=self.execute, args=[item], daemon=True).start()
        elif model == "V2beta1RecurringRun" and item.mode == "ENABLE":
            run: Any = kfp_server_api.V2beta1Run(
                run_id=str(uuid.uuid4()),
                display_name=f"{item.display_name}-1",
                experiment_id=item.experiment_id,
                recurring_run_id=item.recurring_run_id,
                pipeline_version_reference=item.pipeline_version_reference,
                runtime_config=item.runtime_config,
                created_at=item.created_at,
                state="RUNNING",
            )
            self.server.runs[run.run_id] = run
            self.execute(run)

    def execute(self, run: Any) -> None:
        version = self.server.versions[run.pipeline_version_reference.pipeline_version_id]
        documents = [version.pipeline_spec["pipeline_spec"], version.pipeline_spec["platform_spec"]]
        # No kubelet mounts the volume here.
        scratch = self.work / "scratch"
        scratch.mkdir(exist_ok=True)
        text = yaml.safe_dump_all(documents)
        mounted = parse_spec(text.replace("value: /scratch", f"value: {scratch}"), "uploaded")
        spec, values = (
            parse_spec(text, "uploaded"),
            pipeline_values(mounted, run.runtime_config.parameters or {}),
        )
        with self.lock:
            self.drive(run.run_id, "root", moment())
            done = all(self.task(spec, mounted, task, values, run.run_id) for task in task_order(spec))
            self.server.finish(run.run_id, "SUCCEEDED" if done else "FAILED")

    def task(
        self, spec: PipelineSpec, mounted: PipelineSpec, task: str, values: dict[str, Any], run_id: str
    ) -> bool:
        local, asked = self.work / run_id, moment()
        given = executor_input(mounted, task, values, local)
        resolved = self.resolved(given)
        key = self.fingerprint(spec, task, resolved)
        self.drive(run_id, f"root.{task}", asked)
        if spec.tasks[task]["cachingOptions"].get("enableCache") and key in self.cached:
            shutil.copytree(self.cached[key], local / task)
            for name in given["outputs"]["artifacts"]:
                self.uris[str(local / task / name)] = self.uris[str(self.cached[key] / name)]
            return True
        work = local / task / "work"
        work.mkdir(parents=True)
        pod = self.schedule(spec, task, resolved, run_id)
        log = self.cluster.logs.setdefault(pod.metadata.name, [])
        started = moment()
        with subprocess.Popen(
            task_command(mounted, task, json.dumps(given)),
            cwd=work,
            env={**task_environment(mounted, task, work), **self.secrets(spec, task)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as done:
            log.extend((datetime.now(UTC), line) for line in done.stdout or [])
        log.append((datetime.now(UTC), f"I1123 launcher: {done.returncode}\n"))
        pod.status = terminated(started)
        if done.returncode == 0:
            self.cached[key] = local / task
            self.publish(spec, task, run_id, local / task)
        return done.returncode == 0

    def resolved(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return the executor input as KFP's driver makes it: an input's name is its id, its type is empty."""
        given = json.loads(json.dumps(given))
        ids = {uri: str(number) for number, uri in enumerate(self.known, start=1)}
        for listed in given["inputs"]["artifacts"].values():
            uri = self.uris[listed["artifacts"][0]["uri"]]
            listed["artifacts"][0].update(name=ids[uri], uri=uri, type={"instanceSchema": ""})
        return given

    def secrets(self, spec: PipelineSpec, task: str) -> dict[str, str]:
        """Return the variables of the task that come from secrets."""
        return {
            pair["envVar"]: base64.b64decode(
                self.cluster.stored["secret", item["secretNameParameter"]["runtimeValue"]["constant"]][
                    "data"
                ][pair["secretKey"]]
            ).decode()
            for item in spec.pod(task).get("secretAsEnv", [])
            for pair in item["keyToEnv"]
        }

    def drive(self, run_id: str, node: str, asked: datetime) -> None:
        """Add the pod of a driver that was requested at `asked` and has just ended."""
        metadata = SimpleNamespace(
            name=f"driver-{uuid.uuid4().hex[:8]}",
            labels={"pipeline/runid": run_id},
            annotations={NODE: f"{run_id}.{node}-driver"},
            creation_timestamp=asked,
        )
        self.cluster.pods.append(SimpleNamespace(metadata=metadata, status=terminated(asked)))

    def schedule(self, spec: PipelineSpec, task: str, given: dict[str, Any], run_id: str) -> Any:
        """Add and return the pod that KFP's driver makes from the exported file."""
        container, pod = spec.executor(task)["container"], spec.pod(task)
        types = spec.component(task)["outputDefinitions"]["artifacts"]
        for name, listed in given["outputs"]["artifacts"].items():
            listed["artifacts"][0]["type"] = types[name]["artifactType"]
        amounts = container.get("resources", {})
        named = {"cpu": "Cpu", "memory": "Memory"}
        bounds = {
            bound: {
                k: amounts[f"resource{v}{bound}"]
                for k, v in named.items()
                if f"resource{v}{bound}" in amounts
            }
            for bound in ("Request", "Limit")
        }
        variables = [
            SimpleNamespace(
                name=pair["envVar"],
                value_from=SimpleNamespace(
                    secret_key_ref=SimpleNamespace(
                        name=item["secretNameParameter"]["runtimeValue"]["constant"], key=pair["secretKey"]
                    )
                ),
            )
            for item in pod.get("secretAsEnv", [])
            for pair in item["keyToEnv"]
        ]
        kinds = ("pvcMount", "secretAsVolume", "configMapAsVolume", "emptyDirMounts")
        main = SimpleNamespace(
            name="main",
            image=container["image"],
            command=["/kfp-launcher/launch", "--run_id", run_id, "--executor_input", json.dumps(given), "--"],
            args=[*container["command"], *container["args"]],
            resources=SimpleNamespace(requests=bounds["Request"], limits=bounds["Limit"]),
            env=variables,
            volume_mounts=[
                SimpleNamespace(mount_path=item["mountPath"]) for kind in kinds for item in pod.get(kind, [])
            ],
        )
        meta = pod["podMetadata"]
        metadata = SimpleNamespace(
            name=f"{task}-{uuid.uuid4().hex[:8]}",
            labels={**meta.get("labels", {}), "pipeline/runid": run_id},
            annotations={**meta["annotations"], NODE: f"{run_id}.root.{task}.executor"},
            creation_timestamp=moment(),
        )
        running = SimpleNamespace(container_statuses=None)
        pod = SimpleNamespace(metadata=metadata, spec=SimpleNamespace(containers=[main]), status=running)
        self.cluster.pods.append(pod)
        return pod

    def publish(self, spec: PipelineSpec, task: str, run_id: str, folder: Path) -> None:
        """Copy artifacts to the store, and their metadata in the executor output to ML Metadata."""
        target = self.root / spec.name / run_id / task / uuid.uuid4().hex
        shutil.copytree(folder, target, ignore=shutil.ignore_patterns("work"))
        written = json.loads((folder / "executor_output.json").read_text())["artifacts"]
        for name, declared in spec.component(task)["outputDefinitions"]["artifacts"].items():
            properties = written.get(name, {"artifacts": [{"metadata": {}}]})["artifacts"][0]["metadata"]
            self.known[str(target / name)] = (declared["artifactType"]["schemaTitle"], properties)
            self.uris[str(folder / name)] = str(target / name)


def moment() -> datetime:
    """Return the current time in whole seconds, as Kubernetes writes it."""
    return datetime.now(UTC).replace(microsecond=0)


def terminated(started: datetime) -> Any:
    """Return the status of a pod whose container started at `started` and has just ended."""
    state = SimpleNamespace(terminated=SimpleNamespace(started_at=started, finished_at=moment()))
    return SimpleNamespace(container_statuses=[SimpleNamespace(name="main", state=state)])


@contextmanager
def served_metadata(emulation: Emulation) -> Iterator[str]:
    """Run a gRPC server that answers like ML Metadata, and yield its address."""
    classes = messages()

    def answer(request: Any, _context: Any) -> Any:
        response = classes["GetArtifactsByURIResponse"]()
        for uri in request.uris:
            if uri not in emulation.known:
                continue
            title, properties = emulation.known[uri]
            artifact = response.artifacts.add(uri=uri, type=title)
            for name, value in properties.items():
                if isinstance(value, int | float):
                    artifact.custom_properties[name].double_value = value
                elif isinstance(value, str):
                    artifact.custom_properties[name].string_value = value
        return response

    handler = grpc.unary_unary_rpc_method_handler(
        answer,
        request_deserializer=classes["GetArtifactsByURIRequest"].FromString,
        response_serializer=classes["GetArtifactsByURIResponse"].SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE, {"GetArtifactsByURI": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def fingerprint(spec: PipelineSpec, task: str, given: dict[str, Any]) -> str:
    """Return what KFP compares before it takes a task from its cache."""
    container = spec.executor(task)["container"]
    inputs = given["inputs"]
    key = {
        "container": [container["image"], container["command"], container["args"]],
        "parameters": inputs["parameterValues"],
        "artifacts": {name: listed["artifacts"][0]["name"] for name, listed in inputs["artifacts"].items()},
        "outputs": spec.component(task)["outputDefinitions"],
    }
    return json.dumps(key, sort_keys=True)
