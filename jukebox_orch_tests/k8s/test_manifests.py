"""Properties of the manifests that kustomize builds: rights, no root, no token, no differences. Needs no cluster."""

import json
import re
import subprocess
from typing import Any

import pytest
import yaml

from jukebox_orch_tests import CHECKOUT
from jukebox_orch_tests.support.parts import program

OVERLAYS = ("k8s/overlays/local", "k8s/overlays/production", "k8s/tests/overlay")


def _build(folder: str) -> list[dict[str, Any]]:
    kubectl = program("kubectl", "install it; it includes kustomize")
    built = subprocess.run(
        [kubectl, "kustomize", folder], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return [document for document in yaml.safe_load_all(built.stdout) if document]


@pytest.fixture(scope="module", params=OVERLAYS)
def objects(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return _build(request.param)


@pytest.fixture(scope="module")
def local() -> list[dict[str, Any]]:
    return _build("k8s/overlays/local")


def _named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [
        o
        for o in objects
        if o["kind"] == kind and re.fullmatch(rf"{re.escape(name)}(-[a-z0-9]{{10}})?", o["metadata"]["name"])
    ]
    return found


def _pod_specs(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    specs = {}
    for o in objects:
        if o["kind"] in ("Deployment", "StatefulSet", "Job"):
            specs[f"{o['kind']}/{o['metadata']['name']}"] = o["spec"]["template"]["spec"]
        if o["kind"] == "PodTemplate":
            specs[f"{o['kind']}/{o['metadata']['name']}"] = o["template"]["spec"]
    return specs


def test_pods_have_no_root_and_read_only_file_system(objects):
    for name, spec in _pod_specs(objects).items():
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] >= 999, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name


def test_only_webserver_and_daemon_have_token(objects):
    with_token = {
        n for n, spec in _pod_specs(objects).items() if spec.get("automountServiceAccountToken", True)
    }
    assert with_token == {"Deployment/jukebox-webserver", "Deployment/jukebox-daemon"}
    for account in (o for o in objects if o["kind"] == "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


def test_one_role_has_exactly_rights_of_runs(objects):
    assert not [o for o in objects if o["kind"] in ("ClusterRole", "ClusterRoleBinding")]
    (role,) = [o for o in objects if o["kind"] == "Role"]
    rights = {(r, v) for rule in role["rules"] for r in rule["resources"] for v in rule["verbs"]}
    assert rights == {
        *(("jobs", verb) for verb in ("create", "get", "list", "delete")),
        ("jobs/status", "get"),
        *(("pods", verb) for verb in ("get", "list", "delete")),
        ("pods/log", "get"),
        ("events", "list"),
    }
    (binding,) = [o for o in objects if o["kind"] == "RoleBinding"]
    assert [s["name"] for s in binding["subjects"]] == ["jukebox-orchestrator"]


def test_namespace_admits_restricted_pods_only(objects):
    (namespace,) = [o for o in objects if o["kind"] == "Namespace"]
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_manifests_contain_no_secret(objects):
    assert not [o for o in objects if o["kind"] == "Secret"]
    for name, spec in _pod_specs(objects).items():
        for variable in (v for c in spec["containers"] for v in c.get("env", [])):
            if re.search(r"PASSWORD|SECRET|TOKEN", variable["name"]):
                assert "value" not in variable, (name, variable["name"])


def test_long_running_pods_have_probes_and_resources(objects):
    for name, spec in _pod_specs(objects).items():
        if name.startswith("PodTemplate"):
            continue
        for container in spec["containers"]:
            assert "livenessProbe" in container, name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name


def test_cluster_and_local_dagster_yaml_agree_outside_kubernetes():
    laptop = yaml.safe_load((CHECKOUT / "dagster.yaml").read_text())
    cluster = yaml.safe_load((CHECKOUT / "k8s/base/dagster.yaml").read_text())
    assert {key: cluster.get(key) for key in laptop} == laptop
    assert set(cluster) - set(laptop) == {
        "concurrency",
        "run_retries",
        "storage",
        "compute_logs",
        "run_launcher",
    }


def test_dagster_accepts_cluster_settings():
    # Dagster's public validation of a dagster.yaml connects to its database.
    from dagster._core.instance.ref import InstanceRef

    launcher = InstanceRef.from_dir(str(CHECKOUT / "k8s/base")).run_launcher_data
    assert launcher is not None
    assert launcher.class_name == "NonRetryingRunLauncher"


def test_code_location_matches_local_workspace(local):
    module = yaml.safe_load((CHECKOUT / "workspace.yaml").read_text())["load_from"][0]["python_module"]
    server = yaml.safe_load((CHECKOUT / "k8s/base/workspace.yaml").read_text())["load_from"][0]["grpc_server"]
    assert server["location_name"] == module
    container = _named(local, "Deployment", "jukebox-code-location")["spec"]["template"]["spec"][
        "containers"
    ][0]
    assert container["command"][-2:] == ["--module-name", module]
    assert server["host"] in {o["metadata"]["name"] for o in local if o["kind"] == "Service"}


def test_runs_and_deployments_have_same_settings(objects):
    for name in ("settings", "config"):
        deployed = _named(objects, "ConfigMap", f"jukebox-{name}")["data"]
        assert _named(objects, "ConfigMap", f"jukebox-run-{name}")["data"] == deployed


def test_runs_and_steps_use_images_of_overlay(objects):
    settings = _named(objects, "ConfigMap", "jukebox-run-settings")["data"]
    specs = _pod_specs(objects)
    assert settings["DAGSTER_CURRENT_IMAGE"] == specs["Deployment/jukebox-daemon"]["containers"][0]["image"]
    assert settings["JUKEBOX_ORCH_STEP_IMAGE"] == specs["PodTemplate/jukebox-step"]["containers"][0]["image"]
    assert all(":" in settings[key] for key in ("DAGSTER_CURRENT_IMAGE", "JUKEBOX_ORCH_STEP_IMAGE"))


def test_volumes_mounted_by_run_pods_exist(objects):
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    maps = {o["metadata"]["name"] for o in objects if o["kind"] == "ConfigMap"}
    instance = yaml.safe_load(_named(objects, "ConfigMap", "jukebox-instance")["data"]["dagster.yaml"])
    executor = yaml.safe_load(_named(objects, "ConfigMap", "jukebox-run-config")["data"]["executor.yaml"])
    volumes = [
        *instance["run_launcher"]["config"]["run_k8s_config"]["pod_spec_config"]["volumes"],
        *executor["step_k8s_config"]["pod_spec_config"]["volumes"],
    ]
    for volume in volumes:
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] in claims
        if "configMap" in volume:
            assert volume["configMap"]["name"] in maps
        assert "hostPath" not in volume


def test_only_persistent_objects_have_keep_label(objects):
    labelled = {o["kind"] for o in objects if o["metadata"].get("labels", {}).get("jukebox/keep") == "true"}
    assert labelled == {"Namespace", "PersistentVolumeClaim"}
    claims = [o for o in objects if o["kind"] == "PersistentVolumeClaim"]
    assert all(o["metadata"]["labels"]["jukebox/keep"] == "true" for o in claims)


def test_production_uses_s3_and_has_no_database():
    objects = _build("k8s/overlays/production")
    settings = _named(objects, "ConfigMap", "jukebox-run-settings")["data"]
    assert settings["JUKEBOX_ORCH_ARTIFACTS"].startswith("s3://")
    assert settings["JUKEBOX_ORCH_MODEL_STORE"].startswith("s3://")
    assert "StatefulSet" not in {o["kind"] for o in objects}
    claims = {o["metadata"]["name"] for o in objects if o["kind"] == "PersistentVolumeClaim"}
    assert claims == {"jukebox-logs", "jukebox-landing", "jukebox-mlflow"}


def test_rendered_kapp_manifests_equal_overlay():
    rendered = list(yaml.safe_load_all((CHECKOUT / "k8s/gitops/rendered/production.yaml").read_text()))
    assert rendered == _build("k8s/overlays/production"), "run `make k8s-render`"


def test_gitops_objects_refer_to_existing_folders():
    argo = yaml.safe_load((CHECKOUT / "k8s/gitops/argocd-application.yaml").read_text())
    assert (argo["apiVersion"], argo["kind"]) == ("argoproj.io/v1alpha1", "Application")
    assert (CHECKOUT / argo["spec"]["source"]["path"] / "kustomization.yaml").is_file()
    assert argo["spec"]["destination"]["namespace"] == "jukebox"
    app = yaml.safe_load((CHECKOUT / "k8s/gitops/kapp-app.yaml").read_text())
    assert (app["apiVersion"], app["kind"]) == ("kappctrl.k14s.io/v1alpha1", "App")
    folder = CHECKOUT / app["spec"]["fetch"][0]["git"]["subPath"]
    (template,) = app["spec"]["template"]
    assert all(list((folder / path).glob("*.yaml")) for path in template["ytt"]["paths"])
    assert app["spec"]["deploy"][0]["kapp"]["intoNs"] == "jukebox"


def test_knative_service_is_restricted_and_has_one_instance():
    (service,) = _build("k8s/knative")
    assert (service["apiVersion"], service["kind"]) == ("serving.knative.dev/v1", "Service")
    template = service["spec"]["template"]
    assert template["metadata"]["annotations"]["autoscaling.knative.dev/max-scale"] == "1"
    (container,) = template["spec"]["containers"]
    assert container["securityContext"]["runAsNonRoot"] is True
    assert container["command"] == ["python", "-m", "jukebox_orch.run_api"]
    assert template["spec"]["automountServiceAccountToken"] is False


def test_step_labels_are_valid_in_kubernetes():
    from jukebox_orch.definitions import defs

    name = re.compile(r"([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
    value = re.compile(r"([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?")
    seen = 0
    for asset in defs.assets or []:
        config = json.loads(getattr(asset, "op").tags["dagster-k8s/config"])  # noqa: B009
        for key, text in config["pod_template_spec_metadata"]["labels"].items():
            assert name.fullmatch(key), key
            assert value.fullmatch(text), text
            seen += 1
    assert seen
