"""Rehearses `make kfp-test` on an emulation of KFP, and checks that it detects faults."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from jukebox_orch_tests.bridge.kfp import acceptance
from jukebox_orch_tests.bridge.kfp.emulation import Cluster, Emulation, fingerprint, served_metadata
from jukebox_orch_tests.bridge.kfp.metadata import Metadata
from jukebox_orch_tests.bridge.kfp.server import running_kfp_server
from jukebox_orch_tests.bridge.kfp.site import Site
from jukebox_orch_tests.bridge.kfp.timing import time_split
from kfp_bridge.pipeline_spec import read_pipeline_spec
from kfp_bridge.service.client import KfpHost

GREETING = "jukebox_orch_tests.bridge.kfp.greeting"


@dataclass(frozen=True)
class Rehearsal:
    """The emulation with one exported graph; `recoded` is the graph with another code version."""

    site: Site
    emulation: Emulation
    cluster: Cluster
    path: Path
    recoded: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("exported")
    exporter = Site(None, None, None, "kubeflow", "", "image:1")  # type: ignore[arg-type]
    first = exporter.exported(folder, GREETING, "greeting", "greeting")
    return first, exporter.exported(folder, GREETING, "greeting", "greeting_recoded")


@pytest.fixture
def rehearsal(exported: tuple[Path, Path], tmp_path: Path) -> Iterator[Rehearsal]:
    cluster, store, work = Cluster(), tmp_path / "store", tmp_path / "work"
    work.mkdir()
    with running_kfp_server() as server:
        emulation = Emulation(server, cluster, store, work)
        with served_metadata(emulation) as address:
            site = Site(
                KfpHost(server.url), cluster, Metadata(address), "kubeflow", str(store), "image:1", poll=0.2
            )
            site.put_secret(site.greeting)
            yield Rehearsal(site, emulation, cluster, *exported)


@pytest.mark.slow
def test_foreign_graph_passes_parts_without_killed_process(rehearsal: Rehearsal):
    site, path = rehearsal.site, rehearsal.path
    assert acceptance.check_upload_twice(site, path).startswith("greeting-")
    assert "4 tasks" in acceptance.check_foreign_run(site, path)
    lines = time_split(site, path, "foreign", {"seed": site.nonce}).splitlines()
    split = {task: [float(cell) for cell in cells] for task, *cells in map(str.split, lines[2:8])}
    wall, idle, root = map(float, re.findall(r"(\d+) s", lines[0]))
    assert set(split) == {*read_pipeline_spec(path).tasks, "median", "total"}
    # The phases fill the wall time because the emulation runs one process at a time.
    assert sum(split["total"]) + idle + root == wall > 0
    assert split["total"][2] >= 1
    acceptance.check_foreign_cache(site, path, rehearsal.recoded)
    with pytest.raises(AssertionError, match=r"0 pods of run .* are left, not 1: collected or cached"):
        time_split(site, path, "foreign-again", {"seed": site.nonce})
    assert acceptance.check_failed_gate(site, path).endswith("greeted:polite failed: the greeting is rude")
    assert acceptance.check_recurring_run(site, path) == "1 runs"
    assert acceptance.check_sync(site, [path]).endswith("of 7 runs")


@pytest.mark.slow
def test_cache_ignoring_parameters_is_detected(rehearsal: Rehearsal):
    rehearsal.emulation.fingerprint = lambda spec, task, given: fingerprint(
        spec, task, {"inputs": {"parameterValues": {}, "artifacts": given["inputs"]["artifacts"]}}
    )
    acceptance.check_foreign_run(rehearsal.site, rehearsal.path)
    with pytest.raises(AssertionError, match=r"ran for another setting of drawn: \['doubled', 'greeted'\]"):
        acceptance.check_foreign_cache(rehearsal.site, rehearsal.path, rehearsal.recoded)


def test_pod_or_artifact_differing_from_export_is_detected(rehearsal: Rehearsal):
    site, path = rehearsal.site, rehearsal.path
    run, spec = site.succeeded(path, "one"), read_pipeline_spec(path)
    acceptance.check_tasks(site, spec, run.run_id)
    (pod,) = site.pods_of(run.run_id, "greeted")
    main = pod.spec.containers[0]
    main.resources.limits["memory"] = "1Gi"
    with pytest.raises(AssertionError, match="greeted: resourceMemoryLimit is 1Gi, not 512Mi"):
        acceptance.check_tasks(site, spec, run.run_id)
    main.resources.limits["memory"] = "536870912"
    main.env[0].value_from.secret_key_ref.name = "other"
    with pytest.raises(AssertionError, match="greeted: GREETING comes from"):
        acceptance.check_tasks(site, spec, run.run_id)
    main.env[0].value_from.secret_key_ref.name = "kfp-bridge-test"
    uri = next(uri for uri in rehearsal.emulation.known if uri.endswith("/doubled"))
    rehearsal.emulation.known[uri] = ("system.Artifact", {})
    with pytest.raises(AssertionError, match="doubled: ML Metadata has doubled as"):
        acceptance.check_tasks(site, spec, run.run_id)
    shutil.rmtree(Path(uri).parent)
    with pytest.raises(AssertionError, match=r"tasks without artifacts: \['doubled'\]"):
        acceptance.check_tasks(site, spec, run.run_id)
