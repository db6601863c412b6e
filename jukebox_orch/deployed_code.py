"""The code that a deployment runs."""

from dataclasses import dataclass

DIRTY = "-dirty"
"""Suffix of a commit whose checkout has uncommitted changes, as `git describe --dirty` writes it."""


@dataclass(frozen=True)
class DeployedCode:
    """Commit and version that the deployed code was built from; None if unknown.

    `commit` ends in `-dirty` if the code has changes that are not in the commit.
    """

    commit: str | None
    version: str | None

    @property
    def is_dirty(self) -> bool:
        """Whether the code differs from its commit."""
        return (self.commit or "").endswith(DIRTY)
