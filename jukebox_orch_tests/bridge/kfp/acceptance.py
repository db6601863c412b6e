"""Checks the exported pipelines on a real KFP, for what no test server can show. Exit code 1 at the first failure.

    python -m jukebox_orch_tests.bridge.kfp.acceptance --host http://localhost:8888 --image registry/jukebox:1.0 \\
        --namespace kubeflow --artifact-root minio://mlpipeline/v2/artifacts [--pod-config pods.yaml]

Needs kubectl and a kubeconfig that may read and exec into pods, forward a port to ML Metadata and write a secret and
a config map in the namespace; S3 credentials and endpoint of KFP's object store in the usual AWS_* variables; and
the image with this package: target `step-test` of k8s/image/Dockerfile. The fields in `--pod-config` are in snake case.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import yaml

from jukebox_orch_tests.bridge.kfp.metadata import Metadata, forwarded
from jukebox_orch_tests.bridge.kfp.site import CHARTS, Site, executor_input, expect, main_container
from jukebox_orch_tests.bridge.kfp.timing import time_split
from jukebox_orch_tests.support.dagster_runs import failed_gate, materializations
from jukebox_orch_tests.support.jukebox_files import write_charts
from jukebox_orch_tests.support.waiting import wait_until
from kfp_bridge.pipeline_graph import METRICS, REPORT, REPORT_HTML
from kfp_bridge.pipeline_spec import PipelineSpec, read_pipeline_spec
from kfp_bridge.running.reports import scalar_metrics
from kfp_bridge.service.client import KfpHost
from kfp_bridge.service.sync import sync

KILL = (
    "import os,signal,pathlib\n"
    "for p in pathlib.Path('/proc').glob('[0-9]*'):\n"
    "    c=(p/'cmdline').read_bytes()\n"
    "    if b'kfp_bridge.step' in c and b'launch' not in c.split(b'\\0')[0]: os.kill(int(p.name),signal.SIGKILL)"
)


def main() -> int:
    """Run every check in order and print its result."""
    options = parse_arguments()
    with connect(options) as site, tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        try:
            for name, check in checks(site, work):
                started = time.monotonic()
                print(f"{name}: {check()} ({time.monotonic() - started:.0f} s)", flush=True)
        except AssertionError as error:
            print(f"FAILED: {error}", file=sys.stderr)
            return 1
        finally:
            site.clean()
    print("all checks passed")
    return 0


def checks(site: Site, work: Path) -> list[tuple[str, Callable[[], str]]]:
    """Return the checks with their names; later checks use the runs of earlier ones."""
    graphs = "jukebox_orch_tests.bridge.kfp.greeting"
    site.put_secret(site.greeting)
    site.put_charts(write_charts(work / "charts.parquet"))
    foreign = site.exported(work, graphs, "greeting", "greeting")
    recoded = site.exported(work, graphs, "greeting", "greeting_recoded")
    jukebox = site.exported(work, "jukebox_orch.definitions", "jukebox_training")
    return [
        ("a foreign graph: upload twice is one version", lambda: check_upload_twice(site, foreign)),
        (
            "a foreign graph: run, pods, typed artifacts, metrics, report",
            lambda: check_foreign_run(site, foreign),
        ),
        ("a foreign graph: cache", lambda: check_foreign_cache(site, foreign, recoded)),
        ("a foreign graph: a killed step is retried", lambda: check_killed_step(site, foreign)),
        (
            "a foreign graph: a failed gate fails the run with its message",
            lambda: check_failed_gate(site, foreign),
        ),
        ("a foreign graph: a recurring run fires", lambda: check_recurring_run(site, foreign)),
        ("the jukebox: upload twice is one version", lambda: check_upload_twice(site, jukebox)),
        (
            "the jukebox: run, pods, typed artifacts, metrics, report",
            lambda: check_same_onnx(site, jukebox, work),
        ),
        (
            "the jukebox: time split of that run",
            lambda: time_split(site, jukebox, "jukebox", site.unique_parameters),
        ),
        ("the jukebox: a parameter changed at submission", lambda: check_other_parameter(site, jukebox)),
        ("the jukebox: other data under the same name", lambda: check_other_data(site, jukebox, work)),
        ("the jukebox: bad data", lambda: check_bad_data(site, jukebox, work)),
        ("sync twice reports each event once", lambda: check_sync(site, [jukebox, foreign])),
    ]


def check_upload_twice(site: Site, path: Path) -> str:
    """Upload a file twice; it is one version."""
    first, second = site.api.upload(path), site.api.upload(path)
    expect(
        first.version_id == second.version_id and not second.created,
        "the second upload created a second version",
    )
    return first.name


def check_foreign_run(site: Site, path: Path) -> str:
    """Check a successful run: its pods, and the value that it read from the secret."""
    run, spec = site.succeeded(path, "foreign", {"seed": site.nonce}), read_pipeline_spec(path)
    record = site.records(spec, run.run_id)["greeted"].of("greeted")
    letters = None if record is None else record.event.metadata["letters"].value
    expect(letters == len(site.greeting), f"the step read {letters} letters of the secret")
    return check_tasks(site, spec, run.run_id)


def check_tasks(site: Site, spec: PipelineSpec, run_id: str) -> str:
    """Check pods, artifacts and reports of every task of a run that took nothing from the cache."""
    folders, records = site.folders(spec, run_id), site.records(spec, run_id)
    expect(
        set(folders) == set(spec.tasks), f"tasks without artifacts: {sorted(set(spec.tasks) - set(folders))}"
    )
    for task in spec.tasks:
        asset = spec.pod(task)["podMetadata"]["annotations"]["dagster/assets"]
        (pod,) = site.pods_of(run_id, asset)
        check_pod(spec, task, pod)
        given, outputs = executor_input(pod), types(spec.component(task)["outputDefinitions"])
        found = {
            name: artifact["type"]["schemaTitle"] for name, artifact in artifacts(given["outputs"]).items()
        }
        expect(found == outputs, f"{task}: KFP has the outputs {found}")
        # The launcher does not receive the types of inputs; ML Metadata has them from the producer.
        inputs = types(spec.component(task).get("inputDefinitions", {}))
        sources = {name: artifact["uri"] for name, artifact in artifacts(given.get("inputs", {})).items()}
        expect(sources.keys() == inputs.keys(), f"{task}: KFP has the inputs {sorted(sources)}")
        places = {**sources, **{name: f"{folders[task]}/{name}" for name in outputs}}
        for name, wanted in {**inputs, **outputs}.items():
            known = site.metadata.of(places[name])
            expect([k.type for k in known] == [wanted], f"{task}: ML Metadata has {name} as {known}")
        (metrics,) = site.metadata.of(f"{folders[task]}/{METRICS}")
        for name, value in scalar_metrics(records[task]).items():
            found = metrics.properties.get(name)
            expect(
                found is not None and float(found) == value, f"{task}: metric {name} is {found}, not {value}"
            )
        expect(
            f"## {asset}" in site.text(f"{folders[task]}/{REPORT}"), f"{task}: its report is of another task"
        )
        expect(
            "</html>" in site.text(f"{folders[task]}/{REPORT_HTML}"), f"{task}: its HTML report is truncated"
        )
    return f"{run_id}, {len(spec.tasks)} tasks"


def check_pod(spec: PipelineSpec, task: str, pod: Any) -> None:
    """Check that the pod has image, resources, labels, secret references and volumes of the exported file."""
    from kubernetes.utils import parse_quantity

    container, settings, main = spec.executor(task)["container"], spec.pod(task), main_container(pod)
    expect(main.image == container["image"], f"{task}: image {main.image}")
    for name, amount in container.get("resources", {}).items():
        if not name.startswith("resource"):
            continue  # KFP's deprecated form of the same amount
        kind = "cpu" if "Cpu" in name else "memory"
        bounds = main.resources.limits if name.endswith("Limit") else main.resources.requests
        found = (bounds or {}).get(kind)
        same = found is not None and parse_quantity(found) == parse_quantity(amount)
        expect(same, f"{task}: {name} is {found}, not {amount}")
    labels = settings["podMetadata"].get("labels", {})
    expect(labels.items() <= pod.metadata.labels.items(), f"{task}: labels {pod.metadata.labels}")
    variables = {variable.name: variable for variable in main.env or []}
    for item in settings.get("secretAsEnv", []):
        for pair in item["keyToEnv"]:
            reference = variables[pair["envVar"]].value_from.secret_key_ref
            found = (reference.name, reference.key)
            wanted = (item["secretNameParameter"]["runtimeValue"]["constant"], pair["secretKey"])
            expect(found == wanted, f"{task}: {pair['envVar']} comes from {found}")
    places = {mount.mount_path for mount in main.volume_mounts}
    for kind in ("pvcMount", "secretAsVolume", "configMapAsVolume", "emptyDirMounts"):
        wanted = {item["mountPath"] for item in settings.get(kind, [])}
        expect(wanted <= places, f"{task}: not mounted: {sorted(wanted - places)}")


def artifacts(side: dict[str, Any]) -> dict[str, Any]:
    """Return the artifacts of one side of an executor input, by name."""
    return {name: listed["artifacts"][0] for name, listed in side.get("artifacts", {}).items()}


def types(definitions: dict[str, Any]) -> dict[str, str]:
    """Return the types of the artifacts of one side of a component in the exported file."""
    declared = definitions.get("artifacts", {})
    return {name: artifact["artifactType"]["schemaTitle"] for name, artifact in declared.items()}


def check_foreign_cache(site: Site, path: Path, recoded: Path) -> str:
    """Check that tasks come from the cache if nothing changed, and run again after other code, settings or data."""
    spec = read_pipeline_spec(path)

    def ran(name: str, exported: Path = path, seed: int = site.nonce) -> set[str]:
        return set(site.records(spec, site.succeeded(exported, name, {"seed": seed}).run_id))

    again = ran("foreign-again") & {"drawn", "scaled"}
    expect(not again, f"ran again although nothing changed: {sorted(again)}")
    expect(
        "scaled" in ran("foreign-recoded", recoded), "scaled came from the cache although its code changed"
    )
    other_seed = ran("foreign-seed", seed=site.nonce + 1)
    expect({"drawn", "scaled"} <= other_seed, f"ran for another setting of drawn: {sorted(other_seed)}")
    site.put_secret(f"good {site.greeting}")
    expect("doubled" in ran("foreign-data"), "doubled came from the cache although its data changed")
    site.put_secret(site.greeting)
    return "cached, then run again for other code, for another setting, for other data"


def check_killed_step(site: Site, path: Path) -> str:
    """Kill the step's process in its pod; KFP runs the step again and the run succeeds."""
    from kubernetes.stream import stream

    run = site.start(path, "killed", {"seconds": 45.0})
    pod = wait_until(
        lambda: next((p for p in site.pods_of(run.run_id, "greeted") if p.status.phase == "Running"), None),
        300,
        "a pod of the step to run",
        every=2,
    )
    time.sleep(20)  # the step sleeps for 45 s after its imports
    stream(
        site.pods.connect_get_namespaced_pod_exec,
        pod.metadata.name,
        site.namespace,
        container="main",
        command=["python", "-c", KILL],
        stderr=True,
        stdin=False,
        stdout=True,
        tty=False,
    )
    ended = site.ended(run.run_id)
    tries = len(site.pods_of(run.run_id, "greeted"))
    expect(ended.state == "SUCCEEDED" and tries == 2, f"the run is {ended.state} after {tries} pods")
    return f"{tries} pods"


def check_failed_gate(site: Site, path: Path) -> str:
    """Check that the run fails at the gate's asset with its message as the last line, and starts nothing downstream."""
    return check_stopped(
        site, path, "gate", {"fail": True}, "greeted:polite failed: the greeting is rude", "doubled"
    )


def check_stopped(site: Site, path: Path, name: str, values: dict[str, Any], refusal: str, never: str) -> str:
    """Check that the run fails at the asset of `refusal` with its message and has no pod of the asset `never`."""
    run = site.ended(site.start(path, name, values).run_id)
    expect(run.state == "FAILED", f"the run is {run.state}")
    expect(not site.pods_of(run.run_id, never), f"{never} was started")
    line = site.last_check_line(run.run_id, refusal.partition(":")[0])
    expect(line.endswith(f"blocking asset check {refusal}"), f"the last line is {line!r}, not {refusal!r}")
    return line


def check_recurring_run(site: Site, path: Path) -> str:
    """Check that the schedule's recurring run starts a run."""
    spec, version = read_pipeline_spec(path), site.api.upload(path)
    site.api.schedule(version, spec, controller_timezone="UTC", experiment=site.experiment)
    listed = site.api.recurring_runs.recurring_run_service_list_recurring_runs(
        experiment_id=site.api.experiment_id(site.experiment)
    ).recurring_runs
    expect(len(listed) == 1, f"there are {len(listed)} recurring runs")
    mine = listed[0].recurring_run_id
    try:
        fired = wait_until(
            lambda: [run for run in site.api.runs_of(spec.name) if run.recurring_run_id == mine],
            300,
            "the recurring run to start a run",
            every=2,
        )
    finally:
        site.api.recurring_runs.recurring_run_service_delete_recurring_run(mine)
    return f"{len(fired)} runs"


def check_same_onnx(site: Site, path: Path, work: Path) -> str:
    """Check that the ONNX file of the run has the digest of the one that Dagster's own job makes here."""
    own = {"seed": site.nonce, "gates": {"drift_warn": site.unique_parameters["drift_warn"]}}
    expect(dagster_job(work / "home", own) == 0, "dagster job execute failed")
    local = materializations(work / "home")["jukebox/onnx_model"].metadata["sha256"].value
    run, spec = site.succeeded(path, "jukebox", site.unique_parameters), read_pipeline_spec(path)
    expect(onnx(site, spec, run.run_id) == local, f"KFP made {onnx(site, spec, run.run_id)}, Dagster {local}")
    return f"{check_tasks(site, spec, run.run_id)}, ONNX {local}"


def onnx(site: Site, spec: PipelineSpec, run_id: str) -> Any:
    """Return the digest of the run's ONNX file."""
    record = site.records(spec, run_id)["jukebox-onnx-model"].of("jukebox/onnx_model")
    return None if record is None else record.event.metadata["sha256"].value


def dagster_job(home: Path, settings: dict[str, Any]) -> int:
    """Run Dagster's own job in a new home and return its exit code."""
    home.mkdir()
    (home / "run.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "dagster", "job", "execute", "-m", "jukebox_orch.definitions"]
    command += ["-j", "jukebox_training", "-c", "run.yaml"]
    environment = {**os.environ, "DAGSTER_HOME": str(home)}
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, check=False).returncode


def check_other_parameter(site: Site, path: Path) -> str:
    """Check that other epochs train another model."""
    spec = read_pipeline_spec(path)
    run = site.succeeded(path, "jukebox-epochs", {**site.unique_parameters, "epochs": 7})
    ran = set(site.folders(spec, run.run_id))
    takes = {task for task, content in spec.tasks.items() if "epochs" in content["inputs"]["parameters"]}
    expect(takes | {"jukebox-onnx-model"} <= ran, f"tasks that ran with other epochs: {sorted(ran)}")
    record = site.records(spec, run.run_id)["jukebox-trained-model"].of("jukebox/trained_model")
    epochs = None if record is None else record.event.metadata["epochs"].value
    expect(epochs == 7, f"trained for {epochs} epochs")
    return f"{sorted(ran)} ran"


def check_other_data(site: Site, path: Path, work: Path) -> str:
    """Check that every task runs again for another file under the same name, although no parameter differs."""
    spec = read_pipeline_spec(path)
    values = {**site.unique_parameters, "location": CHARTS}
    site.succeeded(path, "jukebox-file", values)
    site.put_charts(write_charts(work / "other.parquet", seed=2024))
    ran = set(site.folders(spec, site.succeeded(path, "jukebox-other-file", values).run_id))
    expect(
        ran == set(spec.tasks),
        f"taken from the cache although the data changed: {sorted(set(spec.tasks) - ran)}",
    )
    return f"all {len(ran)} tasks ran"


def check_bad_data(site: Site, path: Path, work: Path) -> str:
    """Check that the run fails where Dagster's own job fails, with its message, and registers nothing."""
    charts = write_charts(work / "bad.parquet", bad=True)
    expect(
        dagster_job(work / "bad", {"source": {"location": str(charts)}}) == 1, "Dagster accepted the bad data"
    )
    site.put_charts(charts)
    values = {"location": CHARTS}
    return check_stopped(site, path, "bad", values, failed_gate(work / "bad"), "jukebox/registered_model")


def check_sync(site: Site, paths: list[Path]) -> str:
    """Run sync twice and check that each event is reported once."""
    names = [read_pipeline_spec(path).name for path in paths]
    with tempfile.TemporaryDirectory() as home, dg.DagsterInstance.ephemeral(tempdir=home) as instance:
        first = [run for name in names for run in sync(site.api, name, instance, site.root)]
        second = [run for name in names for run in sync(site.api, name, instance, site.root)]
    events = sum(run.materializations + run.checks for run in first)
    expect(events > 0, "sync reported no event")
    # A run that ended between the two is new to the second.
    known = {run.run_id for run in first}
    expect(
        not sum(r.materializations + r.checks for r in second if r.run_id in known),
        "sync reported events twice",
    )
    return f"{events} events of {len(first)} runs"


@contextmanager
def connect(options: argparse.Namespace) -> Iterator[Site]:
    """Connect to the API, the cluster and ML Metadata."""
    from kubernetes import client, config

    config.load_kube_config()
    api = KfpHost(options.host, token=os.environ.get("KFP_TOKEN"), namespace=options.user_namespace)
    with forwarded(options.kfp_namespace) as address:
        yield Site(
            api=api,
            pods=client.CoreV1Api(),
            metadata=Metadata(address),
            namespace=options.namespace,
            root=options.artifact_root.rstrip("/"),
            image=options.image,
            pod_config=options.pod_config,
        )


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description="Run the exported pipelines on a real KFP and check the results."
    )
    parser.add_argument("--host", required=True)
    parser.add_argument("--image", required=True)
    parser.add_argument("--namespace", default="kubeflow", help="where the pods of runs are")
    parser.add_argument("--kfp-namespace", default="kubeflow", help="where KFP itself is")
    parser.add_argument("--user-namespace", default=None, help="namespace parameter of a multi-user KFP")
    parser.add_argument("--artifact-root", default="minio://mlpipeline/v2/artifacts")
    parser.add_argument("--pod-config", type=Path, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
