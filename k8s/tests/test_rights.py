"""What the accounts must not do, what no pod may be, and that no secret is to be read where it does not belong."""

import base64
import json

import pytest

from k8s.tests.system import NAMESPACE, Cluster, Dagster, Volumes, said

ORCHESTRATOR = f"system:serviceaccount:{NAMESPACE}:jukebox-orchestrator"
STEP = f"system:serviceaccount:{NAMESPACE}:jukebox-step"
BACKEND = f"system:serviceaccount:{NAMESPACE}:jukebox-backend"
NOBODY = f"system:serviceaccount:{NAMESPACE}:nobody-has-heard-of"


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


def test_the_orchestrator_may_do_what_its_role_says_and_what_everybody_may(cluster: Cluster):
    assert _rights(cluster, ORCHESTRATOR) == _rights(cluster, NOBODY) | {
        *(("jobs.batch", verb) for verb in ("create", "get", "list", "delete")),
        ("jobs.batch/status", "get"),
        *(("pods", verb) for verb in ("get", "list", "delete")),
        ("pods/log", "get"),
        ("events", "list"),
    }


@pytest.mark.parametrize("account", [STEP, BACKEND])
def test_steps_and_servers_may_do_nothing(cluster: Cluster, account: str):
    assert _rights(cluster, account) == _rights(cluster, NOBODY)
    for verb, resource in (
        ("get", "pods"),
        ("create", "jobs"),
        ("get", "secrets"),
        ("list", "events"),
        ("create", "pods/exec"),
    ):
        assert not _can(cluster, account, verb, resource), (verb, resource)


def _rights(cluster: Cluster, account: str) -> set[tuple[str, str]]:
    """What the account may do in the namespace, as the server lists it: (resource, verb)."""
    listed = cluster.run("auth", "can-i", "--list", "--no-headers", "--as", account).stdout.splitlines()
    found = set()
    for line in listed:
        resource, verbs = line.split()[0], line[line.rindex("[") + 1 : line.rindex("]")]
        if not resource.startswith(("[", "/")):  # pages of the API server, not resources
            found |= {(resource, verb) for verb in verbs.split()}
    return found


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
    """The API server judges every pod that is there when the level of a namespace changes."""
    level = "pod-security.kubernetes.io/enforce={}"
    relabel = ["label", "namespace", NAMESPACE, "--overwrite"]
    cluster.run(*relabel, level.format("baseline"))
    judged = cluster.run(*relabel, level.format("restricted"))
    assert "violate" not in judged.stderr, judged.stderr
    for pod in cluster.get("pods")["items"]:
        spec = pod["spec"]
        assert not spec.get("hostNetwork")
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], pod["metadata"]["name"]


def test_only_those_who_start_or_end_pods_have_a_token(cluster: Cluster, trained):
    with_token = set()
    for pod in cluster.get("pods")["items"]:
        labels = pod["metadata"]["labels"]
        if any("serviceAccountToken" in json.dumps(v) for v in pod["spec"]["volumes"]):
            with_token.add(labels.get("app.kubernetes.io/component") or labels["app.kubernetes.io/name"])
    assert with_token == {"webserver", "daemon", "run_worker"}


def test_a_process_in_a_step_finds_no_token(volumes: Volumes):
    assert volumes.sh("ls -A /var/run/secrets 2>/dev/null || true") == ""


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
    assert {"key": "dagster/max_retries", "value": "0"} in run["tags"], "it is not to be tried again"
    assert not cluster.pods(f"dagster/run-id={run_id}")


def test_a_run_config_that_asks_for_an_image_or_a_volume_is_not_even_created(dagster: Dagster):
    config = {"step_k8s_config": {"pod_spec_config": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}}
    answer = dagster.launch({"execution": {"config": config}})
    assert answer["__typename"] == "RunConfigValidationInvalid", answer
    assert "execution" in answer["errors"][0]["message"]


def test_no_secret_value_is_in_a_spec_an_event_a_log_a_run_or_on_a_volume(
    cluster: Cluster, volumes: Volumes, trained
):
    values = [
        base64.b64decode(value).decode()
        for secret in cluster.get("secrets")["items"]
        for value in secret.get("data", {}).values()
    ]
    assert values
    everything = "pods,jobs,configmaps,deployments,statefulsets,events"
    places = {"objects": cluster.run("get", everything, "-o", "json").stdout, "run": said(trained[1])}
    for pod in cluster.get("pods")["items"]:
        name = pod["metadata"]["name"]
        places[f"log of {name}"] = cluster.run("logs", name, "--all-containers", check=False).stdout
    for place, text in places.items():
        assert not [v for v in values if v in text], place
    written = "grep -rlFf - /data || [ $? = 1 ]"
    assert volumes.sh(written, trained[0]) != "", "the run's id is to be found, so the search works"
    assert volumes.sh(written, "\n".join(values)) == "", "files on the volumes with a secret's value"
