"""What the accounts must not do, what no pod may be, and that no secret is to be read where it does not belong."""

import base64
import json

import pytest

from k8s.tests.conftest import NAMESPACE, Cluster, Dagster, said

ORCHESTRATOR = f"system:serviceaccount:{NAMESPACE}:jukebox-orchestrator"
STEP = f"system:serviceaccount:{NAMESPACE}:jukebox-step"
BACKEND = f"system:serviceaccount:{NAMESPACE}:jukebox-backend"


def _can(cluster: Cluster, account: str, verb: str, resource: str, namespace: str = NAMESPACE) -> bool:
    answer = cluster.run("auth", "can-i", verb, resource, "--as", account, "-n", namespace, check=False)
    assert answer.stdout.strip() in ("yes", "no"), answer.stderr
    return answer.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("create", "jobs"), ("get", "jobs"), ("delete", "jobs"), ("list", "pods"), ("get", "pods/log")],
)
def test_the_orchestrator_may_run_jobs_in_its_namespace_only(cluster: Cluster, verb: str, resource: str):
    assert _can(cluster, ORCHESTRATOR, verb, resource)
    assert not _can(cluster, ORCHESTRATOR, verb, resource, "default")
    assert not _can(cluster, ORCHESTRATOR, verb, resource, "kube-system")


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("patch", "jobs"),
        ("update", "configmaps"),
        ("get", "configmaps"),
        ("create", "rolebindings.rbac.authorization.k8s.io"),
        ("create", "serviceaccounts/token"),
        ("delete", "persistentvolumeclaims"),
        ("patch", "deployments"),
        ("impersonate", "serviceaccounts"),
        ("list", "nodes"),
        ("delete", "namespaces"),
    ],
)
def test_the_orchestrator_may_do_nothing_else(cluster: Cluster, verb: str, resource: str):
    assert not _can(cluster, ORCHESTRATOR, verb, resource)


@pytest.mark.parametrize("account", [STEP, BACKEND])
@pytest.mark.parametrize(
    ("verb", "resource"), [("get", "pods"), ("create", "jobs"), ("get", "secrets"), ("list", "events")]
)
def test_steps_and_servers_may_do_nothing(cluster: Cluster, account: str, verb: str, resource: str):
    assert not _can(cluster, account, verb, resource)


def test_a_pod_that_is_not_restricted_is_not_admitted(cluster: Cluster):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "privileged-test"},
        "spec": {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]},
    }
    refused = cluster.run("apply", "-f", "-", check=False, stdin=json.dumps(pod))
    assert refused.returncode != 0
    assert "violates PodSecurity" in refused.stderr


def test_no_pod_that_is_there_violates_restricted(cluster: Cluster, trained):
    done = cluster.run(
        "label",
        "namespace",
        NAMESPACE,
        "--dry-run=server",
        "--overwrite",
        "pod-security.kubernetes.io/enforce=restricted",
    )
    assert "violate" not in done.stderr, done.stderr
    for pod in cluster.get("pods")["items"]:
        spec = pod["spec"]
        assert not spec.get("hostNetwork")
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert all(c["securityContext"]["readOnlyRootFilesystem"] for c in spec["containers"]), pod[
            "metadata"
        ]["name"]


@pytest.mark.parametrize(
    ("asks", "field"),
    [
        (
            {"pod_spec_config": {"volumes": [{"name": "host", "host_path": {"path": "/"}}]}},
            "pod_spec_config.volumes",
        ),
        (
            {"container_config": {"security_context": {"privileged": True}}},
            "container_config.security_context",
        ),
        ({"pod_spec_config": {"service_account_name": "default"}}, "pod_spec_config.service_account_name"),
        ({"container_config": {"image": "elsewhere/evil"}}, "container_config.image"),
        (
            {"container_config": {"env_from": [{"secret_ref": {"name": "other"}}]}},
            "container_config.env_from",
        ),
    ],
    ids=["hostPath", "privileged", "service account", "image", "secret"],
)
def test_a_run_whose_tags_ask_for_more_than_resources_gets_no_pod(
    cluster: Cluster, dagster: Dagster, asks: dict, field: str
):
    run_id = dagster.start(tags={"dagster-k8s/config": json.dumps(asks)})
    run = dagster.finished(run_id, 180)
    assert run["status"] == "FAILURE"
    assert f"violated the allowed list: {field}" in said(run)
    assert not cluster.pods(f"dagster/run-id={run_id}")


def test_a_run_config_that_asks_for_an_image_or_a_volume_is_not_even_created(dagster: Dagster):
    config = {"step_k8s_config": {"pod_spec_config": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}}
    answer = dagster.launch({"execution": {"config": config}})
    assert answer["__typename"] == "RunConfigValidationInvalid", answer
    assert "execution" in answer["errors"][0]["message"]


def test_no_secret_value_is_in_a_spec_an_event_a_log_or_a_run(cluster: Cluster, trained):
    values = [
        base64.b64decode(value).decode()
        for secret in cluster.get("secrets")["items"]
        for value in secret.get("data", {}).values()
    ]
    assert values
    places = {
        "specs": cluster.run("get", "pods,jobs,configmaps,deployments,statefulsets", "-o", "json").stdout
    }
    places["events"] = cluster.run("get", "events", "-o", "json").stdout
    places["run"] = said(trained[1])
    for pod in cluster.get("pods")["items"]:
        name = pod["metadata"]["name"]
        places[f"log of {name}"] = cluster.run("logs", name, "--all-containers", check=False).stdout
    for place, text in places.items():
        assert not [v for v in values if v in text], place
