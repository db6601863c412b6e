"""Which code a deployment runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DeployedCode:
    """Commit and version that the deployed code was built from; None where that is not known."""

    commit: str | None
    version: str | None
