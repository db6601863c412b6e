"""The project passes the contract suite."""

from acme_demand import AcmeDemand

from jukebox_orch.testing.suite import ProjectContract


class TestAcmeDemand(ProjectContract):
    """Runs all tests of the suite."""

    project_class = AcmeDemand
