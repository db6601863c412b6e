"""Triggered runs in pods: new files and a pushed tag start one run each, even if the daemon is killed."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jukebox_orch.projects.jukebox.sample import generate
from jukebox_orch_tests import CHECKOUT
from k8s.tests.system import (
    NAMESPACE,
    OVERLAY,
    SEED,
    Cluster,
    Dagster,
    Registry,
    Volumes,
    events_text,
    metadata,
    wait_until,
)

ROUNDS = range(int(os.environ.get("FAULT_ROUNDS", "1")))


def _runs_of_file(dagster: Dagster, content: str) -> list[dict[str, Any]]:
    """Return the runs that the file's content started."""
    digest = hashlib.sha256(content.encode()).hexdigest()[:12]
    return [
        run
        for run in dagster.runs("jukebox/event", "new_data")
        if any(t["key"] == "jukebox/file_digests" and digest in t["value"] for t in run["tags"])
    ]


def _two_ticks_later(dagster: Dagster, sensor: str) -> dict[str, Any]:
    """Wait for two complete ticks that start from now on, and return the newer one."""
    newest = dagster.ticks(sensor, 1)[0]["timestamp"]

    def second() -> dict[str, Any] | None:
        ended = [t for t in dagster.ticks(sensor) if t["timestamp"] > newest and t["status"] != "STARTED"]
        return ended[0] if len(ended) >= 2 else None

    return wait_until(second, 120, f"two more ticks of {sensor}")


def test_unreachable_git_server_leaves_no_zombie_process(cluster: Cluster, dagster: Dagster):
    assert "`git ls-remote` failed" in _two_ticks_later(dagster, "jukebox_git_tags")["skipReason"]
    states = cluster.run(
        "exec", "deployment/jukebox-code-location", "--", "sh", "-c", "cat /proc/[0-9]*/stat"
    )
    assert [line for line in states.stdout.splitlines() if ") Z " in line] == []


def _charts() -> tuple[str, str]:
    """Return songs and rankings as CSV."""
    tables = generate(seed=SEED)
    songs, rankings = (pd.DataFrame(tables[name]).to_csv(index=False) for name in ("songs", "rankings"))
    return songs, rankings


def test_new_files_on_volume_start_one_training_run(
    cluster: Cluster, dagster: Dagster, registry: Registry, volumes: Volumes
):
    songs, rankings = _charts()
    volumes.drop("songs.csv", songs)
    volumes.drop("rankings.csv", rankings)
    wait_until(lambda: _runs_of_file(dagster, rankings), 90, "the daemon's sensor to start a run")
    (started,) = _runs_of_file(dagster, rankings)
    assert [run["runId"] for run in _runs_of_file(dagster, songs)] == [started["runId"]]
    run = dagster.finished(started["runId"])
    assert run["status"] == "SUCCESS", events_text(run)
    assert len(cluster.steps(started["runId"])) == 7
    version = metadata(run, "registered_model")["version"]
    (registered,) = [v for v in registry.versions("jukebox") if v["version"] == version]
    assert {"key": "jukebox/event", "value": "new_data"} in registered["tags"]


# A child of the code location's main process evaluates the sensors.
_SIGNAL = """
for p in /proc/[0-9]*; do
  if tr '\\0' ' ' <$p/cmdline 2>/dev/null | grep -q '[a]pi grpc'; then kill -{} "${{p#/proc/}}"; echo "$p"; fi
done
"""


@pytest.mark.parametrize("round_", ROUNDS)
@pytest.mark.parametrize("moment", ["during the tick", "after the run started"])
def test_killed_daemon_starts_one_run_per_file(
    cluster: Cluster, dagster: Dagster, volumes: Volumes, moment: str, round_: int
):
    def signal(name: str) -> None:
        script = ["sh", "-c", _SIGNAL.format(name)]
        assert cluster.run("exec", "deployment/jukebox-code-location", "--", *script).stdout

    def kill_daemon() -> None:
        cluster.run("delete", "pods", "-l", "app.kubernetes.io/name=daemon", "--grace-period=0", "--force")

    # Not a chart: the run fails at its first step, which is enough for this test.
    content = f"neither,songs,nor,rankings\n{SEED},{moment},{round_},\n"
    name = f"{'tick' if 'tick' in moment else 'started'}-{round_}.csv"
    if moment == "during the tick":
        signal("STOP")
        try:
            volumes.drop(name, content)
            newest = dagster.ticks("jukebox_new_data", 1)[0]["timestamp"]
            wait_until(
                lambda: [
                    t
                    for t in dagster.ticks("jukebox_new_data")
                    if t["status"] == "STARTED" and t["timestamp"] >= newest
                ],
                60,
                "a tick to begin",
                every=0.2,
            )
            kill_daemon()
        finally:
            signal("CONT")
    else:
        volumes.drop(name, content)
        wait_until(lambda: _runs_of_file(dagster, content), 90, "the sensor to start a run", every=0.2)
        kill_daemon()
    cluster.run("rollout", "status", "deployment/jukebox-daemon", "--timeout=120s")
    wait_until(lambda: _runs_of_file(dagster, content), 120, "the sensor to start a run")
    _two_ticks_later(dagster, "jukebox_new_data")
    (started,) = _runs_of_file(dagster, content)
    run = dagster.finished(started["runId"], 240)
    assert run["status"] == "FAILURE"
    assert "neither song properties nor rankings" in events_text(run)
    assert len(cluster.pods(f"dagster/run-id={started['runId']},app.kubernetes.io/component=run_worker")) == 1
    assert len(_runs_of_file(dagster, content)) == 1


GIT_SERVER = r"""
import http.server, os, subprocess
root = "/srv/git"
subprocess.run(["git", "init", "-q", "--bare", f"{root}/models.git"], check=True)
subprocess.run(["git", "-C", f"{root}/models.git", "config", "http.receivepack", "true"], check=True)
backend = subprocess.run(["git", "--exec-path"], capture_output=True, text=True).stdout.strip() + "/git-http-backend"
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path, _, query = self.path.partition("?")
        variables = {"GIT_PROJECT_ROOT": root, "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path, "QUERY_STRING": query,
                     "REQUEST_METHOD": self.command, "CONTENT_TYPE": self.headers.get("content-type", ""),
                     "GIT_PROTOCOL": self.headers.get("git-protocol", "")}
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        answer = subprocess.run([backend], env={**os.environ, **variables}, input=body, capture_output=True).stdout
        head, _, content = answer.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
    do_POST = do_GET
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""


@pytest.fixture
def git_server(cluster: Cluster) -> Iterator[str]:
    """A git server in the cluster, at the sensor's address in the tests' overlay."""
    daemon = cluster.get("deployment", "jukebox-daemon")["spec"]["template"]["spec"]["containers"][0]
    pod = cluster.pod_of_step_image(
        "git-test",
        {
            "image": daemon["image"],  # it has git
            "command": ["python", "-c", GIT_SERVER],
            "volumeMounts": [{"name": "git", "mountPath": "/srv/git"}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        },
        [{"name": "git", "emptyDir": {}}],
    )
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "git-test", "namespace": NAMESPACE},
        "spec": {"selector": {"jukebox/test": "git-test"}, "ports": [{"port": 8080}]},
    }
    cluster.delete("pod", "git-test")
    cluster.apply(pod, service)
    cluster.run("wait", "pod/git-test", "--for=condition=Ready", "--timeout=120s")
    yield f"{cluster.url('pod/git-test', 8080)}/models.git"
    cluster.delete("pod,service", "git-test")


@pytest.fixture
def rolled_to_release(cluster: Cluster, dagster: Dagster, tmp_path: Path) -> Iterator[Any]:
    """Roll out the images of the release, as a GitOps commit does, and roll back at the end."""
    base = os.path.relpath(CHECKOUT / OVERLAY, tmp_path)
    shutil.copy(CHECKOUT / "k8s/overlays/local/images.yaml", tmp_path)
    names = ("orchestrator", "step")
    images = [{"name": f"localhost/jukebox-{name}", "newTag": "release"} for name in names]
    (tmp_path / "kustomization.yaml").write_text(
        json.dumps({"resources": [base], "images": images, "replacements": [{"path": "images.yaml"}]})
    )

    def apply(overlay: str) -> None:
        cluster.run("apply", "-k", overlay)
        cluster.rolled_out()
        wait_until(dagster.loaded, 120, "the webserver to load the code location")

    yield lambda: apply(str(tmp_path))
    apply(OVERLAY)


def test_pushed_tag_trains_after_roll_out_of_its_code(
    cluster: Cluster,
    dagster: Dagster,
    registry: Registry,
    volumes: Volumes,
    git_server: str,
    rolled_to_release,
    tmp_path: Path,
):
    # The deployment's source, in a folder that the new-data sensor does not watch.
    for name, content in zip(("songs.csv", "rankings.csv"), _charts(), strict=True):
        volumes.sh(f"mkdir -p /data/landing/_charts; cat >/data/landing/_charts/{name}", content)
    clone, tag = tmp_path / "clone", f"v2.0.{SEED}"
    _two_ticks_later(dagster, "jukebox_git_tags")
    commit = subprocess.run(
        [str(CHECKOUT / "k8s/tests/images/release-commit"), str(clone)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    push = ["git", "-C", str(clone), "push", "-q", git_server, f"{commit}:refs/tags/{tag}"]
    subprocess.run(push, check=True, capture_output=True)

    wait_until(lambda: _was_skipped_with(dagster, f"{tag} ({commit[:12]})"), 90, "the sensor to see the tag")
    assert "waiting for the roll-out" in _two_ticks_later(dagster, "jukebox_git_tags")["skipReason"]
    assert dagster.runs("git/tag", tag) == []

    rolled_to_release()
    (started,) = wait_until(lambda: dagster.runs("git/tag", tag), 120, "the sensor to start the tag's run")
    run = dagster.finished(started["runId"])
    assert run["status"] == "SUCCESS", events_text(run)
    pods = cluster.pods(f"dagster/run-id={started['runId']}")
    assert {p["spec"]["containers"][0]["image"].split(":")[-1] for p in pods} == {"release"}
    version = metadata(run, "registered_model")["version"]
    (registered,) = [v for v in registry.versions("jukebox") if v["version"] == version]
    tags = {t["key"]: t["value"] for t in registered["tags"]}
    assert tags["git_commit"] == tags["git/commit"] == commit
    assert tags["git/code_matches_tag"] == "yes"
    assert tags["dataset_name"] == tags["source"] == "/data/landing/_charts"
    assert tags["version_label"] == tag.removeprefix("v")
    assert len(dagster.runs("git/tag", tag)) == 1


def _was_skipped_with(dagster: Dagster, reason: str) -> bool:
    return any(reason in (t["skipReason"] or "") for t in dagster.ticks("jukebox_git_tags"))
