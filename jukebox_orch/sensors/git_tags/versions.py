"""Orders the versions of git tags as Semantic Versioning does (https://semver.org/#spec-item-11)."""

import re
from dataclasses import dataclass

MAX_LENGTH = 63

# A number in a pre-release has no leading zero, as in the specification. Releases may have one and may have fewer
# or more than three numbers, because tags such as v1.2 and v2024.01.31 are common.
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(
    r"(?P<release>[0-9]+(?:\.[0-9]+)*)"
    rf"(?:-(?P<prerelease>{_IDENTIFIER}(?:\.{_IDENTIFIER})*))?"
    r"(?:\+(?P<build>[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
)

Precedence = tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]


@dataclass(frozen=True)
class Version:
    """One version. `precedence` orders versions; `build` has no part in the order, but distinguishes versions."""

    precedence: Precedence
    build: str


def parse_version(text: str) -> Version | None:
    """Return the version without a leading `v`; None if the text does not have the form of one."""
    found = _VERSION.fullmatch(text)
    if not found or len(text) > MAX_LENGTH:
        return None
    release = [int(number) for number in found["release"].split(".")]
    while release and release[-1] == 0:  # 1.2 and 1.2.0 are the same release
        release.pop()
    identifiers = found["prerelease"].split(".") if found["prerelease"] else []
    # Of the same release, the version without a pre-release is the highest. Numbers are compared as numbers and are
    # lower than words; if all identifiers are equal, more of them are higher, as in the comparison of tuples.
    prerelease = tuple(
        (False, int(identifier), "") if identifier.isdigit() else (True, 0, identifier)
        for identifier in identifiers
    )
    return Version((tuple(release), not prerelease, prerelease), found["build"] or "")
