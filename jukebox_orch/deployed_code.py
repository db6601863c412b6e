"""The code that a deployment runs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DeployedCode:
    """Commit and version that the deployed code was built from; None if unknown."""

    commit: str | None
    version: str | None
