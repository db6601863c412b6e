"""The project passes the contract suite."""

from acme_faults import AcmeFaults

from jukebox_orch.testing.suite import ProjectContract


class TestAcmeFaults(ProjectContract):
    """Runs all tests of the suite."""

    project_class = AcmeFaults
