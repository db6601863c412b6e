"""Which code this deployment runs."""

import subprocess
from pathlib import Path

import dagster as dg
from pydantic import Field


class Code(dg.ConfigurableResource):
    """Commit and version of the deployed code: baked in at build time, or read from its checkout."""

    git_commit: str = Field(
        default="", description="Commit the deployment was built from; empty: that of the checkout"
    )
    version: str = Field(
        default="", description="Version the deployment was built from; empty: that of the checkout"
    )

    def commit(self) -> str | None:
        """The commit, or None where it is not known."""
        return self.git_commit or _git("rev-parse", "HEAD")

    def tag(self) -> str | None:
        """The version, from the newest tag on the commit in a checkout; None where it is not known."""
        return self.version or _git("describe", "--tags", "--exact-match", "HEAD")


def _git(*arguments: str) -> str | None:
    """Ask git about the checkout this package lies in; None when it lies in none."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None if answer.returncode == 0 else None
