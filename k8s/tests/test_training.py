"""Training in the cluster: one pod per step, the model on the volume and in MLflow, the same bytes as locally."""

import json

import pytest
import yaml

from k8s.tests.system import (
    ASSETS,
    NAMESPACE,
    SEED,
    Cluster,
    Dagster,
    Registry,
    Volumes,
    events_text,
    metadata,
    wait_until,
)


def test_every_step_has_own_labelled_pod(cluster: Cluster, trained):
    run_id, _ = trained
    steps = cluster.steps(run_id)
    assert set(steps) == set(ASSETS)
    assert {len(pods) for pods in steps.values()} == {1}
    for pods in steps.values():
        labels = pods[0]["metadata"]["labels"]
        assert labels["jukebox/project"] == "jukebox"
        assert labels["dagster/run-id"] == run_id
        assert labels["dagster/job"] == "jukebox_training"


def test_step_pod_has_own_account_limits_and_no_token(cluster: Cluster, trained):
    for asset, (pod, *_) in cluster.steps(trained[0]).items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] == "jukebox-step"
        assert spec["automountServiceAccountToken"] is False
        mounts = spec["containers"][0]["volumeMounts"]
        assert not [m for m in mounts if "serviceaccount" in m["mountPath"]], asset
        assert spec["containers"][0]["resources"]["limits"]["memory"]
        assert spec["containers"][0]["image"].split("/")[-1].startswith("jukebox-step:")


def test_independent_steps_start_in_parallel(trained):
    """Their pods are requested together; the node decides when each one computes."""
    requested = {
        e["stepKey"].split("__")[-1]: float(e["timestamp"]) / 1000
        for e in trained[1]["eventConnection"]["events"]
        if e["__typename"] == "StepWorkerStartingEvent"
    }
    started = {s["stepKey"].split("__")[-1]: s["startTime"] for s in trained[1]["stepStats"]}
    for one, other in (("validated_data", "features"), ("evaluation", "onnx_model")):
        assert requested[one] < started[other]
        assert requested[other] < started[one]


def test_model_is_on_volume_and_in_mlflow_with_alias(registry: Registry, volumes: Volumes, trained):
    registered = metadata(trained[1], "registered_model")
    version = registered["version"]
    aliases = registry.aliases("jukebox-sample")
    assert {"champion", "challenger", "staging"} <= set(aliases)
    assert aliases["challenger"] == version
    found = volumes.sh(f"sha256sum /data/models/jukebox-sample/{version}/model.onnx")
    assert found.split()[0] == registered["onnx_sha256"]
    assert registered["storage uri"] == f"pvc://jukebox-models/jukebox-sample/{version}"
    assert registered["model server"].startswith("http://jukebox-sample-predictor.jukebox.svc.cluster.local/")


IN_ONE_PROCESS = f"""
echo 'seed: {SEED}' >/tmp/run.yaml &&
dagster job execute -m jukebox_orch.definitions -j jukebox_training -c /tmp/run.yaml >&2 &&
cat "$DAGSTER_HOME"/models/jukebox-sample/*/lineage.json
"""


def test_onnx_file_equals_single_process_run(cluster: Cluster, trained):
    """Same image, data and seed; sqlite and folders instead of PostgreSQL, MLflow's server and claims."""
    folders = {"tmp": "/tmp", "home": "/home/jukebox", "dagster-home": "/opt/dagster"}
    pod = cluster.pod_of_step_image(
        "one-process-test",
        {
            "command": ["sh", "-c", IN_ONE_PROCESS],
            "volumeMounts": [{"name": n, "mountPath": path} for n, path in folders.items()],
        },
        [{"name": n, "emptyDir": {}} for n in folders],
        restartPolicy="Never",
    )
    cluster.delete("pod", "one-process-test")
    cluster.apply(pod)
    phase = ["pod", "one-process-test"]
    wait_until(
        lambda: cluster.get(*phase)["status"]["phase"] in ("Succeeded", "Failed"), 300, "the run to end"
    )
    log = cluster.run("logs", "one-process-test").stdout
    assert cluster.get(*phase)["status"]["phase"] == "Succeeded", log[-3000:]
    lineage = json.loads(log[log.rindex("\n{") :])
    assert metadata(trained[1], "registered_model")["onnx_sha256"] == lineage["onnx_sha256"]
    cluster.delete("pod", "one-process-test")


SERVER = r"""
import http.server, json, sys
import numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
types = {"tensor(float)": numpy.float32, "tensor(uint8)": numpy.uint8}
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        inputs = json.loads(self.rfile.read(int(self.headers["content-length"])))["inputs"]
        feed = {i.name: numpy.asarray(inputs[i.name], types[i.type]) for i in session.get_inputs()}
        outputs = {o.name: v.tolist() for o, v in zip(session.get_outputs(), session.run(None, feed))}
        body = json.dumps({"outputs": outputs}).encode()
        self.send_response(200); self.send_header("content-length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture
def serving(cluster: Cluster, trained):
    """A pod with onnxruntime that reads the model from the volume, as a model server does."""
    version = metadata(trained[1], "registered_model")["version"]
    pod = cluster.pod_of_step_image(
        "serving-test",
        {
            "command": ["python", "-c", SERVER, f"/models/jukebox-sample/{version}/model.onnx"],
            "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 2},
        },
        [{"name": "models", "persistentVolumeClaim": {"claimName": "jukebox-models", "readOnly": True}}],
    )
    cluster.delete("pod", "serving-test")
    cluster.apply(pod)
    cluster.run("wait", "pod/serving-test", "--for=condition=Ready", "--timeout=120s")
    yield version
    cluster.delete("pod", "serving-test")


def test_model_server_on_volume_predicts_recorded_example(cluster: Cluster, volumes: Volumes, serving: str):
    example = json.loads(volumes.sh(f"cat /data/models/jukebox-sample/{serving}/example.json"))
    body = {"inputs": example["inputs"]}
    answer = cluster.request("POST", "pod/serving-test", 8080, "/", json=body).json()
    for name, expected in example["outputs"].items():
        for row, wanted in zip(answer["outputs"][name], expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-4)


def test_model_store_entry_has_kserve_manifest_for_volume(volumes: Volumes, trained):
    version = metadata(trained[1], "registered_model")["version"]
    service = yaml.safe_load(volumes.sh(f"cat /data/models/jukebox-sample/{version}/inferenceservice.yaml"))
    assert service["metadata"]["namespace"] == NAMESPACE
    assert (
        service["spec"]["predictor"]["model"]["storageUri"]
        == f"pvc://jukebox-models/jukebox-sample/{version}"
    )


def test_second_run_reuses_artifacts_and_adopts_version(dagster: Dagster, trained):
    run = dagster.finished(dagster.start({"seed": SEED}))
    assert run["status"] == "SUCCESS", events_text(run)
    assert metadata(run, "registered_model")["version"] == metadata(trained[1], "registered_model")["version"]
    assert metadata(run, "trained_model")["reused_from_run"] == trained[0]
