"""Lists the tags of a git repository with `git ls-remote`, which supports every transport of git."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

from jukebox_orch.sensors.settings import checked_repository
from jukebox_orch.sensors.trigger_types import SourceUnavailableError

SECONDS = 15.0
"""Well below the 60 s that Dagster allows for a tick."""
MAX_BYTES = 64 * 1024**2
_LINE = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\trefs/tags/(.+?)(\^\{\})?")


def list_tags(
    repository: str,
    credentials_file: Path | None = None,
    ssh_key_file: Path | None = None,
    known_hosts_file: Path | None = None,
    seconds: float = SECONDS,
) -> dict[str, str]:
    """Return tag name -> commit; annotated tags give the commit they point to.

    git never prompts on a terminal, no name is passed to a shell, and only the URL's own transport is allowed.

    Raises:
        SourceUnavailableError: `checked_repository` does not accept the URL, or the server does not answer within
            `seconds`, refuses, or returns something other than a list of tags.
    """
    try:
        checked_repository(repository)
    except ValueError as error:
        raise SourceUnavailableError(f"repository {repository!r} {error}") from None
    command = ["git", *_options(credentials_file), "ls-remote", "--tags", "--", repository]
    output = _run(command, _environment(repository, ssh_key_file, known_hosts_file), repository, seconds)
    tags: dict[str, str] = {}
    peeled: dict[str, str] = {}
    # Not str.splitlines, which also splits at U+0085 and U+2028: a name may contain them.
    for line in output.decode(errors="surrogateescape").removesuffix("\n").split("\n") if output else ():
        if not (found := _LINE.fullmatch(line)):
            raise SourceUnavailableError(
                f"{repository}: git returned a line that is not a tag: {line[:100]!r}"
            )
        (peeled if found[3] else tags)[found[2]] = found[1]
    return tags | peeled


def _run(command: list[str], environment: dict[str, str], repository: str, seconds: float) -> bytes:
    """Run git in its own process group, so that its transport helper is stopped with it."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603 - an argument list, `--` before the checked URL
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                cwd="/",
                start_new_session=True,
            )
        except FileNotFoundError:
            raise SourceUnavailableError("the program `git` is not installed: install it") from None
        timed_out = threading.Event()

        def stop() -> None:
            timed_out.set()
            _kill_group(process)

        timer = threading.Timer(seconds, stop)
        timer.start()
        try:
            assert process.stdout is not None  # noqa: S101 - PIPE was asked for
            output = process.stdout.read(MAX_BYTES + 1)
            if len(output) > MAX_BYTES:
                _kill_group(process)
            process.stdout.close()
            process.wait()
        finally:
            timer.cancel()
        if len(output) > MAX_BYTES:
            raise SourceUnavailableError(f"{repository} sent more than {MAX_BYTES:,} bytes of tags")
        if timed_out.is_set():
            raise SourceUnavailableError(f"{repository} did not answer within {seconds:.0f} s")
        if process.returncode:
            errors.seek(0)
            raise SourceUnavailableError(
                f"{repository}: `git ls-remote` failed: {_error_text(errors.read(8_192))}"
            )
        return output


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
        os.killpg(process.pid, signal.SIGKILL)


def _options(credentials_file: Path | None) -> list[str]:
    """Return the options that make the mounted file, read-only for git, the only source of credentials."""
    options = ["-c", "credential.helper=", "-c", "core.askPass=", "-c", "protocol.version=2"]
    if credentials_file:
        # git passes this line to a shell, hence the quoting.
        options += ["-c", f"credential.helper=store --file={shlex.quote(str(credentials_file))}"]
    return options


def _environment(repository: str, ssh_key_file: Path | None, known_hosts_file: Path | None) -> dict[str, str]:
    """Return the environment of git: what git and ssh need, without other variables that control git.

    They need PATH, HOME, proxies, an ssh agent, CA files, and settings such as an authorization header in GIT_CONFIG_*.
    """
    scheme = urlsplit(repository).scheme if "://" in repository else "ssh"
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("GIT_") or name.startswith(("GIT_CONFIG_", "GIT_SSL_"))
    }
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10"]
    if ssh_key_file:
        ssh += ["-o", "IdentitiesOnly=yes", "-i", str(ssh_key_file)]
    if known_hosts_file:
        ssh += ["-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={known_hosts_file}"]
    return {
        **inherited,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "",
        "SSH_ASKPASS": "",
        "GIT_ALLOW_PROTOCOL": scheme,
        "GIT_SSH_COMMAND": shlex.join(ssh),
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C",
    }


def _error_text(errors: bytes) -> str:
    """Return the end of git's error output in one line, without a password that a server may have echoed."""
    text = " ".join(errors.decode(errors="replace").split())
    return re.sub(r"//[^/@\s]*@", "//***@", text)[-300:] or "no error output"
