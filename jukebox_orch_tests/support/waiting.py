"""Free ports, and waiting with a time limit for servers that tests start."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

import httpx

T = TypeVar("T")


def free_port() -> int:
    """Return a free port of the loopback address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(
    condition: Callable[[], T | None], seconds: float, what: str | Callable[[], str], every: float = 0.1
) -> T:
    """Wait for a true value of `condition` and return it.

    Args:
        what: what is waited for, as "the server to be ready", or a function that returns it when the time is over.

    Raises:
        AssertionError: `condition` was not true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s for {what if isinstance(what, str) else what()}")
        time.sleep(every)


def listens(port: int) -> bool:
    """Return whether a process accepts connections on a port of the loopback address."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def answers(url: str) -> bool:
    """Return whether a server answers the URL without a server error."""
    try:
        return httpx.get(url, timeout=2).status_code < 500
    except httpx.TransportError:
        return False
