"""Rights of the accounts, restrictions of the pods, and places where no secret value may appear."""

import base64
import json

import pytest

from k8s.tests.system import NAMESPACE, Cluster, Dagster, Volumes, events_text

ORCHESTRATOR = f"system:serviceaccount:{NAMESPACE}:jukebox-orchestrator"
STEP = f"system:serviceaccount:{NAMESPACE}:jukebox-step"
BACKEND = f"system:serviceaccount:{NAMESPACE}:jukebox-backend"
UNKNOWN = f"system:serviceaccount:{NAMESPACE}:unknown-account"


def _can(cluster: Cluster, account: str, verb: str, resource: str, namespace: str = NAMESPACE) -> bool:
    result = cluster.run("auth", "can-i", verb, resource, "--as", account, "-n", namespace, check=False)
    assert result.stdout.strip() in ("yes", "no"), result.stderr
    return result.stdout.strip() == "yes"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [("create", "jobs"), ("get", "jobs"), ("delete", "jobs"), ("list", "pods"), ("get", "pods/log")],
)
def test_orchestrator_may_run_jobs_in_own_namespace_only(cluster: Cluster, verb: str, resource: str):
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
def test_orchestrator_may_do_nothing_else(cluster: Cluster, verb: str, resource: str):
    assert not _can(cluster, ORCHESTRATOR, verb, resource)


def test_orchestrator_has_rights_of_role_and_default_rights(cluster: Cluster):
    assert _rights(cluster, ORCHESTRATOR) == _rights(cluster, UNKNOWN) | {
        *(("jobs.batch", verb) for verb in ("create", "get", "list", "delete")),
        ("jobs.batch/status", "get"),
        *(("pods", verb) for verb in ("get", "list", "delete")),
        ("pods/log", "get"),
        ("events", "list"),
    }


@pytest.mark.parametrize("account", [STEP, BACKEND])
def test_steps_and_servers_have_default_rights_only(cluster: Cluster, account: str):
    assert _rights(cluster, account) == _rights(cluster, UNKNOWN)
    for verb, resource in (
        ("get", "pods"),
        ("create", "jobs"),
        ("get", "secrets"),
        ("list", "events"),
        ("create", "pods/exec"),
    ):
        assert not _can(cluster, account, verb, resource), (verb, resource)


def _rights(cluster: Cluster, account: str) -> set[tuple[str, str]]:
    """Return the account's rights in the namespace, as the server lists them: (resource, verb)."""
    listed = cluster.run("auth", "can-i", "--list", "--no-headers", "--as", account).stdout.splitlines()
    found = set()
    for line in listed:
        resource, verbs = line.split()[0], line[line.rindex("[") + 1 : line.rindex("]")]
        if not resource.startswith(("[", "/")):  # URLs of the API server, not resources
            found |= {(resource, verb) for verb in verbs.split()}
    return found


def test_unrestricted_pod_is_not_admitted(cluster: Cluster):
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "privileged-test"},
        "spec": {"containers": [{"name": "c", "image": "x", "securityContext": {"privileged": True}}]},
    }
    refused = cluster.run("apply", "-f", "-", check=False, stdin=json.dumps(pod))
    assert refused.returncode != 0
    assert "violates PodSecurity" in refused.stderr


def test_no_existing_pod_violates_restricted(cluster: Cluster, trained):
    """The API server checks every existing pod when the level of a namespace changes."""
    level = "pod-security.kubernetes.io/enforce={}"
    relabel = ["label", "namespace", NAMESPACE, "--overwrite"]
    cluster.run(*relabel, level.format("baseline"))
    result = cluster.run(*relabel, level.format("restricted"))
    assert "violate" not in result.stderr, result.stderr
    for pod in cluster.get("pods")["items"]:
        spec = pod["spec"]
        assert not spec.get("hostNetwork")
        assert spec["securityContext"]["runAsNonRoot"] is True
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"], pod["metadata"]["name"]


def test_only_pod_managers_have_token(cluster: Cluster, trained):
    with_token = set()
    for pod in cluster.get("pods")["items"]:
        labels = pod["metadata"]["labels"]
        if any("serviceAccountToken" in json.dumps(v) for v in pod["spec"]["volumes"]):
            with_token.add(labels.get("app.kubernetes.io/component") or labels["app.kubernetes.io/name"])
    assert with_token == {"webserver", "daemon", "run_worker"}


def test_process_in_step_finds_no_token(volumes: Volumes):
    assert volumes.sh("ls -A /var/run/secrets 2>/dev/null || true") == ""


@pytest.mark.parametrize(
    ("config", "field"),
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
def test_run_with_tags_beyond_resources_gets_no_pod(
    cluster: Cluster, dagster: Dagster, config: dict, field: str
):
    run_id = dagster.start(tags={"dagster-k8s/config": json.dumps(config)})
    run = dagster.finished(run_id, 180)
    assert run["status"] == "FAILURE"
    assert f"violated the allowed list: {field}" in events_text(run)
    assert {"key": "dagster/max_retries", "value": "0"} in run["tags"], "the run must not be retried"
    assert not cluster.pods(f"dagster/run-id={run_id}")


def test_run_config_with_volume_creates_no_run(dagster: Dagster):
    config = {"step_k8s_config": {"pod_spec_config": {"volumes": [{"name": "h", "hostPath": {"path": "/"}}]}}}
    result = dagster.launch({"execution": {"config": config}})
    assert result["__typename"] == "RunConfigValidationInvalid", result
    assert "execution" in result["errors"][0]["message"]


def test_secret_values_appear_in_no_object_log_or_volume(cluster: Cluster, volumes: Volumes, trained):
    values = [
        base64.b64decode(value).decode()
        for secret in cluster.get("secrets")["items"]
        for value in secret.get("data", {}).values()
    ]
    assert values
    everything = "pods,jobs,configmaps,deployments,statefulsets,events"
    places = {"objects": cluster.run("get", everything, "-o", "json").stdout, "run": events_text(trained[1])}
    for pod in cluster.get("pods")["items"]:
        name = pod["metadata"]["name"]
        places[f"log of {name}"] = cluster.run("logs", name, "--all-containers", check=False).stdout
    for place, text in places.items():
        assert not [v for v in values if v in text], place
    written = "grep -rlFf - /data || [ $? = 1 ]"
    assert volumes.sh(written, trained[0]) != "", (
        "the search does not find the run's id, which is on the volumes"
    )
    assert volumes.sh(written, "\n".join(values)) == "", "files on the volumes contain a secret's value"
