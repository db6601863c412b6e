"""The graph of a regression project, from data to registry: gates, plots and KFP metrics."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch.assets.check_builder import check_results
from jukebox_orch.assets.evaluation import checks as evaluation_checks
from jukebox_orch_tests.support.deployment import Deployment, checks, failures
from jukebox_orch_tests.support.projects import Rents
from kfp_bridge.records import AssetRecord, TaskRecord
from kfp_bridge.running.reports import confusion_matrix, scalar_metrics


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Deployment, dg.ExecuteInProcessResult]]:
    deployment = Deployment(tmp_path_factory.mktemp("regression"))
    result = deployment.run(project=Rents())
    assert result.success, failures(result)
    yield deployment, result
    deployment.instance.dispose()


def test_gate_is_ceiling_and_baseline_is_mean(trained):
    deployment, result = trained
    results = checks(result)
    assert "must be at most 150" in (results["evaluation:metric_floor"].description or "")
    report = deployment.value("rents/evaluation")
    rmse, mean = report.test.metrics["rmse"], report.baselines[0]
    assert mean.name == "mean"
    assert rmse < 150 < mean.metrics["rmse"]
    assert results["evaluation:not_worse_than_champion"].metadata["threshold"].value == mean.metrics["rmse"]
    assert deployment.aliases("rents") == {"challenger": "1", "champion": "1", "staging": "1"}


@pytest.mark.parametrize(("rmse", "failed"), [(149.0, set()), (151.0, {"metric_floor"})])
def test_larger_error_fails_metric_floor(rmse: float, failed: set[str], trained):
    report = trained[0].value("rents/evaluation")
    worse = report.test.model_copy(update={"metrics": {**report.test.metrics, "rmse": rmse}})
    check_outcomes = check_results(
        Rents(), evaluation_checks(Rents()), report.model_copy(update={"test": worse})
    )
    assert {r.check_name for r in check_outcomes if not r.passed} == failed


def test_evaluation_shows_regression_plots_and_tables(trained):
    shown = trained[0].metadata("rents/evaluation")
    assert str(shown["predictions"]).startswith("![predictions](data:image/png;base64,")
    assert "residuals" in shown
    assert not {"confusion_matrix", "confusion matrix plot", "weakest classes", "calibration"} & set(shown)


def test_kubeflow_metrics_have_no_confusion_matrix(trained):
    deployment, _ = trained
    event = deployment.materialization("rents/evaluation")
    record = TaskRecord((AssetRecord("rents/evaluation", None, event),), ())
    metrics = scalar_metrics(record)
    assert {"test rmse", "test mae", "test r2"} <= set(metrics)
    assert "test accuracy" not in metrics
    assert confusion_matrix(record) is None


def test_onnx_output_is_one_number_per_row(trained):
    deployment, _ = trained
    report = deployment.value("rents/onnx_model").report
    assert report.outputs == {"prediction": ["tensor(float)", "batch", 1]}
    card = (Path(deployment.models) / "rents" / "1" / "README.md").read_text()
    assert "The output is a number." in card
