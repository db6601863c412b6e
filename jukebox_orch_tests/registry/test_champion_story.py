"""Who becomes champion: a sample, real data, a worse model, another split, another dataset, rollback and promotion."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest
from pydantic import Field

from jukebox_orch.assets.training_graph import TrainingGraph
from jukebox_orch.contract import InputError, ShareSplit, Source
from jukebox_orch_tests.support.deployment import Deployment, checks, failures
from jukebox_orch_tests.support.projects import Blobs

QUICK = {"hyperparameters": {"epochs": 4}, "gates": {"metric_floor": None, "champion_tolerance": 0.2}}


class KindSplit(ShareSplit):
    """A split of two kinds, which give the same rows here."""

    kind: Literal["random", "by_row"] = Field("random", description="How rows are chosen")


class Charts(Blobs):
    """The project `blobs` with an ordinary source: without one, it trains on an embedded sample."""

    name = "charts"
    source = Source
    split = KindSplit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders with the same rows."""
    root = tmp_path_factory.mktemp("data")
    rows = Charts().generate()
    for name in ("good", "other"):
        (root / name).mkdir()
        rows.to_csv(root / name / "rows.csv", index=False)
    return root


@pytest.fixture(scope="module", params=["sqlite", "server"])
def place(
    request: pytest.FixtureRequest, migrated: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployment]:
    del migrated
    folder = tmp_path_factory.mktemp("story")
    server = request.getfixturevalue("mlflow_server") if request.param == "server" else ""
    deployment = Deployment(folder, mlflow=server)
    yield deployment
    deployment.instance.dispose()


def train(place: Deployment, location: Path | None, **settings: Any) -> dg.ExecuteInProcessResult:
    source = {"location": str(location / "rows.csv")} if location else {}
    return place.run(project=Charts(), **{**QUICK, "source": source, **settings})


def champion(place: Deployment, model: str) -> tuple[dict[str, str], str]:
    """Return the aliases, and the sha256 of the champion's file in the store, which must be that of the registry."""
    aliases = place.aliases(model)
    number = aliases["champion"]
    content = (place.store().entry(model, number) / "model.onnx").read_bytes()
    recorded = place.client().get_model_version(model, number).tags["onnx_sha256"]
    assert hashlib.sha256(content).hexdigest() == recorded
    return aliases, recorded


def promoted(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    assert result.success, failures(result)
    return checks(result)["registered_model:promoted"]


def tag_of(place: Deployment, number: str) -> str:
    return place.client().get_model_version("charts", number).tags["promotion"]


def observed(place: Deployment, run_id: str) -> list[dict[str, Any]]:
    events = place.events(dg.DagsterEventType.ASSET_OBSERVATION, run_id)
    return [
        {name: value.value for name, value in event.asset_observation_data.asset_observation.metadata.items()}
        for event in events
    ]


def check_stays_challenger(
    place: Deployment, result: dg.ExecuteInProcessResult, number: str, reason: str
) -> None:
    """Check that check, log and MLflow say why the version stays challenger, and how to promote it."""
    check = promoted(result)
    assert not check.passed
    assert check.severity == dg.AssetCheckSeverity.WARN
    text = check.description or ""
    assert reason in text
    assert f"run the job charts_promote with version: '{number}', model_name: charts and a reason" in text
    assert reason in tag_of(place, number)
    assert "run the job charts_promote" in tag_of(place, number)
    assert reason in (checks(result)["evaluation:not_worse_than_champion"].description or "")


def test_only_comparable_versions_replace_champion(place: Deployment, data: Path) -> None:
    # A sample has its own model.
    sample = train(place, None)
    assert promoted(sample).passed
    assert not checks(sample)["dataset:real_data"].passed
    assert checks(sample)["dataset:real_data"].severity == dg.AssetCheckSeverity.WARN
    all_on_1 = {"challenger": "1", "champion": "1", "staging": "1"}
    assert place.aliases("charts-sample") == all_on_1
    assert place.aliases("charts") == {}

    # Real data: the first champion.
    first = train(place, data / "good", seed=1)
    assert promoted(first).passed
    assert checks(first)["dataset:real_data"].passed
    assert champion(place, "charts")[0] == all_on_1
    (change,) = observed(place, first.run_id)
    assert (change["champion"], change["champion before"]) == ("1", "none")
    tags = place.client().get_model_version("charts", "1").tags
    assert tags["dataset_name"] == str(data / "good")
    assert (tags["split_kind"], tags["primary_metric"]) == ("random", "accuracy")
    card = place.metadata("charts/registered_model")["model card"]
    assert f"| dataset_name | {data / 'good'} |" in card

    # The sample again, with another result: nothing of the real model changes.
    again = train(place, None, seed=2)
    assert again.success, failures(again)
    assert place.aliases("charts-sample")["challenger"] == "2"
    assert champion(place, "charts")[0] == all_on_1

    # A worse model of the same data: stopped by the comparison with the champion.
    weak = {"epochs": 1, "learning_rate": 0.004}
    worse = train(place, data / "good", seed=3, hyperparameters=weak)
    assert not worse.success
    assert "not_worse_than_champion" in failures(worse)
    assert place.versions("charts") == [1]

    # Another dataset, and another split: registered, but not compared.
    other = train(place, data / "other", seed=4)
    split = train(place, data / "good", seed=5, split={"kind": "by_row"})
    for result, number, reason in (
        (other, "2", f"this model has dataset '{data / 'other'}' instead of '{data / 'good'}'"),
        (split, "3", "this model has split 'by_row' instead of 'random'"),
    ):
        check_stays_challenger(place, result, number, reason)
    assert champion(place, "charts")[0] == all_on_1 | {"challenger": "3"}

    # A person promotes the version of the other split, and goes back.
    by_hand = place.run(
        "promote", project=Charts(), version="3", reason="we split by row now", requested_by="me"
    )
    assert by_hand.success, failures(by_hand)
    assert champion(place, "charts")[0] == {"challenger": "3", "champion": "3", "staging": "3"}
    (change,) = observed(place, by_hand.run_id)
    assert (change["champion"], change["champion before"], change["reason"]) == (
        "3",
        "1",
        "we split by row now",
    )
    assert tag_of(place, "3").startswith("became champion: we split by row now (me, dagster run ")
    assert tag_of(place, "1").startswith("was champion until version 3 replaced it by a promotion")
    back = place.run("rollback", project=Charts(), reason="it was worse")
    assert back.success, failures(back)
    assert champion(place, "charts")[0] == {"challenger": "3", "champion": "1", "staging": "1"}
    assert tag_of(place, "3").startswith("was champion until version 1 replaced it by a rollback")
    assert tag_of(place, "1").startswith("became champion: it was worse")

    # The same dataset and split: compared, and promoted by itself.
    better = train(place, data / "good", seed=6)
    assert promoted(better).passed
    assert champion(place, "charts")[0] == {"challenger": "4", "champion": "4", "staging": "4"}


def test_two_runs_of_different_datasets_at_once_do_not_mix(place: Deployment, data: Path) -> None:
    def execute(name: str, seed: int) -> str:
        source = {"location": str(data / name / "rows.csv")}
        config = {**QUICK, "source": source, "seed": seed, "model_name": "at-once"}
        done = place.execute("blobs_training", config)
        assert done.returncode == 0, done.stderr[-3_000:]
        return str(data / name)

    with ThreadPoolExecutor(2) as pool:
        names = set(pool.map(execute, ("good", "other"), (1, 2)))
    versions = {str(v.version): v.tags for v in place.client().search_model_versions("name = 'at-once'")}
    assert {tags["dataset_name"] for tags in versions.values()} == names
    number = champion(place, "at-once")[0]["champion"]
    (other,) = versions.keys() - {number}
    assert versions[number]["promotion"].startswith("became champion: first version")
    assert versions[other]["promotion"].startswith("stays challenger: unlike champion version")


def test_configured_dataset_name_is_for_configured_source_only(place: Deployment, data: Path) -> None:
    defaults = {"source": {"location": str(data / "good" / "rows.csv")}, "dataset_name": "of the team"}
    graph = TrainingGraph(Charts(), defaults=defaults)
    settings = graph.settings_type
    assert graph.dataset_name(settings()) == "of the team"
    assert graph.dataset_name(settings(dataset_name="mine")) == "mine"
    other = settings(source={"location": str(data / "other" / "rows.csv")})
    assert graph.dataset_name(other) == ""
    with pytest.raises(InputError, match="dataset_name = 'sample'"):
        TrainingGraph(Charts(), defaults={"dataset_name": "sample"}).settings_type  # noqa: B018


def test_same_model_under_another_dataset_name_says_what_it_keeps(place: Deployment, data: Path) -> None:
    first = train(place, data / "good", model_name="renamed", seed=1)
    assert promoted(first).passed
    again = train(place, data / "good", model_name="renamed", seed=1, dataset_name="charts")
    check = promoted(again)
    assert check.passed
    assert f"this run has dataset 'charts' instead of '{data / 'good'}'" in (check.description or "")
    assert (
        place.client()
        .get_model_version("renamed", "1")
        .tags["promotion"]
        .startswith("became champion: first")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_name": "charts"}, "model_name = 'charts': the run has no source"),
        ({"base_model_name": "charts/1"}, "base_model_name = 'charts/1': the run has no source"),
        ({"dataset_name": "mine"}, "dataset_name = 'mine': the run has no source"),
        ({"dataset_name": "sample"}, "dataset_name = 'sample': Value error, this name is reserved"),
        (
            {"source": {"location": "/data"}, "dataset_name": "https://u:pw@host/charts?sig=x"},
            "a name is stored in many places, and this URL has a user, password or query; leave them out",
        ),
        (
            {"source": {"location": "/data"}, "dataset_name": "a\nb"},
            "use printable characters on one line, no blank at either end",
        ),
        (
            {"source": {"location": "/data"}, "model_name": "x-sample"},
            "model_name = 'x-sample': names that end in -sample are for the embedded sample",
        ),
        (
            {"source": {"location": "/data"}, "base_model_name": "x-sample/2"},
            "base_model_name = 'x-sample/2': names that end in -sample are for the embedded sample",
        ),
    ],
)
def test_run_that_mixes_sample_and_real_data_does_not_start(
    place: Deployment, settings: dict[str, Any], message: str
) -> None:
    before = place.instance.get_runs_count()
    with pytest.raises(dg.DagsterError) as refused:
        place.run(project=Charts(), **settings)
    assert message in f"{refused.value}\n{refused.value.__cause__}"
    assert place.instance.get_runs_count() == before


def test_sample_can_have_another_name_of_samples(place: Deployment) -> None:
    result = train(place, None, model_name="trial-sample", seed=7)
    assert result.success, failures(result)
    assert place.aliases("trial-sample")["champion"] == "1"
