"""The KFP that `make kfp-test` uses: API, pods, object store, and the data and secret that it creates there."""

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
# The charts are in a config map, so that pods can read them on any KFP, with any object store.
MOUNT = {
    "container_config": {"volume_mounts": [{"name": DATA, "mount_path": str(Path(CHARTS).parent)}]},
    "pod_spec_config": {"volumes": [{"name": DATA, "config_map": {"name": DATA}}]},
}


@dataclass
class Site:
    """The KFP under test and the state of one run of the script.

    `pods` is a `kubernetes.client.CoreV1Api`, `root` the pipeline root of runs without one. `nonce` makes the first
    runs differ from those of an earlier test, which this KFP may have in its cache.
    """

    api: KfpHost
    pods: Any
    metadata: Metadata
    namespace: str
    root: str
    image: str
    pod_config: Path | None = None
    poll: float = 5.0
    nonce: int = field(default_factory=lambda: uuid.uuid4().int % 10**6)

    @property
    def experiment(self) -> str:
        """KFP experiment of all runs."""
        return f"acceptance-{self.nonce}"

    @property
    def greeting(self) -> str:
        """Secret value for the foreign graph."""
        return f"hello {self.nonce}"

    @property
    def unique_parameters(self) -> dict[str, Any]:
        """Parameters of the jukebox that make each task that may be cached differ from earlier tests."""
        return {"seed": self.nonce, "drift_warn": round(0.1 + self.nonce / 10**9, 9)}

    def start(self, path: Path, name: str, values: Mapping[str, Any]) -> Any:
        """Submit and return the run."""
        account = read_pipeline_spec(path).info.get("service_account")
        version = self.api.upload(path)
        return self.api.submit(version, name, values, experiment=self.experiment, service_account=account)[0]

    def ended(self, run_id: str, timeout: float = 1800) -> Any:
        """Wait until the run has ended and return it."""
        return self.api.wait(run_id, timeout, self.poll)

    def succeeded(self, path: Path, name: str, values: Mapping[str, Any] | None = None) -> Any:
        """Submit a run, wait for it and return it; it must succeed."""
        run = self.ended(self.start(path, name, values or {}).run_id)
        expect(run.state == "SUCCEEDED", f"run {name} ({run.run_id}) is {run.state}")
        return run

    def pods_of_run(self, run_id: str) -> list[Any]:
        """Return all existing pods of a run, including drivers, oldest first."""
        listed = self.pods.list_namespaced_pod(self.namespace, label_selector=f"pipeline/runid={run_id}")
        return sorted(listed.items, key=lambda pod: str(pod.metadata.creation_timestamp))

    def pods_of(self, run_id: str, asset: str) -> list[Any]:
        """Return the pods of one asset's task, oldest first, found by the annotation that the export sets."""
        pods = self.pods_of_run(run_id)
        return [pod for pod in pods if (pod.metadata.annotations or {}).get("dagster/assets") == asset]

    def last_check_line(self, run_id: str, asset: str) -> str:
        """Return the last line of the step's log about a check; the launcher adds its own lines after it."""
        (*_, pod) = self.pods_of(run_id, asset)
        text = self.pods.read_namespaced_pod_log(pod.metadata.name, self.namespace, container="main")
        return next((line for line in reversed(text.splitlines()) if "asset check" in line), "")

    def folders(self, spec: PipelineSpec, run_id: str) -> dict[str, str]:
        """Return the folder of the artifacts of each task that ran; a task from the cache has none."""
        filesystem, prefix = fsspec.url_to_fs(as_s3(f"{self.root}/{spec.name}/{run_id}"))
        found = [path.split("/")[-3:-1] for path in filesystem.glob(f"{prefix}/*/*/dagster_record")]
        return {task: f"{self.root}/{spec.name}/{run_id}/{task}/{folder}" for task, folder in found}

    def text(self, url: str) -> str:
        """Return an object of the store as text."""
        filesystem, path = fsspec.url_to_fs(as_s3(url))
        return filesystem.cat_file(path).decode()

    def records(self, spec: PipelineSpec, run_id: str) -> dict[str, TaskRecord]:
        """Return the records of the tasks that ran."""
        return {
            task: parse_record(self.text(f"{folder}/dagster_record"), folder)
            for task, folder in self.folders(spec, run_id).items()
        }

    def exported(self, folder: Path, module: str, job: str, attribute: str | None = None) -> Path:
        """Export and verify the pipeline with the command line, and return its path."""
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
        """Create or replace the secret of the foreign graph."""
        self._put("secret", SECRET, {"data": {"greeting": base64.b64encode(greeting.encode()).decode()}})

    def put_charts(self, path: Path) -> None:
        """Create or replace the data that pods read at `CHARTS`."""
        content = base64.b64encode(path.read_bytes()).decode()
        self._put("config_map", DATA, {"binaryData": {Path(CHARTS).name: content}})

    def clean(self) -> None:
        """Delete the secret and the data."""
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
    """Return the executor input of the step from the command line of the pod's main container."""
    main = main_container(pod)
    arguments = [*(main.command or []), *(main.args or [])]
    return json.loads(arguments[arguments.index("--executor_input") + 1])


def main_container(pod: Any) -> Any:
    """Return the container that runs the step."""
    return next(container for container in pod.spec.containers if container.name == "main")


def expect(condition: bool, message: str) -> None:
    """Raise AssertionError unless the condition is true."""
    if not condition:
        raise AssertionError(message)


def as_s3(url: str) -> str:
    """Return the URL with the scheme of S3: KFP calls its own S3 store `minio`."""
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
