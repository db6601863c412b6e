"""Enough of a KFP to rehearse `make kfp-test`: runs of the tests' API server become processes, pods and artifacts.

A task runs as the launcher would run it, and is taken from the cache by KFP's rule: same container, same
parameter values, same input artifacts, same outputs. An input artifact is the same if ML Metadata gave it the same id:
one that was made anew is another one, however equal; one from the cache keeps its id. Its type, which the driver does
not look up, is empty in the executor input.
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
    """What the script calls of `kubernetes.client.CoreV1Api`."""

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
        stamped = [(f"{said.isoformat()} " if timestamps else "", line) for said, line in self.logs[name]]
        return "".join(f"{stamp}{line}" for stamp, line in stamped)

    def replace_namespaced_secret(self, name: str, namespace: str, body: dict[str, Any]) -> None:
        if ("secret", name) not in self.stored:
            raise ApiException(status=404)
        self.stored["secret", name] = body

    def create_namespaced_secret(self, namespace: str, body: dict[str, Any]) -> None:
        self.stored["secret", body["metadata"]["name"]] = body


class Emulation:
    """Executes the runs of a server, one after another, under `work`; artifacts go to `root`."""

    def __init__(self, server: KfpServer, cluster: Cluster, root: Path, work: Path) -> None:
        self.server, self.cluster, self.root, self.work = server, cluster, root, work
        self.fingerprint: Callable[[PipelineSpec, str, dict[str, Any]], str] = fingerprint
        self.cached: dict[str, Path] = {}
        self.known: dict[str, tuple[str, dict[str, Any]]] = {}
        self.places: dict[str, str] = {}  # path on this machine: URI in the store
        self.lock = threading.Lock()
        server.on_create = self.created

    def created(self, model: str, made: Any) -> None:
        """A run starts; a recurring run fires once."""
        if model == "V2beta1Run":
            threading.Thread(target=self.execute, args=[made], daemon=True).start()
        elif model == "V2beta1RecurringRun" and made.mode == "ENABLE":
            run: Any = kfp_server_api.V2beta1Run(
                run_id=str(uuid.uuid4()),
                display_name=f"{made.display_name}-1",
                experiment_id=made.experiment_id,
                recurring_run_id=made.recurring_run_id,
                pipeline_version_reference=made.pipeline_version_reference,
                runtime_config=made.runtime_config,
                created_at=made.created_at,
                state="RUNNING",
            )
            self.server.runs[run.run_id] = run
            self.execute(run)

    def execute(self, run: Any) -> None:
        version = self.server.versions[run.pipeline_version_reference.pipeline_version_id]
        documents = [version.pipeline_spec["pipeline_spec"], version.pipeline_spec["platform_spec"]]
        # Here is no kubelet to mount the volume.
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
                self.places[str(local / task / name)] = self.places[str(self.cached[key] / name)]
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
        """The executor input as KFP's driver makes it: an input's name is its id, its type is empty."""
        given = json.loads(json.dumps(given))
        ids = {uri: str(number) for number, uri in enumerate(self.known, start=1)}
        for listed in given["inputs"]["artifacts"].values():
            uri = self.places[listed["artifacts"][0]["uri"]]
            listed["artifacts"][0].update(name=ids[uri], uri=uri, type={"instanceSchema": ""})
        return given

    def secrets(self, spec: PipelineSpec, task: str) -> dict[str, str]:
        """Variables of the task that come from secrets."""
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
        """The pod of a driver that was asked then and has just ended."""
        metadata = SimpleNamespace(
            name=f"driver-{uuid.uuid4().hex[:8]}",
            labels={"pipeline/runid": run_id},
            annotations={NODE: f"{run_id}.{node}-driver"},
            creation_timestamp=asked,
        )
        self.cluster.pods.append(SimpleNamespace(metadata=metadata, status=terminated(asked)))

    def schedule(self, spec: PipelineSpec, task: str, given: dict[str, Any], run_id: str) -> Any:
        """A pod as KFP's driver makes it of the exported file."""
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
        """Artifacts into the store, and what the executor output says of them into ML Metadata."""
        place = self.root / spec.name / run_id / task / uuid.uuid4().hex
        shutil.copytree(folder, place, ignore=shutil.ignore_patterns("work"))
        written = json.loads((folder / "executor_output.json").read_text())["artifacts"]
        for name, declared in spec.component(task)["outputDefinitions"]["artifacts"].items():
            properties = written.get(name, {"artifacts": [{"metadata": {}}]})["artifacts"][0]["metadata"]
            self.known[str(place / name)] = (declared["artifactType"]["schemaTitle"], properties)
            self.places[str(folder / name)] = str(place / name)


def moment() -> datetime:
    """Now, as Kubernetes writes times: in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def terminated(started: datetime) -> Any:
    """Status of a pod whose container began then and has just ended."""
    state = SimpleNamespace(terminated=SimpleNamespace(started_at=started, finished_at=moment()))
    return SimpleNamespace(container_statuses=[SimpleNamespace(name="main", state=state)])


@contextmanager
def served_metadata(emulation: Emulation) -> Iterator[str]:
    """A gRPC server that answers as ML Metadata does; its address."""
    made = messages()

    def answer(request: Any, _context: Any) -> Any:
        response = made["GetArtifactsByURIResponse"]()
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
        request_deserializer=made["GetArtifactsByURIRequest"].FromString,
        response_serializer=made["GetArtifactsByURIResponse"].SerializeToString,
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
    """What KFP compares before it takes a task from its cache."""
    container = spec.executor(task)["container"]
    inputs = given["inputs"]
    decides = {
        "container": [container["image"], container["command"], container["args"]],
        "parameters": inputs["parameterValues"],
        "artifacts": {name: listed["artifacts"][0]["name"] for name, listed in inputs["artifacts"].items()},
        "outputs": spec.component(task)["outputDefinitions"],
    }
    return json.dumps(decides, sort_keys=True)
