"""The same graph gives the same bytes, an export verifies against Dagster's graph, and every edit is detected."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jukebox_orch_tests.bridge import graphs as bridge_graphs
from kfp_bridge.compiling.compiler import build_pipeline, export
from kfp_bridge.errors import BridgeError
from kfp_bridge.pipeline_graph import CodeLocation, PipelineGraph
from kfp_bridge.pipeline_spec import parse_spec, read_pipeline_spec
from kfp_bridge.reading.graph import read_graph
from kfp_bridge.verifying.verify import diff, verify

SOURCE = CodeLocation(module="jukebox_orch_tests.bridge.graphs", attribute="toy")
IMAGE = "registry.example/toy:1.2.3"
MODEL, CHECK, PUBLISHED = "toy-trained-model", "toy-trained-model-enough-weights", "toy-published"


@pytest.fixture(scope="module")
def graph() -> PipelineGraph:
    return read_graph(bridge_graphs.toy, SOURCE, job="toy_training")


@pytest.fixture(scope="module")
def exported(graph: PipelineGraph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "toy.yaml"
    export(graph, IMAGE, path)
    return path


def test_same_graph_gives_same_bytes(graph: PipelineGraph, exported: Path, tmp_path: Path):
    export(read_graph(bridge_graphs.toy, SOURCE, job="toy_training"), IMAGE, tmp_path / "again.yaml")
    assert (tmp_path / "again.yaml").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("manifest", [False, True])
@pytest.mark.parametrize("job", ["toy_training", "toy_by_op", None])
def test_faithful_export_has_no_difference(job: str | None, manifest: bool, tmp_path: Path):
    graph = read_graph(bridge_graphs.toy, SOURCE, job=job)
    export(graph, IMAGE, tmp_path / "toy.yaml", manifest=manifest)
    assert [str(d) for d in verify(graph, IMAGE, read_pipeline_spec(tmp_path / "toy.yaml"))] == []


def test_yaml_equals_output_of_kfp_compiler(graph: PipelineGraph, exported: Path, tmp_path: Path):
    from kfp.compiler import Compiler

    Compiler().compile(build_pipeline(graph, IMAGE), str(tmp_path / "kfp.yaml"))
    written, compiled = (
        list(yaml.safe_load_all(path.read_text())) for path in (exported, tmp_path / "kfp.yaml")
    )
    assert written == compiled


def test_kfp_loader_reads_export(exported: Path):
    from kfp import components

    loaded = components.load_component_from_file(str(exported))
    assert loaded.name == "toy-training"
    assert set(loaded.component_spec.inputs or {}) == set(read_pipeline_spec(exported).parameters)


def test_manifests_are_kubernetes_resources(graph: PipelineGraph, tmp_path: Path):
    export(graph, IMAGE, tmp_path / "toy.yaml", manifest=True)
    documents = list(yaml.safe_load_all((tmp_path / "toy.yaml").read_text()))
    assert [document["kind"] for document in documents] == ["Pipeline", "PipelineVersion"]
    assert {document["apiVersion"] for document in documents} == {"pipelines.kubeflow.org/v2beta1"}


def _task(spec: dict, name: str) -> dict:
    return spec["root"]["dag"]["tasks"][name]


def _container(spec: dict, name: str) -> dict:
    return spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]


def _pod(platform: dict, name: str = MODEL) -> dict:
    return platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"][f"exec-{name}"]


def _parameter(spec: dict, name: str) -> dict:
    return spec["root"]["inputDefinitions"]["parameters"][name]


def _argument(spec: dict, name: str, edit: Callable[[dict], Any]) -> None:
    arguments = _container(spec, name)["args"]
    step = json.loads(arguments[-1])
    edit(step)
    arguments[-1] = json.dumps(step)


def _info(spec: dict, edit: Callable[[dict], Any]) -> None:
    text, _, info = spec["pipelineInfo"]["description"].partition("\nkfp-bridge: ")
    content = json.loads(info)
    edit(content)
    spec["pipelineInfo"]["description"] = f"{text}\nkfp-bridge: {json.dumps(content)}"


def _remove_task(spec: dict, name: str) -> None:
    spec["root"]["dag"]["tasks"].pop(name)
    spec["components"].pop(f"comp-{name}")
    spec["deploymentSpec"]["executors"].pop(f"exec-{name}")


# One edit each of a valid YAML: s is the pipeline document, p the platform document.
MUTATIONS: dict[str, Callable[[dict, dict], Any]] = {
    "pipeline renamed": lambda s, p: s["pipelineInfo"].update(name="other"),
    "description changed": lambda s, p: s["pipelineInfo"].update(
        description=s["pipelineInfo"]["description"].replace("Trains", "Trained")
    ),
    "job changed": lambda s, p: _info(s, lambda i: i.update(job="other")),
    "selection added": lambda s, p: _info(s, lambda i: i.update(select="key:x")),
    "schedule dropped": lambda s, p: _info(s, lambda i: i.update(schedules=[])),
    "cron changed": lambda s, p: _info(s, lambda i: i["schedules"][0].update(cron=["1 2 * * *"])),
    "service account dropped": lambda s, p: _info(s, lambda i: i.update(service_account=None)),
    "unknown field in the info line": lambda s, p: _info(s, lambda i: i.update(more=1)),
    "task removed": lambda s, p: _remove_task(s, "toy-announcement"),
    "task added": lambda s, p: s["root"]["dag"]["tasks"].update(extra=copy.deepcopy(_task(s, "toy-dataset"))),
    "after edge removed": lambda s, p: _task(s, PUBLISHED)["dependentTasks"].remove(CHECK),
    "gate no longer blocking": lambda s, p: _argument(
        s, CHECK, lambda a: a["checks"][0].update(blocking=False)
    ),
    "check in an asset no longer blocking": lambda s, p: _argument(
        s, "toy-dataset", lambda a: [c.update(blocking=False) for c in a["checks"]]
    ),
    "argument of another version": lambda s, p: _argument(s, "toy-dataset", lambda a: a.update(version=2)),
    "check removed": lambda s, p: _argument(s, "toy-dataset", lambda a: a["checks"].pop()),
    "warning made blocking": lambda s, p: _argument(
        s, "toy-dataset", lambda a: a["checks"][0].update(blocking=True)
    ),
    "artifact edge removed": lambda s, p: _task(s, PUBLISHED)["inputs"]["artifacts"].pop("from_toy_dataset"),
    "artifact from another task": lambda s, p: _task(s, PUBLISHED)["inputs"]["artifacts"][
        "from_toy_trained_model"
    ]["taskOutputArtifact"].update(producerTask="toy-dataset", outputArtifactKey="toy_dataset"),
    "record from another task": lambda s, p: _task(s, PUBLISHED)["inputs"]["artifacts"][
        "from_toy_trained_model_record"
    ]["taskOutputArtifact"].update(producerTask="toy-dataset"),
    "digest parameter removed": lambda s, p: _task(s, MODEL)["inputs"]["parameters"].pop(
        "from_toy_dataset_digest"
    ),
    "digest made a constant": lambda s, p: _task(s, MODEL)["inputs"]["parameters"].update(
        from_toy_dataset_digest={"runtimeValue": {"constant": "0"}}
    ),
    "input removed from the argument": lambda s, p: _argument(s, PUBLISHED, lambda a: a["inputs"].pop()),
    "output artifact type changed": lambda s, p: s["components"][f"comp-{MODEL}"]["outputDefinitions"][
        "artifacts"
    ]["toy_trained_model"]["artifactType"].update(schemaTitle="system.Dataset"),
    "input artifact type changed": lambda s, p: s["components"][f"comp-{MODEL}"]["inputDefinitions"][
        "artifacts"
    ]["from_toy_dataset"]["artifactType"].update(schemaTitle="system.Model"),
    "artifact schema version changed": lambda s, p: s["components"][f"comp-{MODEL}"]["outputDefinitions"][
        "artifacts"
    ]["toy_trained_model"]["artifactType"].update(schemaVersion="0.0.2"),
    "metrics output removed": lambda s, p: s["components"][f"comp-{MODEL}"]["outputDefinitions"][
        "artifacts"
    ].pop("dagster_metrics"),
    "asset removed from its task": lambda s, p: _argument(s, MODEL, lambda a: a["assets"].pop()),
    "asset made by another task": lambda s, p: _argument(
        s, MODEL, lambda a: a["assets"][0].update(asset="toy/dataset")
    ),
    "code_version changed": lambda s, p: _task(s, MODEL)["inputs"]["parameters"]["code_version"][
        "runtimeValue"
    ].update(constant="toy/trained_model=2"),
    "code_version dropped": lambda s, p: _task(s, MODEL)["inputs"]["parameters"].pop("code_version"),
    "default changed": lambda s, p: _parameter(s, "epochs").update(defaultValue=6.0),
    "default dropped": lambda s, p: _parameter(s, "epochs").pop("defaultValue"),
    "default false made 0": lambda s, p: _parameter(s, "bad_data").update(defaultValue=0),
    "list default changed": lambda s, p: _parameter(s, "layers").update(defaultValue=[4.0]),
    "parameter type changed": lambda s, p: _parameter(s, "epochs").update(parameterType="NUMBER_DOUBLE"),
    "parameter description changed": lambda s, p: _parameter(s, "epochs").update(description="x"),
    "parameter made required": lambda s, p: _parameter(s, "floor").pop("isOptional"),
    "parameter added": lambda s, p: s["root"]["inputDefinitions"]["parameters"].update(
        more={"parameterType": "STRING"}
    ),
    "parameter removed": lambda s, p: s["root"]["inputDefinitions"]["parameters"].pop("optimizer"),
    "parameter not passed to its task": lambda s, p: _task(s, MODEL)["inputs"]["parameters"].pop("epochs"),
    "parameter crossed": lambda s, p: _task(s, MODEL)["inputs"]["parameters"]["epochs"].update(
        componentInputParameter="floor"
    ),
    "parameter path changed": lambda s, p: _argument(
        s, MODEL, lambda a: a["parameters"]["epochs"].update(path=["epochs"])
    ),
    "retry dropped": lambda s, p: _task(s, "toy-dataset").pop("retryPolicy"),
    "retry count changed": lambda s, p: _task(s, "toy-dataset")["retryPolicy"].update(maxRetryCount=2),
    "retry delay changed": lambda s, p: _task(s, "toy-dataset")["retryPolicy"].update(backoffDuration="3s"),
    "retry factor changed": lambda s, p: _task(s, "toy-dataset")["retryPolicy"].update(backoffFactor=1.0),
    "retry longest delay changed": lambda s, p: _task(s, "toy-dataset")["retryPolicy"].update(
        backoffMaxDuration="60s"
    ),
    "retry added": lambda s, p: _task(s, PUBLISHED).update(retryPolicy={"maxRetryCount": 1}),
    "caching switched on": lambda s, p: _task(s, PUBLISHED).update(cachingOptions={"enableCache": True}),
    "caching switched off": lambda s, p: _task(s, MODEL).update(cachingOptions={}),
    "environment removed from the cache key": lambda s, p: _argument(
        s, MODEL, lambda a: a.pop("environment")
    ),
    "environment in the cache key changed": lambda s, p: _argument(
        s, MODEL, lambda a: a.update(environment="x")
    ),
    "cache key added": lambda s, p: _task(s, MODEL)["cachingOptions"].update(cacheKey="x"),
    "runs after a failure": lambda s, p: _task(s, PUBLISHED).update(
        triggerPolicy={"strategy": "ALL_UPSTREAM_TASKS_COMPLETED"}
    ),
    "condition added": lambda s, p: _task(s, PUBLISHED).update(triggerPolicy={"condition": "1 == 2"}),
    "display name changed": lambda s, p: _task(s, MODEL)["taskInfo"].update(name="x"),
    "image changed": lambda s, p: _container(s, MODEL).update(image="registry.example/toy:latest"),
    "command changed": lambda s, p: _container(s, MODEL).update(command=["sh", "-c", "true"]),
    "argument added": lambda s, p: _container(s, MODEL)["args"].insert(2, "--quiet"),
    "other definitions": lambda s, p: _argument(s, MODEL, lambda a: a["source"].update(module="other")),
    "unknown field in the argument": lambda s, p: _argument(s, MODEL, lambda a: a.update(more=1)),
    "cpu request changed": lambda s, p: _container(s, MODEL)["resources"].update(resourceCpuRequest="500m"),
    "deprecated cpu number changed": lambda s, p: _container(s, MODEL)["resources"].update(cpuRequest=0.5),
    "memory limit dropped": lambda s, p: _container(s, MODEL)["resources"].pop("resourceMemoryLimit"),
    "accelerator changed": lambda s, p: _container(s, MODEL)["resources"]["accelerator"].update(
        resourceType="amd.com/gpu"
    ),
    "accelerator count changed": lambda s, p: _container(s, MODEL)["resources"]["accelerator"].update(
        resourceCount="2", count="2"
    ),
    "variable changed": lambda s, p: _container(s, MODEL)["env"][0].update(value="http://other"),
    "variable added": lambda s, p: _container(s, PUBLISHED).update(env=[{"name": "A", "value": "b"}]),
    "lifecycle hook added": lambda s, p: _container(s, MODEL).update(
        lifecycle={"preCacheCheck": {"command": ["x"]}}
    ),
    "secret changed": lambda s, p: _pod(p)["secretAsEnv"][0]["secretNameParameter"]["runtimeValue"].update(
        constant="x"
    ),
    "secret key changed": lambda s, p: _pod(p)["secretAsEnv"][0]["keyToEnv"][0].update(secretKey="x"),
    "secret made optional": lambda s, p: _pod(p)["secretAsEnv"][0].update(optional=True),
    "config map dropped": lambda s, p: _pod(p).pop("configMapAsEnv"),
    "field variable dropped": lambda s, p: _pod(p).pop("fieldPathAsEnv"),
    "claim changed": lambda s, p: _pod(p)["pvcMount"][0]["pvcNameParameter"]["runtimeValue"].update(
        constant="x"
    ),
    "claim mount path changed": lambda s, p: _pod(p)["pvcMount"][0].update(mountPath="/x"),
    "secret volume dropped": lambda s, p: _pod(p).pop("secretAsVolume"),
    "config map volume dropped": lambda s, p: _pod(p).pop("configMapAsVolume"),
    "empty dir size changed": lambda s, p: _pod(p)["emptyDirMounts"][0].update(sizeLimit="2Gi"),
    "node selector changed": lambda s, p: _pod(p)["nodeSelector"]["labels"].update(pool="cpu"),
    "toleration dropped": lambda s, p: _pod(p).pop("tolerations"),
    "label changed": lambda s, p: _pod(p)["podMetadata"]["labels"].update(team="x"),
    "annotation dropped": lambda s, p: _pod(p)["podMetadata"].pop("annotations"),
    "pull policy changed": lambda s, p: _pod(p).update(imagePullPolicy="Always"),
    "pull secret dropped": lambda s, p: _pod(p).pop("imagePullSecret"),
    "runs as root": lambda s, p: _pod(p)["securityContext"].update(runAsUser="0"),
    "timeout changed": lambda s, p: _pod(p).update(activeDeadlineSeconds="60"),
    "unknown pod setting": lambda s, p: _pod(p).update(
        enabledSharedMemory={"size": "1Gi", "volumeName": "shm"}
    ),
    "pod settings of a task dropped": lambda s, p: p["platforms"]["kubernetes"]["deploymentSpec"][
        "executors"
    ].pop(f"exec-{MODEL}"),
    "pipeline root set": lambda s, p: s.update(defaultPipelineRoot="s3://elsewhere"),
}


def test_mutations_cover_at_least_30_edits():
    assert len(MUTATIONS) >= 30


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_mutation_is_difference(name: str, graph: PipelineGraph, exported: Path):
    pipeline, platform = yaml.safe_load_all(exported.read_text())
    MUTATIONS[name](pipeline, platform)
    text = yaml.safe_dump_all([pipeline, platform])
    assert verify(graph, IMAGE, parse_spec(text, "edited.yaml")), name


def test_reformatting_is_not_difference(graph: PipelineGraph, exported: Path):
    text = yaml.safe_dump_all(list(yaml.safe_load_all(exported.read_text())), default_flow_style=True)
    assert verify(graph, IMAGE, parse_spec(text, "flow.yaml")) == []


def test_difference_names_fact_and_both_sides(graph: PipelineGraph, exported: Path):
    (difference,) = verify(
        graph, IMAGE, parse_spec(exported.read_text().replace("maxRetryCount: 3", "maxRetryCount: 2"), "x")
    )
    assert str(difference) == "task toy-dataset: retry\n  - (3, 2, 2.0, 3600)\n  + (2, 2, 2.0, 3600)"


def test_diff_of_exports_shows_changed_facts(graph: PipelineGraph, exported: Path, tmp_path: Path):
    export(graph, "registry.example/toy:2", tmp_path / "new.yaml")
    changed = diff(read_pipeline_spec(exported), read_pipeline_spec(tmp_path / "new.yaml"))
    assert {d.fact for d in changed} == {f"task {name}: image" for name in read_pipeline_spec(exported).tasks}
    assert diff(read_pipeline_spec(exported), read_pipeline_spec(exported)) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a KFP pipeline"),
        ("a: [", "is not YAML"),
        ("- 1\n", "is not a KFP pipeline"),
        ("kind: Deployment\n", "not a KFP pipeline, or truncated: missing components"),
    ],
)
def test_file_without_pipeline_is_refused(text: str, message: str):
    with pytest.raises(BridgeError, match=message):
        parse_spec(text, "some.yaml")


def test_pipeline_not_written_by_bridge_is_refused(exported: Path):
    pipeline, platform = yaml.safe_load_all(exported.read_text())
    pipeline["pipelineInfo"]["description"] = "by hand"
    with pytest.raises(BridgeError, match="was not written by kfp-bridge"):
        parse_spec(yaml.safe_dump_all([pipeline, platform]), "other.yaml")


def test_truncated_export_is_refused_or_different(graph: PipelineGraph, exported: Path):
    lines = exported.read_text().splitlines(keepends=True)
    total = len(lines)
    for kept in range(0, total - 1, 11):
        text = "".join(lines[:kept])
        try:
            differences = verify(graph, IMAGE, parse_spec(text, "truncated.yaml"))
        except BridgeError:
            continue
        assert differences, f"{kept} of {total} lines verify like the complete file"


def test_each_pod_field_is_verified(graph: PipelineGraph, exported: Path):
    """Each field of a pod is a fact: dropping any of them from the graph is a difference."""
    step = next(step for step in graph.steps if step.name == "toy__trained_model")
    for field in dataclasses.fields(step.pod):
        value = getattr(step.pod, field.name)
        if value in ((), None):
            continue
        pod = dataclasses.replace(step.pod, **{field.name: () if isinstance(value, tuple) else None})
        steps = tuple(dataclasses.replace(s, pod=pod) if s is step else s for s in graph.steps)
        assert verify(dataclasses.replace(graph, steps=steps), IMAGE, read_pipeline_spec(exported)), (
            field.name
        )
