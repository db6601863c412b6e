"""What a run registers, and which version becomes champion."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jukebox_orch.assets.check_builder import check_results
from jukebox_orch.assets.evaluation import checks as evaluation_checks
from jukebox_orch.ml.keras_runtime import predict
from jukebox_orch.registry.promotion import champion_history, move_champion
from jukebox_orch_tests.support.deployment import SMALL, Deployment, checks, failures
from jukebox_orch_tests.support.projects import Blobs
from jukebox_orch_tests.support.registration_crash import add

# --- results of a run


def test_first_version_has_all_aliases(finished):
    deployment, result = finished
    assert deployment.aliases() == {"challenger": "1", "champion": "1", "staging": "1"}
    assert checks(result)["registered_model:reads_back"].passed
    value = deployment.value("blobs/registered_model")
    assert value.aliases == ["challenger", "champion", "staging"]
    assert value.sha256 == deployment.metadata("blobs/onnx_model")["onnx_sha256"]


def test_version_tags_record_lineage(finished):
    deployment, result = finished
    (version,) = deployment.client().search_model_versions("name = 'blobs'")
    tags = version.tags
    assert tags["dagster_run_id"] == result.run_id
    assert tags["mlflow_run_id"] == version.run_id
    assert tags["git_commit"] == "c0ffee"
    assert tags["git/tag"] == "v1.0.0"
    assert tags["git/code_matches_tag"] == "no"
    assert tags["version_label"] == "1.0.0"
    assert tags["onnx_sha256"] == deployment.metadata("blobs/onnx_model")["onnx_sha256"]
    assert tags["dataset_digest"] == deployment.version("blobs/dataset")
    assert tags["features_digest"] == deployment.version("blobs/features")
    assert tags["verified"] == "true"
    accuracy = deployment.value("blobs/evaluation").test.metrics["accuracy"]
    assert float(tags["test_accuracy"]) == pytest.approx(accuracy, abs=1e-6)
    assert f"Test accuracy: {accuracy:.4f}" in version.description


def test_mlflow_run_has_parameters_curves_data_and_figures(finished):
    deployment, result = finished
    client = deployment.client()
    (experiment,) = client.search_experiments(filter_string="name = 'blobs'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.tags["dagster_run_id"] == result.run_id
    assert run.data.tags["git/tag"] == "v1.0.0"
    assert run.data.params["epochs"] == "4"
    assert run.data.params["seed"] == "42"
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3]
    assert run.data.metrics["test_accuracy"] == deployment.value("blobs/evaluation").test.metrics["accuracy"]
    assert "majority_class_accuracy" in run.data.metrics
    digest = deployment.version("blobs/dataset")
    (used,) = run.inputs.dataset_inputs
    assert digest.startswith(used.dataset.digest)
    assert json.loads(used.dataset.profile)["digest"] == digest
    figures = {Path(f.path).stem for f in client.list_artifacts(run.info.run_id, "figures")}
    assert {"learning_curves", "calibration"} <= figures


def test_registered_onnx_model_has_signature_and_pinned_requirements(finished):
    import mlflow
    from mlflow.models import get_model_info

    deployment, _ = finished
    deployment.client()
    info = get_model_info("models:/blobs@champion")
    assert info.signature.inputs.input_names() == ["height", "width", "depth"]
    loaded = mlflow.pyfunc.load_model("models:/blobs@champion")
    test = deployment.value("blobs/features").features.test
    rows = {n: np.asarray(test.x[:, i : i + 1]) for i, n in enumerate(("height", "width", "depth"))}
    (served,) = loaded.predict(rows).values()
    network = deployment.value("blobs/trained_model").keras_model
    np.testing.assert_allclose(served, network.predict(np.asarray(test.x), verbose=0), atol=1e-5)
    requirements = mlflow.pyfunc.get_model_dependencies("models:/blobs@champion")
    assert all("==" in line for line in Path(requirements).read_text().split())


def test_logged_keras_model_has_signature_and_pinned_requirements(finished):
    import keras
    from mlflow.artifacts import download_artifacts
    from mlflow.keras import load_model
    from mlflow.models import get_model_info

    deployment, _ = finished
    run = deployment.client().get_run(deployment.value("blobs/registered_model").mlflow_run_id)
    models = [get_model_info(f"models:/{output.model_id}") for output in run.outputs.model_outputs]
    by_flavor = {flavor: info for info in models for flavor in info.flavors}
    info = by_flavor["keras"]
    assert by_flavor["onnx"].model_uri != info.model_uri
    assert info.signature.inputs.numpy_types() == [np.dtype("float32")]
    loaded = load_model(info.model_uri, load_model_kwargs={"safe_mode": True})
    assert isinstance(loaded, keras.Model)
    features = deployment.value("blobs/features").features
    x = features.arrays(features.test)
    ours = predict(deployment.value("blobs/trained_model").keras_model, x)
    np.testing.assert_array_equal(predict(loaded, x), ours)
    folder = Path(download_artifacts(info.model_uri))
    assert {p.suffix for p in folder.rglob("*") if p.is_file()} <= {"", ".keras", ".txt", ".yaml", ".json"}
    assert all("==" in line for line in (folder / "requirements.txt").read_text().split())


def test_logged_models_belong_to_experiment_and_artifacts_of_run(finished):
    """MLflow's default experiment has its artifacts in the working folder of whoever created the database."""
    deployment, _ = finished
    client = deployment.client()
    run = client.get_run(deployment.value("blobs/registered_model").mlflow_run_id)
    models = [client.get_logged_model(output.model_id) for output in run.outputs.model_outputs]
    assert sorted(model.name for model in models) == ["keras_model", "onnx_model"]
    experiment = client.get_experiment(run.info.experiment_id)
    for model in models:
        assert model.experiment_id == experiment.experiment_id
        assert model.artifact_location.startswith(experiment.artifact_location)
        assert model.source_run_id == run.info.run_id
        assert model.params == run.data.params
        assert model.status == "READY"


def test_store_entry_has_documented_files(finished):
    deployment, _ = finished
    entry = Path(deployment.store().entry("blobs", "1").path)
    assert {p.name for p in entry.iterdir()} == {
        "model.onnx", "labels.json", "features.json", "metrics.json", "example.json", "profile.json",
        "lineage.json", "requirements.txt", "README.md", "inferenceservice.yaml",
    }  # fmt: skip
    assert json.loads((entry / "labels.json").read_text()) == ["red", "green", "blue"]
    assert (
        json.loads((entry / "metrics.json").read_text()) == deployment.value("blobs/evaluation").test.metrics
    )
    lineage = json.loads((entry / "lineage.json").read_text())
    assert lineage["onnx_sha256"] == sha256((entry / "model.onnx").read_bytes()).hexdigest()
    card = (entry / "README.md").read_text()
    for text in (
        "# blobs version 1 (1.0.0)",
        "Classifies points",
        "majority_class",
        lineage["dataset_digest"],
    ):
        assert text in card


def test_dagster_run_has_one_mlflow_run(finished):
    deployment, _ = finished
    assert (
        len(
            deployment.client().search_runs(
                [e.experiment_id for e in deployment.client().search_experiments()]
            )
        )
        == 1
    )
    assert deployment.value("blobs/registered_model").mlflow_run_id in str(
        deployment.metadata("blobs/registered_model")["mlflow run"]
    )


# --- which version becomes champion


def weak(assets: list[str], **gates: float) -> dict[str, Any]:
    """Return the config of assets that train a weak model, with gates that accept it."""
    lenient = {"gates": {"metric_floor": 0.0, "champion_tolerance": 1.0, **gates}}
    config = {
        "trained_model": {"hyperparameters": {"epochs": 1, "learning_rate": 0.004}},
        "evaluation": lenient,
        "onnx_model": {},
        "registered_model": {**lenient, "version": "weak"},
    }
    return {f"blobs__{asset}": {"config": config[asset]} for asset in assets}


def test_worse_model_is_challenger_compared_with_current_champion(
    again: Deployment,
):
    good, assets = again.value("blobs/onnx_model"), ["trained_model", "evaluation", "onnx_model"]
    result = again.run(only=assets, ops=weak(assets))
    assert result.success, failures(result)
    evaluation = again.value("blobs/evaluation")
    assert evaluation.champion.version == "1"
    assert evaluation.champion.metrics["accuracy"] > evaluation.test.metrics["accuracy"] + 0.05
    number = add(again, "in between", base=good)
    result = again.run(only=["registered_model"], ops=weak(["registered_model"], champion_tolerance=0.01))
    assert result.success, failures(result)
    assert again.aliases() == {"challenger": "3", "champion": number, "production": number, "staging": "1"}
    log = "\n".join(e.user_message for e in again.instance.all_logs(result.run_id))
    assert f"stays challenger: test accuracy {evaluation.test.metrics['accuracy']:.4f}" in log
    assert (
        f"champion version {number} has {evaluation.champion.metrics['accuracy']:.4f} on the same split"
        in log
    )


def test_evaluation_stops_model_worse_than_champion(again: Deployment):
    assets = ["trained_model", "evaluation", "onnx_model", "registered_model"]
    result = again.run(only=assets, ops=weak(assets, champion_tolerance=0.01))
    assert not result.success
    assert not checks(result)["evaluation:not_worse_than_champion"].passed
    assert again.versions() == [1]
    assert again.aliases()["champion"] == "1"


@pytest.mark.parametrize("base", ["elsewhere", "elsewhere/1"])
def test_evaluation_stops_model_worse_than_named_base(base: str, again: Deployment):
    add(again, "good", model="elsewhere")
    assets = ["trained_model", "evaluation", "onnx_model", "registered_model"]
    ops = weak(assets, champion_tolerance=0.01)
    ops["blobs__evaluation"]["config"]["base_model_name"] = base
    result = again.run(only=assets, ops=ops)
    check = checks(result)["evaluation:not_worse_than_champion"]
    assert not check.passed
    assert "elsewhere version 1 has" in (check.description or "")
    assert again.versions() == [1]
    assert again.aliases("elsewhere")["champion"] == "1"


def test_model_equal_to_base_does_not_replace_champion(again: Deployment):
    assets = ["trained_model", "evaluation", "onnx_model"]
    assert again.run(only=assets, ops=weak(assets)).success
    add(again, "as weak", model="elsewhere")
    later = ["evaluation", "registered_model"]
    ops = weak(later, champion_tolerance=0.01)
    ops["blobs__evaluation"]["config"]["base_model_name"] = "elsewhere"
    result = again.run(only=later, ops=ops)
    assert result.success, failures(result)
    report = again.value("blobs/evaluation")
    assert (report.champion.model_name, report.champion.version) == ("elsewhere", "1")
    assert report.champion.metrics == pytest.approx(report.test.metrics, abs=1e-4)
    assert again.aliases() == {"champion": "1", "staging": "1", "challenger": "2"}


@pytest.mark.parametrize("base", ["nowhere", "blobs/99"])
def test_missing_base_is_refused(base: str, again: Deployment):
    result = again.run("evaluate_and_register", base_model_name=base, version="2")
    assert not result.success
    assert f"base_model_name = '{base}': the registry has no such version" in failures(result)
    assert again.versions() == [1]


def test_model_without_champion_is_compared_with_baseline(finished):
    deployment, result = finished
    check = checks(result)["evaluation:not_worse_than_champion"]
    assert check.passed
    report = deployment.value("blobs/evaluation")
    baseline = report.baselines[0].metrics["accuracy"]
    assert check.metadata["threshold"].value == baseline
    assert "there is no champion yet; majority_class has" in (check.description or "")
    worse = report.test.model_copy(update={"metrics": {**report.test.metrics, "accuracy": baseline - 0.02}})
    results = check_results(Blobs(), evaluation_checks(Blobs()), report.model_copy(update={"test": worse}))
    assert [r.passed for r in results if r.check_name == "not_worse_than_champion"] == [False]


def test_rollback_moves_stage_alias(again: Deployment):
    result = again.run(**SMALL, version="2.0.0", stage="canary")
    assert result.success, failures(result)
    assert again.aliases() == {"staging": "1", "canary": "2", "champion": "2", "challenger": "2"}
    move_champion(again.mlflow(), again.store(), "blobs", "", by="a test", why="worse in practice")
    assert again.aliases() == {"staging": "1", "canary": "1", "champion": "1", "challenger": "2"}


def test_champion_that_cannot_be_compared_stays(again: Deployment):
    path = Path(again.store().entry("blobs", "1").path) / "model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    result = again.run("evaluate_and_register", gates={"metric_floor": 0.5}, version="2")
    assert result.success, failures(result)
    check = checks(result)["evaluation:not_worse_than_champion"]
    assert check.passed
    assert "not compared, so the new version stays challenger: version 1" in (check.description or "")
    assert again.aliases() == {"champion": "1", "staging": "1", "challenger": "2"}


def test_prod_flag_moves_production_instead_of_staging(again: Deployment):
    result = again.run(**SMALL, version="2.0.0", prod_flag=True)
    assert result.success, failures(result)
    assert again.aliases() == {"staging": "1", "production": "2", "champion": "2", "challenger": "2"}
    assert [e.version for e in champion_history(again.mlflow(), "blobs")] == ["1", "2"]


def test_model_without_current_evaluation_is_not_registered(again: Deployment):
    again.run(only=["trained_model", "onnx_model"], ops=weak(["trained_model", "onnx_model"]))
    result = again.run(only=["registered_model"])
    assert not result.success
    assert "onnx_model and evaluation are of different models: materialize both again" in failures(result)
    assert again.versions() == [1]


def test_registration_of_same_model_adopts_version(again: Deployment):
    """A version with the same file, features and label is adopted, even if another run registered it."""
    result = again.run(
        only=["registered_model"], ops={"blobs__registered_model": {"config": {"version": "1.0.0"}}}
    )
    assert result.success, failures(result)
    assert again.versions() == [1]
    assert again.value("blobs/registered_model").adopted
