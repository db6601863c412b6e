"""Triggers in the projects file: accepted settings, and the messages for refused ones."""

import json

import pytest

from jukebox_orch import deployment
from jukebox_orch.assets import build_training_graph
from jukebox_orch.contract import InputError
from jukebox_orch.project_settings import ProjectSettings, load_project_settings
from jukebox_orch.projects.jukebox import Jukebox
from jukebox_orch.sensors import Triggers
from jukebox_orch_tests.sensors.test_alertmanager import BAD_MATCHERS, MATCHERS, QUOTED_NAMES

GOOD = """
jukebox:
  source: {location: s3://bucket/charts}
  triggers:
    new_data:
      location: s3://landing/jukebox
      patterns: ["*.parquet"]
      complete_when: success_marker
    git_tags:
      repository: git@github.com:acme/models.git
      pattern: jukebox/v*
    model_alerts:
      url: http://alertmanager:9093/
      matchers: ['model="jukebox"', 'severity=~"warning|critical"']
    schedule: {cron: "0 3 * * *", timezone: Europe/Berlin}
"""


def refusal(tmp_path, text: str, **arguments) -> str:
    path = tmp_path / "projects.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="projects file") as error:
        load_project_settings(path, **arguments)
    assert str(path) in str(error.value)
    return str(error.value)


def test_complete_file_is_read(tmp_path):
    path = tmp_path / "projects.yaml"
    path.write_text(GOOD)
    settings = load_project_settings(path, projects=["jukebox"])["jukebox"]
    assert settings.defaults() == {"source": {"location": "s3://bucket/charts"}}
    triggers = settings.checked_triggers(Jukebox(), "jukebox")
    assert triggers.new_data
    assert triggers.new_data.patterns == ["*.parquet"]
    assert triggers.model_alerts
    assert triggers.model_alerts.url == "http://alertmanager:9093"


def test_empty_file_configures_nothing(tmp_path):
    path = tmp_path / "projects.yaml"
    path.write_text("# nothing yet\n")
    assert load_project_settings(path) == {}


def test_error_names_fields_and_values(tmp_path):
    text = GOOD.replace("complete_when: success_marker", "complete_when: sometimes")
    text = text.replace("pattern: jukebox/v*", "patern: v*")
    message = refusal(tmp_path, text)
    assert "jukebox.triggers.new_data.complete_when: Input should be 'quiet'" in message
    assert "got 'sometimes'" in message
    assert "jukebox.triggers.git_tags.patern: Extra inputs are not permitted (got 'v*')" in message


def test_unknown_project_error_lists_installed_projects(tmp_path):
    assert "jukebox: no such project; installed: digits" in refusal(tmp_path, GOOD, projects=["digits"])


@pytest.mark.parametrize("text", ["- a\n", "a: [", "jukebox: 3\n"])
def test_file_with_invalid_structure_is_refused(tmp_path, text):
    refusal(tmp_path, text)


def test_key_that_occurs_twice_is_refused(tmp_path):
    assert "source occurs more than once: keep one" in refusal(
        tmp_path, GOOD + "  source: {location: /other}\n"
    )


def test_bad_default_names_projects_file(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("JUKEBOX_ORCH_PROJECTS", "/etc/projects.yaml")
    with (
        pytest.raises(InputError, match=r"projects file /etc/projects.yaml: jukebox: defaults of gates"),
        deployment.naming_projects_file(),
    ):
        build_training_graph(Jukebox(), defaults={"gates": {"metric_flor": 1}})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.yaml: cannot be read \(No such file"):
        load_project_settings(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "repository",
    [
        "ext::sh -c id",
        "ext::sh",
        "--upload-pack=/bin/sh",
        "-x;$(id)",
        "ftp://host/r.git",
        "/absolute/path",
        "relative/path",
        "https://user:secret@host/r.git",
        "https://token@host/r.git",
        "ssh://-oProxyCommand=id/r.git",
        "ssh://host/r.git\nx",
        "fd::17",
        "",
    ],
)
def test_hostile_repository_is_refused_without_its_password(tmp_path, repository):
    message = refusal(
        tmp_path, f"jukebox: {{triggers: {{git_tags: {{repository: {json.dumps(repository)}}}}}}}"
    )
    assert "jukebox.triggers.git_tags.repository" in message
    assert "secret" not in message
    assert "token@" not in message


@pytest.mark.parametrize(
    "repository",
    [
        "https://host/r.git",
        "ssh://git@host:22/r.git",
        "git@host:acme/r.git",
        "file:///srv/r.git",
        "http://host/r",
    ],
)
def test_ordinary_repository_is_accepted(repository):
    assert Triggers.model_validate({"git_tags": {"repository": repository}}).git_tags


@pytest.mark.parametrize(
    "location",
    [
        "relative/folder",
        "https://user:secret@host/f.csv",
        "https://host/f.csv?sig=secret",
        "simplecache::s3://b/k",
    ],
)
def test_location_with_ambiguity_or_credentials_is_refused(tmp_path, location):
    message = refusal(tmp_path, f"jukebox: {{triggers: {{new_data: {{location: {location!r}}}}}}}")
    assert "jukebox.triggers.new_data.location" in message
    assert "secret" not in message.replace("is a secret", "")


def with_matcher(matcher: str) -> Triggers:
    return Triggers.model_validate({"model_alerts": {"url": "http://a:9093", "matchers": [matcher]}})


@pytest.mark.parametrize("matcher", BAD_MATCHERS)
def test_invalid_matcher_is_refused(matcher):
    with pytest.raises(ValueError, match="must look like"):
        with_matcher(matcher)


@pytest.mark.parametrize("matcher", [*MATCHERS, *QUOTED_NAMES])
def test_matcher_of_alertmanager_is_accepted(matcher):
    assert with_matcher(matcher).model_alerts


def test_alerts_without_matcher_are_refused():
    with pytest.raises(ValueError, match="at least 1 item"):
        Triggers.model_validate({"model_alerts": {"url": "http://a:9093", "matchers": []}})


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ('{cron: "61 3 * * *"}', "cron = '61 3 * * *': use five fields in their ranges"),
        ('{cron: "every night"}', "cron = 'every night': use five fields in their ranges"),
        ('{cron: "0 3 * * *", timezone: Mars/Base}', "timezone = 'Mars/Base': use a name of the tz database"),
        ("{timezone: UTC}", "Field required"),
    ],
)
def test_invalid_schedule_is_refused(tmp_path, schedule, message):
    text = refusal(tmp_path, f"jukebox: {{triggers: {{schedule: {schedule}}}}}")
    assert "jukebox.triggers.schedule" in text
    assert message in text


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("git_tags", {"repository": "https://host/r.git"}),
        ("model_alerts", {"url": "http://a:9093", "matchers": ['model="a"']}),
        ("schedule", {"cron": "@daily"}),
    ],
)
def test_trigger_without_source_for_its_runs_is_refused(kind, settings):
    configured = ProjectSettings(triggers={kind: settings})
    with pytest.raises(InputError, match=rf"jukebox: triggers.{kind}: their runs have no source"):
        configured.checked_triggers(Jukebox(), "jukebox")
    with_source = ProjectSettings(source={"location": "/data"}, triggers={kind: settings})
    assert getattr(with_source.checked_triggers(Jukebox(), "jukebox"), kind)


def test_new_data_brings_its_own_source():
    configured = ProjectSettings(triggers={"new_data": {"location": "/data/landing"}})
    assert configured.checked_triggers(Jukebox(), "jukebox").new_data
