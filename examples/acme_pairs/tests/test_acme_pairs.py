"""The project passes the contract suite."""

from acme_pairs import AcmePairs

from jukebox_orch.testing.suite import ProjectContract


class TestAcmePairs(ProjectContract):
    """Runs all tests of the suite."""

    project_class = AcmePairs
