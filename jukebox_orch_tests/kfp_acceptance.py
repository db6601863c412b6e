"""The exported pipelines on a real KFP: what no test server can show. Exit code 1 at the first thing that differs.

    python -m jukebox_orch_tests.kfp_acceptance --host http://localhost:8888 --image registry/jukebox:1.0 \\
        --namespace kubeflow --artifact-root s3://mlpipeline/v2/artifacts [--pod-config pods.yaml] [--bad-data URL]

Needs a kubeconfig that may read and exec into pods and make a secret in the namespace, S3 credentials and
endpoint of KFP's object store in the usual AWS_* variables, and the image, which holds this package.
"""

import argparse
import base64
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import fsspec

from kfp_bridge.client import KfpHost
from kfp_bridge.records import TaskRecord, parse_record
from kfp_bridge.spec import PipelineSpec, load_spec
from kfp_bridge.sync import sync

SECRET = "kfp-bridge-test"
KILL = (
    "import os,signal,pathlib\n"
    "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
    "    c=(p/'cmdline').read_bytes()\n"
    "    if b'kfp_bridge.step' in c and b'launch' not in c.split(b'\\0')[0]: os.kill(int(p.name),signal.SIGKILL)"
)


@dataclass
class Site:
    """The KFP under test and what the run of this script remembers."""

    api: KfpHost
    pods: Any
    namespace: str
    root: str
    image: str
    pod_config: Path | None
    experiment: str = field(default_factory=lambda: f"acceptance-{uuid.uuid4().hex[:8]}")

    def run(self, path: Path, name: str, values: Mapping[str, Any], timeout: float = 1800) -> Any:
        """Submit and wait for the end."""
        spec, version = load_spec(path), self.api.upload(path)
        run, _ = self.api.submit(
            version, name, values, experiment=self.experiment, service_account=account(spec)
        )
        return self.api.wait(run.run_id, timeout)

    def pods_of(self, run_id: str, asset: str) -> list[Any]:
        """Pods of one asset's task, by the annotation that the export gives them."""
        listed = self.pods.list_namespaced_pod(
            self.namespace, label_selector=f"pipeline/runid={run_id}"
        ).items
        return [pod for pod in listed if (pod.metadata.annotations or {}).get("dagster/assets") == asset]

    def records(self, spec: PipelineSpec, run_id: str) -> dict[str, TaskRecord]:
        """Records of the run's tasks, by task, from the object store."""
        filesystem, prefix = fsspec.url_to_fs(
            f"{self.root}/{spec.name}/{run_id}".replace("minio://", "s3://", 1)
        )
        return {
            path.split("/")[-3]: parse_record(filesystem.cat_file(path).decode(), path)
            for path in filesystem.glob(f"{prefix}/*/*/dagster_record")
        }


def main() -> int:
    """Run every part in order and print what it showed."""
    options = arguments()
    site = connect(options)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ours = exported(site, work, "jukebox_orch.definitions", "jukebox_training", None)
        theirs = exported(site, work, "jukebox_orch_tests.bridge_graphs", "greeting", "greeting")
        parts: list[tuple[str, Callable[[], str]]] = [
            ("a foreign graph: upload twice is one version", lambda: upload_twice(site, theirs)),
            ("a foreign graph: run, pod settings, artifacts", lambda: foreign_run(site, theirs)),
            ("a step killed once is tried again", lambda: killed(site, theirs)),
            ("a failed gate fails the run with its message", lambda: gate(site, theirs)),
            ("a recurring run fires", lambda: recurring(site, theirs)),
            ("the jukebox: upload twice is one version", lambda: upload_twice(site, ours)),
            ("the jukebox: same ONNX as dagster job execute", lambda: same_onnx(site, ours, work)),
            (
                "the jukebox: cache where nothing changed, none where a parameter did",
                lambda: cache(site, ours),
            ),
            (
                "the jukebox: bad results register nothing",
                lambda: nothing_registered(site, ours, {"metric_floor": 0.999}),
            ),
            ("sync twice brings each event once", lambda: synced(site, [ours, theirs])),
        ]
        if options.bad_data:
            values = {"location": options.bad_data}
            parts.append(
                ("the jukebox: bad data registers nothing", lambda: nothing_registered(site, ours, values))
            )
        try:
            for name, part in parts:
                started = time.monotonic()
                print(f"{name}: {part()} ({time.monotonic() - started:.0f} s)", flush=True)
        except AssertionError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            site.pods.delete_namespaced_secret(SECRET, site.namespace)
    print("all parts passed")
    return 0


def upload_twice(site: Site, path: Path) -> str:
    """The same file is one version."""
    first, second = site.api.upload(path), site.api.upload(path)
    expect(
        first.version_id == second.version_id and not second.created,
        "the second upload made a second version",
    )
    return first.name


def foreign_run(site: Site, path: Path) -> str:
    """A run to SUCCEEDED, with the declared pod and the value that came through the secret."""
    spec = load_spec(path)
    run = succeeded(site, path, "foreign", {})
    (pod, *_) = site.pods_of(run.run_id, "greeted")
    main = next(container for container in pod.spec.containers if container.name == "main")
    expect(main.resources.requests["cpu"] == "100m", f"cpu request is {main.resources.requests}")
    expect(main.resources.limits["memory"] == "512Mi", f"limits are {main.resources.limits}")
    expect(main.image == site.image, f"image is {main.image}")
    expect(pod.metadata.labels.get("kfp-bridge") == "acceptance", f"labels are {pod.metadata.labels}")
    expect(any(mount.mount_path == "/scratch" for mount in main.volume_mounts), "the volume is not mounted")
    reference = next(
        variable for variable in main.env if variable.name == "GREETING"
    ).value_from.secret_key_ref
    expect(reference.name == SECRET, f"the variable comes from {reference}")
    record = site.records(spec, run.run_id)["greeted"].of("greeted")
    expect(record is not None and record.event.metadata["letters"].value == 5, f"the record says {record}")
    return run.run_id


def killed(site: Site, path: Path) -> str:
    """The step's process is killed in its pod; KFP runs the step again and the run succeeds."""
    from kubernetes.stream import stream

    spec = load_spec(path)
    run, _ = site.api.submit(
        site.api.upload(path),
        "killed",
        {"seconds": 45.0},
        experiment=site.experiment,
        service_account=account(spec),
    )
    pod = eventually(
        lambda: next((p for p in site.pods_of(run.run_id, "greeted") if p.status.phase == "Running"), None),
        "no pod of the step runs",
    )
    time.sleep(20)  # the step sleeps for 45 s after its imports
    command = ["python", "-c", KILL]
    stream(
        site.pods.connect_get_namespaced_pod_exec,
        pod.metadata.name,
        site.namespace,
        container="main",
        command=command,
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
    )
    ended = site.api.wait(run.run_id, 1800)
    tries = len(site.pods_of(run.run_id, "greeted"))
    expect(ended.state == "SUCCEEDED" and tries == 2, f"the run is {ended.state} after {tries} pods")
    return f"{tries} pods"


def gate(site: Site, path: Path) -> str:
    """The run fails at the gate's asset, whose pod's last line is the message; what comes after never starts."""
    run = site.run(path, "gate", {"fail": True})
    expect(run.state == "FAILED", f"the run is {run.state}")
    expect(not site.pods_of(run.run_id, "doubled"), "the asset behind the gate was started")
    line = last_line(site, run.run_id, "greeted")
    expect(
        "blocking asset check greeted:polite failed: the greeting is rude" in line,
        f"the last line is {line!r}",
    )
    return line


def recurring(site: Site, path: Path) -> str:
    """The schedule's recurring run starts a run by itself."""
    spec, version = load_spec(path), site.api.upload(path)
    site.api.schedule(version, spec, controller_timezone="UTC", experiment=site.experiment)
    listed = site.api.recurring_runs.recurring_run_service_list_recurring_runs(
        experiment_id=site.api.experiment_id(site.experiment)
    ).recurring_runs
    expect(len(listed) == 1, f"there are {len(listed)} recurring runs")
    try:
        fired = eventually(
            lambda: [
                r for r in site.api.runs_of(spec.name) if r.recurring_run_id == listed[0].recurring_run_id
            ],
            "no run was started",
            timeout=300,
        )
    finally:
        site.api.recurring_runs.recurring_run_service_delete_recurring_run(listed[0].recurring_run_id)
    return f"{len(fired)} runs"


def same_onnx(site: Site, path: Path, work: Path) -> str:
    """The ONNX file of the run has the digest of the one that Dagster's own job makes here."""
    home = work / "home"
    home.mkdir()
    command = [
        sys.executable,
        "-m",
        "dagster",
        "job",
        "execute",
        "-m",
        "jukebox_orch.definitions",
        "-j",
        "jukebox_training",
    ]
    subprocess.run(
        command, check=True, cwd=home, env={**os.environ, "DAGSTER_HOME": str(home)}, capture_output=True
    )
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["jukebox", "onnx_model"]))
        expect(event is not None, "dagster job execute made no ONNX model")
        local = event.asset_materialization.metadata["sha256"].value  # type: ignore[union-attr]
    run = succeeded(site, path, "jukebox", {})
    record = site.records(load_spec(path), run.run_id)["jukebox-onnx-model"].of("jukebox/onnx_model")
    expect(
        record is not None and record.event.metadata["sha256"].value == local,
        f"KFP made {record}, Dagster {local}",
    )
    return str(local)


def cache(site: Site, path: Path) -> str:
    """The same again takes what is honest to take from the cache; another parameter takes nothing."""
    cached = {
        task
        for task, content in load_spec(path).tasks.items()
        if content.get("cachingOptions", {}).get("enableCache")
    }
    spec = load_spec(path)
    again = succeeded(site, path, "jukebox-again", {})
    made = set(site.records(spec, again.run_id))
    expect(not made & cached, f"ran again although nothing changed: {sorted(made & cached)}")
    changed = succeeded(site, path, "jukebox-changed", {"epochs": 7})
    made = set(site.records(spec, changed.run_id))
    expect(cached <= made, f"taken from the cache although a parameter changed: {sorted(cached - made)}")
    return f"{len(cached)} of {len(spec.tasks)} tasks cached"


def nothing_registered(site: Site, path: Path, values: dict[str, Any]) -> str:
    """The run fails and no pod of registered_model was ever there."""
    run = site.run(path, f"bad-{uuid.uuid4().hex[:6]}", values)
    expect(run.state == "FAILED", f"the run is {run.state}")
    expect(not site.pods_of(run.run_id, "jukebox/registered_model"), "registered_model was started")
    failed = [detail.display_name for detail in run.run_details.task_details if detail.state == "FAILED"]
    return f"failed at {failed}"


def synced(site: Site, paths: list[Path]) -> str:
    """Each event once, however often sync runs."""
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.ephemeral(tempdir=home) as instance:
        names = [load_spec(path).name for path in paths]
        first = [run for name in names for run in sync(site.api, name, instance, site.root)]
        second = [run for name in names for run in sync(site.api, name, instance, site.root)]
    events = sum(run.materializations + run.checks for run in first)
    expect(events > 0, "nothing came")
    # A run that ended between the two is new to the second.
    known = {run.run_id for run in first}
    expect(not sum(r.materializations + r.checks for r in second if r.run_id in known), "events came twice")
    return f"{events} events of {len(first)} runs"


def succeeded(site: Site, path: Path, name: str, values: dict[str, Any]) -> Any:
    """A run that must end well."""
    run = site.run(path, name, values)
    expect(run.state == "SUCCEEDED", f"run {name} ({run.run_id}) is {run.state}")
    return run


def last_line(site: Site, run_id: str, asset: str) -> str:
    """The last line that the step wrote; the launcher adds its own after it."""
    pods = site.pods_of(run_id, asset)
    text = site.pods.read_namespaced_pod_log(pods[-1].metadata.name, site.namespace, container="main")
    return next((line for line in reversed(text.splitlines()) if "asset check" in line), "")


def exported(site: Site, work: Path, module: str, job: str, attribute: str | None) -> Path:
    """The pipeline as a user exports and verifies it."""
    path = work / f"{job}.yaml"
    options = ["-m", module, "--job", job, "--image", site.image]
    options += ["-a", attribute] if attribute else []
    options += ["--pod-config", str(site.pod_config)] if site.pod_config else []
    bridge = [sys.executable, "-m", "kfp_bridge.cli"]
    subprocess.run([*bridge, "export", *options, "-o", str(path)], check=True)
    subprocess.run([*bridge, "verify", str(path), *options], check=True)
    return path


def account(spec: PipelineSpec) -> str | None:
    """Service account of the pipeline's runs."""
    return spec.info.get("service_account")


def eventually(look: Callable[[], Any], otherwise: str, timeout: float = 300) -> Any:
    """What `look` finds in the end."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(2)
    raise AssertionError(f"{otherwise} after {timeout:.0f} s")


def expect(holds: bool, otherwise: str) -> None:
    """Stop unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


def connect(options: argparse.Namespace) -> Site:
    """The API, the cluster, and the secret that the foreign graph reads."""
    from kubernetes import client, config

    config.load_kube_config()
    pods = client.CoreV1Api()
    greeting = base64.b64encode(b"hello").decode()
    body = client.V1Secret(metadata=client.V1ObjectMeta(name=SECRET), data={"greeting": greeting})
    pods.create_namespaced_secret(options.namespace, body)
    api = KfpHost(options.host, token=os.environ.get("KFP_TOKEN"), namespace=options.user_namespace)
    return Site(
        api, pods, options.namespace, options.artifact_root.rstrip("/"), options.image, options.pod_config
    )


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description="Run the exported pipelines on a real KFP and check what happens."
    )
    parser.add_argument("--host", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--namespace", default="kubeflow", help="where the pods of runs are")
    parser.add_argument("--user-namespace", default=None, help="namespace parameter of a multi-user KFP")
    parser.add_argument("--artifact-root", default="minio://mlpipeline/v2/artifacts")
    parser.add_argument("--pod-config", type=Path, default=None)
    parser.add_argument("--bad-data", default=None, help="URL of data that validation refuses")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
