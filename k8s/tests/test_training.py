"""What a laptop trains, the cluster trains: a pod per step, the model everywhere, the same bytes."""

import json
from typing import Any

import httpx
import pytest
import yaml

from k8s.tests.conftest import NAMESPACE, Cluster, Dagster, metadata, said, wait_until

NOUNS = {
    "dataset",
    "validated_data",
    "features",
    "trained_model",
    "evaluation",
    "onnx_model",
    "registered_model",
}


def test_every_step_had_its_own_pod_with_labels_that_say_whose(cluster: Cluster, trained):
    run_id, _ = trained
    steps = cluster.steps(run_id)
    assert set(steps) == NOUNS
    assert {len(pods) for pods in steps.values()} == {1}
    for pods in steps.values():
        labels = pods[0]["metadata"]["labels"]
        assert labels["jukebox/project"] == "jukebox"
        assert labels["dagster/run-id"] == run_id
        assert labels["dagster/job"] == "jukebox_training"


def test_a_step_pod_has_no_token_and_its_own_account_and_resources(cluster: Cluster, trained):
    for noun, (pod, *_) in cluster.steps(trained[0]).items():
        spec = pod["spec"]
        assert spec["serviceAccountName"] == "jukebox-step"
        assert spec["automountServiceAccountToken"] is False
        mounts = spec["containers"][0]["volumeMounts"]
        assert not [m for m in mounts if "serviceaccount" in m["mountPath"]], noun
        assert spec["containers"][0]["resources"]["limits"]["memory"]
        assert spec["containers"][0]["image"].split("/")[-1].startswith("jukebox-step:")


def test_independent_steps_ran_side_by_side(trained):
    stats = {s["stepKey"].split("__")[-1]: s for s in trained[1]["stepStats"]}
    for one, other in (("validated_data", "features"), ("evaluation", "onnx_model")):
        a, b = stats[one], stats[other]
        assert a["startTime"] < b["endTime"]
        assert b["startTime"] < a["endTime"]


def test_the_model_is_on_the_volume_and_in_mlflow_with_its_alias(cluster: Cluster, trained):
    registered = metadata(trained[1], "registered_model")
    version = registered["model"].split()[-1]
    with cluster.forwarded("service/jukebox-mlflow", 5000) as url:
        api = f"{url}/api/2.0/mlflow/registered-models/get"
        model = httpx.get(api, params={"name": "jukebox"}, timeout=60).json()["registered_model"]
    aliases = {a["alias"]: a["version"] for a in model["aliases"]}
    assert {"champion", "challenger", "staging"} <= set(aliases)
    assert aliases["challenger"] == version
    assert registered["storage uri"] == f"pvc://jukebox-models/jukebox/{version}"
    assert registered["model server"].startswith("http://jukebox-predictor.jukebox.svc.cluster.local/")


IN_ONE_PROCESS = """
dagster job execute -m jukebox_orch.definitions -j jukebox_training >&2 &&
cat "$DAGSTER_HOME"/models/jukebox/*/lineage.json
"""


def test_the_onnx_file_equals_that_of_a_run_in_one_process_without_kubernetes(cluster: Cluster, trained):
    """The same image, data and seed; sqlite and folders in place of PostgreSQL, MLflow's server and claims."""
    folders = {"tmp": "/tmp", "home": "/home/jukebox", "dagster-home": "/opt/dagster"}
    pod = _step_pod(
        cluster,
        "one-process-test",
        {
            "command": ["sh", "-c", IN_ONE_PROCESS],
            "volumeMounts": [{"name": n, "mountPath": path} for n, path in folders.items()],
        },
        [{"name": n, "emptyDir": {}} for n in folders],
    )
    pod["spec"]["restartPolicy"] = "Never"
    cluster.run("delete", "pod", "one-process-test", "--ignore-not-found")
    cluster.run("apply", "-f", "-", stdin=json.dumps(pod))
    phase = ["pod", "one-process-test"]
    wait_until(
        lambda: cluster.get(*phase)["status"]["phase"] in ("Succeeded", "Failed"), 300, "the run to end"
    )
    log = cluster.run("logs", "one-process-test").stdout
    assert cluster.get(*phase)["status"]["phase"] == "Succeeded", log[-3000:]
    lineage = json.loads(log[log.rindex("\n{") :])
    assert metadata(trained[1], "registered_model")["onnx_sha256"] == lineage["onnx_sha256"]
    cluster.run("delete", "pod", "one-process-test")


def test_what_a_step_printed_is_in_dagster_after_its_pod_is_gone(cluster: Cluster, dagster: Dagster, trained):
    run_id, _ = trained
    cluster.run("delete", "jobs", "-l", f"dagster/run-id={run_id}", "--wait=true")
    wait_until(lambda: not cluster.pods(f"dagster/run-id={run_id}"), 60, "the run's pods to go")
    query = """query($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection(limit: 1000) { events {
        ... on LogsCapturedEvent { fileKey stepKeys } } } } } }"""
    events = dagster.ask(query, id=run_id)["runOrError"]["eventConnection"]["events"]
    keys = {e["stepKeys"][0]: e["fileKey"] for e in events if e.get("stepKeys")}
    assert len(keys) == len(NOUNS)
    logs = """query($key: [String!]!) { capturedLogs(logKey: $key) { stdout stderr } }"""
    key = [run_id, "compute_logs", keys["jukebox__trained_model"]]
    captured = dagster.ask(logs, key=key)["capturedLogs"]
    assert f"jukebox-{run_id[:8]}" in (captured["stdout"] or "") + (captured["stderr"] or "")


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
    version = metadata(trained[1], "registered_model")["model"].split()[-1]
    pod = _step_pod(
        cluster,
        "serving-test",
        {
            "command": ["python", "-c", SERVER, f"/models/jukebox/{version}/model.onnx"],
            "volumeMounts": [{"name": "models", "mountPath": "/models", "readOnly": True}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 2},
        },
        [{"name": "models", "persistentVolumeClaim": {"claimName": "jukebox-models", "readOnly": True}}],
    )
    cluster.run("delete", "pod", "serving-test", "--ignore-not-found")
    cluster.run("apply", "-f", "-", stdin=json.dumps(pod))
    cluster.run("wait", "pod/serving-test", "--for=condition=Ready", "--timeout=120s")
    yield version
    cluster.run("delete", "pod", "serving-test", "--grace-period=1")


def test_a_model_server_that_reads_the_volume_predicts_the_recorded_example(cluster: Cluster, serving: str):
    read = ["exec", "serving-test", "--", "cat", f"/models/jukebox/{serving}/example.json"]
    example = json.loads(cluster.run(*read).stdout)
    with cluster.forwarded("pod/serving-test", 8080) as url:
        answer = httpx.post(url, json={"inputs": example["inputs"]}, timeout=60).json()
    for name, expected in example["outputs"].items():
        for row, wanted in zip(answer["outputs"][name], expected, strict=True):
            assert row == pytest.approx(wanted, abs=1e-4)


def test_the_entry_has_a_kserve_manifest_that_points_at_the_volume(cluster: Cluster, serving: str):
    read = ["exec", "serving-test", "--", "cat", f"/models/jukebox/{serving}/inferenceservice.yaml"]
    service = yaml.safe_load(cluster.run(*read).stdout)
    assert service["metadata"]["namespace"] == NAMESPACE
    assert service["spec"]["predictor"]["model"]["storageUri"] == f"pvc://jukebox-models/jukebox/{serving}"


def test_a_second_run_in_pods_is_told_from_the_first(dagster: Dagster, trained):
    """The registry has the version already: it is adopted, not added again."""
    run = dagster.finished(dagster.start({"seed": 42}))
    assert run["status"] == "SUCCESS", said(run)
    assert metadata(run, "registered_model")["model"] == metadata(trained[1], "registered_model")["model"]


def _step_pod(
    cluster: Cluster, name: str, container: dict[str, Any], volumes: list[dict[str, Any]]
) -> dict[str, Any]:
    """A plain pod of the step image, as restricted as the overlay's template of it."""
    template = cluster.get("podtemplate", "jukebox-step")["template"]["spec"]
    spec = template | {"containers": [template["containers"][0] | container], "volumes": volumes}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }
