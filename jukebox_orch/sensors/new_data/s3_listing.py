"""Lists many S3 objects in little time: the key range in pieces that are asked for at once, answers parsed quickly."""

import html
import re
from collections.abc import Collection, Iterable
from datetime import datetime
from itertools import pairwise
from typing import Any

Range = tuple[str, str | None]
"""Paths after the first and up to the second; None: to the end."""

KNOWN_IN_PIECE = 900
"""Known files in a piece: an answer holds 1,000 keys, so there is room for markers and other keys."""
_PARSED_EVENT = "before-parse.s3.ListObjectsV2"


def pieces(known: Collection[str], sweep: str) -> list[Range]:
    """Cut the paths after `sweep` into ranges of about one answer each; the one after the last known path is first."""
    paths = sorted(known)
    cuts = [path for path in (*paths[KNOWN_IN_PIECE - 1 :: KNOWN_IN_PIECE], *paths[-1:]) if path > sweep]
    bounds = [sweep, *dict.fromkeys(cuts)]
    return [(bounds[-1], None), *pairwise(bounds)]


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Return the same paths in as few ranges as possible, in order."""
    covered: list[Range] = []
    for after, upto in sorted(ranges, key=lambda bounds: bounds[0]):
        if covered and covered[-1][1] == after:
            covered[-1] = (covered[-1][0], upto)
        elif upto != after:
            covered.append((after, upto))
    return covered


def parse_quickly(client: Any) -> None:
    """Let a botocore client parse listings by `take_objects` first: its own parser needs ten times longer."""
    client.meta.events.register(_PARSED_EVENT, take_objects, unique_id=_PARSED_EVENT)


def take_objects(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **more: object
) -> None:
    """Move a listing's objects from the answer's body to the parsed answer, with the fields that we use.

    An answer in another form than S3's usual one is left as it is, to botocore.
    """
    body: bytes = response_dict["body"]
    if response_dict["status_code"] != 200 or b"<CommonPrefixes" in body:
        return
    head, _, rest = body.partition(b"<Contents>")
    inside, _, tail = rest.rpartition(b"</Contents>")
    try:
        objects = _objects(inside.decode())
    except ValueError:
        return
    if objects and len(objects) == body.count(b"<Contents"):
        customized_response_dict["Contents"] = objects
        response_dict["body"] = head + tail


def _objects(text: str) -> list[dict[str, Any]]:
    fields = ("Key", "LastModified", "ETag", "Size")
    columns = [re.findall(rf"<{field}>([^<]*)</{field}>", text) for field in fields]
    return [
        {
            "Key": html.unescape(key),
            "LastModified": datetime.fromisoformat(modified),
            "ETag": html.unescape(etag),
            "Size": int(size),
        }
        for key, modified, etag, size in zip(*columns, strict=True)
    ]
