"""The KFP that `make kfp-test` talks to: API, pods, object store, and the data and secret that it puts there."""

import base64
import json
import subprocess
import sys
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fsspec
import yaml

from jukebox_orch_tests.bridge.kfp.metadata import Metadata
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.records import TaskRecord, parse_record
from kfp_bridge.service.client import KfpHost

SECRET = "kfp-bridge-test"
DATA = "kfp-bridge-test-data"
CHARTS = "/kfp-bridge-test/charts.parquet"
# The charts lie in a config map: a pod of any KFP can read them, whatever store it has.
MOUNT = {
    "container_config": {"volume_mounts": [{"name": DATA, "mount_path": str(Path(CHARTS).parent)}]},
    "pod_spec_config": {"volumes": [{"name": DATA, "config_map": {"name": DATA}}]},
}


@dataclass
class Site:
    """The KFP under test and what one run of the script remembers.

    `pods` is a `kubernetes.client.CoreV1Api`, `root` the pipeline root of runs that name none; `mark` makes the
    first runs differ from those of an earlier test, which this KFP may have in its cache.
    """

    api: KfpHost
    pods: Any
    metadata: Metadata
    namespace: str
    root: str
    image: str
    pod_config: Path | None = None
    poll: float = 5.0
    mark: int = field(default_factory=lambda: uuid.uuid4().int % 10**6)

    @property
    def experiment(self) -> str:
        """KFP experiment of all runs."""
        return f"acceptance-{self.mark}"

    @property
    def greeting(self) -> str:
        """The secret of the foreign graph."""
        return f"hello {self.mark}"

    @property
    def unique(self) -> dict[str, Any]:
        """Parameters of the jukebox, one for each task that may be cached."""
        return {"seed": self.mark, "drift_warn": round(0.1 + self.mark / 10**9, 9)}

    def start(self, path: Path, name: str, values: Mapping[str, Any]) -> Any:
        """Submit; the run."""
        account = read_pipeline_spec(path).info.get("service_account")
        version = self.api.upload(path)
        return self.api.submit(version, name, values, experiment=self.experiment, service_account=account)[0]

    def ended(self, run_id: str, timeout: float = 1800) -> Any:
        """The run once it has ended."""
        return self.api.wait(run_id, timeout, self.poll)

    def succeeded(self, path: Path, name: str, values: Mapping[str, Any] | None = None) -> Any:
        """A run that must end well."""
        run = self.ended(self.start(path, name, values or {}).run_id)
        expect(run.state == "SUCCEEDED", f"run {name} ({run.run_id}) is {run.state}")
        return run

    def pods_of_run(self, run_id: str) -> list[Any]:
        """All pods of a run that are still there, drivers too, oldest first."""
        listed = self.pods.list_namespaced_pod(self.namespace, label_selector=f"pipeline/runid={run_id}")
        return sorted(listed.items, key=lambda pod: str(pod.metadata.creation_timestamp))

    def pods_of(self, run_id: str, asset: str) -> list[Any]:
        """Pods of one asset's task, oldest first, by the annotation that the export gives them."""
        pods = self.pods_of_run(run_id)
        return [pod for pod in pods if (pod.metadata.annotations or {}).get("dagster/assets") == asset]

    def last_words(self, run_id: str, asset: str) -> str:
        """The last line of the step's log; the launcher adds its own after it."""
        (*_, pod) = self.pods_of(run_id, asset)
        text = self.pods.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="main")
        return next((line for line in reversed(text.splitlines()) if "asset check" in line), "")

    def folders(self, spec: PipelineSpec, run_id: str) -> dict[str, str]:
        """Where the object store has the artifacts of each task that ran; a task from the cache has none."""
        filesystem, prefix = fsspec.url_to_fs(as_s3(f"{self.root}/{spec.name}/{run_id}"))
        found = [path.split("/")[-3:-1] for path in filesystem.glob(f"{prefix}/*/*/dagster_record")]
        return {task: f"{self.root}/{spec.name}/{run_id}/{task}/{folder}" for task, folder in found}

    def text(self, url: str) -> str:
        """An object of the store."""
        filesystem, path = fsspec.url_to_fs(as_s3(url))
        return filesystem.cat_file(path).decode()

    def records(self, spec: PipelineSpec, run_id: str) -> dict[str, TaskRecord]:
        """Records of the tasks that ran."""
        return {
            task: parse_record(self.text(f"{folder}/dagster_record"), folder)
            for task, folder in self.folders(spec, run_id).items()
        }

    def exported(self, folder: Path, module: str, job: str, attribute: str | None = None) -> Path:
        """The pipeline as a user exports and verifies it."""
        path, pods = folder / f"{attribute or job}.yaml", folder / "pods.yaml"
        own = yaml.safe_load(self.pod_config.read_text()) if self.pod_config else {}
        pods.write_text(yaml.safe_dump(_with_mount(own)))
        options = ["-m", module, "--job", job, "--image", self.image, "--pod-config", str(pods)]
        options += ["-a", attribute] if attribute else []
        bridge = [sys.executable, "-m", "kfp_bridge.cli"]
        subprocess.run([*bridge, "export", *options, "-o", str(path)], check=True)
        subprocess.run([*bridge, "verify", str(path), *options], check=True)
        return path

    def put_secret(self, greeting: str) -> None:
        """What the foreign graph greets with."""
        self._put("secret", SECRET, {"data": {"greeting": base64.b64encode(greeting.encode()).decode()}})

    def put_charts(self, path: Path) -> None:
        """The data that pods see at `CHARTS`."""
        content = base64.b64encode(path.read_bytes()).decode()
        self._put("config_map", DATA, {"binaryData": {Path(CHARTS).name: content}})

    def clean(self) -> None:
        """Remove what was put."""
        self.pods.delete_namespaced_secret(SECRET, self.namespace)
        self.pods.delete_namespaced_config_map(DATA, self.namespace)

    def _put(self, kind: str, name: str, content: dict[str, Any]) -> None:
        from kubernetes.client import ApiException

        body = {"metadata": {"name": name}, **content}
        try:
            getattr(self.pods, f"replace_namespaced_{kind}")(name, self.namespace, body)
        except ApiException as error:
            if error.status != 404:
                raise
            getattr(self.pods, f"create_namespaced_{kind}")(self.namespace, body)


def executor_input(pod: Any) -> dict[str, Any]:
    """What KFP's launcher gave the step: it stands in the command line of the pod's main container."""
    main = main_container(pod)
    words = [*(main.command or []), *(main.args or [])]
    return json.loads(words[words.index("--executor_input") + 1])


def main_container(pod: Any) -> Any:
    """The container that runs the step."""
    return next(container for container in pod.spec.containers if container.name == "main")


def expect(holds: bool, otherwise: str) -> None:
    """Stop unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


def as_s3(url: str) -> str:
    """KFP calls its own S3 store `minio`."""
    return url.replace("minio://", "s3://", 1)


def _with_mount(pod_config: dict[str, Any]) -> dict[str, Any]:
    container, pod = pod_config.get("container_config", {}), pod_config.get("pod_spec_config", {})
    mounts = [*container.get("volume_mounts", []), *MOUNT["container_config"]["volume_mounts"]]
    volumes = [*pod.get("volumes", []), *MOUNT["pod_spec_config"]["volumes"]]
    return {
        **pod_config,
        "container_config": {**container, "volume_mounts": mounts},
        "pod_spec_config": {**pod, "volumes": volumes},
    }
