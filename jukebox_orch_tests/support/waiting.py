"""Free ports and waiting with a limit, for everything in the tests that starts something."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")


def free_port() -> int:
    """A port of the loopback address that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(
    condition: Callable[[], T | None], seconds: float, what: str | Callable[[], str], every: float = 0.1
) -> T:
    """The first true value of `condition`.

    Args:
        what: what is waited for, as "the server to be ready", or a function that tells more when time is over.

    Raises:
        AssertionError: it was not true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what if isinstance(what, str) else what()}")
        time.sleep(every)


def listens(port: int) -> bool:
    """Whether a process takes connections on a port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Whether a server answers the URL, with anything but an error of its own."""
    try:
        return httpx.get(url, timeout=2).status_code < 500
    except httpx.TransportError:
        return False
