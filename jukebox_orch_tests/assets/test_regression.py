"""Nothing in the graph assumes classification: a regression from data to registry, its gates, plots and KFP metrics."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from jukebox_orch.assets.checks import check_results
from jukebox_orch.assets.evaluation import CHECKS
from jukebox_orch_tests.support.deployment import Deployment, checks, failures
from jukebox_orch_tests.support.projects import Rents
from kfp_bridge.records import AssetRecord, TaskRecord
from kfp_bridge.running.reports import confusion_matrix, scalar_metrics


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Deployment, dg.ExecuteInProcessResult]]:
    place = Deployment(tmp_path_factory.mktemp("regression"))
    result = place.run(project=Rents())
    assert result.success, failures(result)
    yield place, result
    place.instance.dispose()


def test_gates_are_ceilings_and_the_baseline_is_the_mean(trained):
    place, result = trained
    said = checks(result)
    assert "must be at most 150" in (said["evaluation:metric_floor"].description or "")
    report = place.value("rents/evaluation")
    rmse, mean = report.test.metrics["rmse"], report.baselines[0]
    assert mean.name == "mean"
    assert rmse < 150 < mean.metrics["rmse"]
    assert said["evaluation:not_worse_than_champion"].metadata["threshold"].value == mean.metrics["rmse"]
    assert place.aliases("rents") == {"challenger": "1", "champion": "1", "staging": "1"}


@pytest.mark.parametrize(("rmse", "failed"), [(149.0, set()), (151.0, {"metric_floor"})])
def test_a_larger_error_is_worse(rmse: float, failed: set[str], trained):
    report = trained[0].value("rents/evaluation")
    worse = report.test.model_copy(update={"metrics": {**report.test.metrics, "rmse": rmse}})
    results = check_results(Rents(), CHECKS, report.model_copy(update={"test": worse}))
    assert {r.check_name for r in results if not r.passed} == failed


def test_plots_and_tables_are_those_of_a_regression(trained):
    shown = trained[0].metadata("rents/evaluation")
    assert str(shown["predictions"]).startswith("![predictions](data:image/png;base64,")
    assert "residuals" in shown
    assert not {"confusion_matrix", "confusion matrix plot", "weakest classes", "calibration"} & set(shown)


def test_kubeflow_shows_its_metrics_and_no_confusion_matrix(trained):
    place, _ = trained
    event = place.materialization("rents/evaluation")
    record = TaskRecord((AssetRecord("rents/evaluation", None, event),), ())
    metrics = scalar_metrics(record)
    assert {"test rmse", "test mae", "test r2"} <= set(metrics)
    assert "test accuracy" not in metrics
    assert confusion_matrix(record) is None


def test_the_file_gives_a_number_per_row(trained):
    place, _ = trained
    report = place.value("rents/onnx_model").report
    assert report.outputs == {"prediction": ["tensor(float)", "batch", 1]}
    card = (Path(place.models) / "rents" / "1" / "README.md").read_text()
    assert "The output is a number." in card
