"""One http(s) file as a location of new data."""

import calendar
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

import httpx

from jukebox_orch.sensors.new_data.decision import Entry, Listing, NewDataState
from jukebox_orch.sensors.trigger_types import SourceUnavailableError

_CHUNK = 1024 * 1024


class HttpFile:
    """One http(s) file, whose version is its ETag or its Last-Modified."""

    def __init__(self, url: str):
        self._url = url
        self.prefix, _, self._name = url.rpartition("/")
        self.prefix += "/"

    def scan(self, state: NewDataState) -> Listing:
        """Request only the file's headers."""
        with self._client() as client:
            response = client.head(self._url)
        response.raise_for_status()
        return Listing([self._entry(response)])

    def entry(self, path: str) -> Entry | None:
        """Return None: an http(s) location has no other files."""
        return None

    def chunks(self, entry: Entry) -> Iterator[bytes]:
        """Read the body."""
        with self._client() as client, client.stream("GET", self._url) as response:
            response.raise_for_status()
            if self._entry(response).token != entry.token:
                raise ValueError("changed during the tick")
            yield from response.iter_bytes(_CHUNK)

    def _client(self) -> httpx.Client:
        # The digest must be of the file, not of a compressed transfer.
        return httpx.Client(
            timeout=httpx.Timeout(10, connect=5),
            follow_redirects=True,
            max_redirects=3,
            headers={"accept-encoding": "identity"},
        )

    def _entry(self, response: httpx.Response) -> Entry:
        version, modified = response.headers.get("etag"), response.headers.get("last-modified")
        if not version and not modified:
            raise SourceUnavailableError(
                f"{self.prefix}{self._name} has neither ETag nor Last-Modified to distinguish versions"
            )
        changed = _seconds(modified) if modified else None
        size = int(response.headers.get("content-length") or -1)  # -1: unknown
        return Entry(self._name, size, version or modified, changed)


def _seconds(http_date: str) -> float:
    return float(calendar.timegm(parsedate_to_datetime(http_date).utctimetuple()))
