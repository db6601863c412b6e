"""The record of a task: materializations and check evaluations of its assets, as JSON beside their values.

A step writes one record. Downstream steps report its materializations to their own instance, and `kfp-bridge sync`
reports them to the instance of the platform. Events are stored completely, in the JSON form of
`dagster.serialize_value`, so that every metadata type, tag and data version is preserved.

    {"version": 1, "assets": [{"asset": "a/b", "sha256": "…", "stored": null, "event": {…}}], "checks": [{…}]}
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from kfp_bridge.errors import BridgeError

VERSION = 1
DATA_VERSION_TAG = "dagster/data_version"
_POINTER_TAG = "dagster/input_event_pointer/"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class AssetRecord:
    """One materialization.

    `sha256` is `digest` of its value, None without a value; `stored` is the value's path relative to the
    instance's storage folder if the IO manager wrote it there.
    """

    asset: str
    sha256: str | None
    event: dg.AssetMaterialization
    stored: str | None = None

    @property
    def path(self) -> str | None:
        """Where the asset's IO manager wrote the value: a local path or an fsspec URL."""
        entry = self.event.metadata.get("path")
        return None if entry is None else str(entry.value)

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form; see the module's docstring."""
        event = json.loads(dg.serialize_value(self.event))
        return {"asset": self.asset, "sha256": self.sha256, "stored": self.stored, "event": event}


@dataclass(frozen=True)
class TaskRecord:
    """All materializations and check evaluations of one task."""

    assets: tuple[AssetRecord, ...]
    checks: tuple[dg.AssetCheckEvaluation, ...]

    def write(self, path: Path) -> None:
        """Write the record as JSON, creating folders."""
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "version": VERSION,
            "assets": [asset.to_json() for asset in self.assets],
            "checks": [json.loads(dg.serialize_value(check)) for check in self.checks],
        }
        path.write_text(json.dumps(content, indent=1, sort_keys=True), encoding="utf-8")

    def of(self, asset: str) -> AssetRecord | None:
        """Return the record of one asset, or None."""
        return next((record for record in self.assets if record.asset == asset), None)

    def failed_gate(self) -> str | None:
        """Return the first failed blocking check with its message, on one line; None if there is none."""
        for check in self.checks:
            if not check.passed and check.blocking and check.severity is dg.AssetCheckSeverity.ERROR:
                message = check.description or ", ".join(
                    f"{k}={v.value}" for k, v in sorted(check.metadata.items())
                )
                name = f"{check.asset_key.to_user_string()}:{check.check_name}"
                return " ".join(f"blocking asset check {name} failed: {message}".split())
        return None


def parse_record(text: str, place: str) -> TaskRecord:
    """Read a record back.

    Raises:
        BridgeError: not a record of this version.
    """
    try:
        content = json.loads(text)
        if content["version"] != VERSION:
            raise BridgeError(
                f"{place}: record version {content['version']!r}, this bridge reads {VERSION}; run the step again"
            )
        assets = tuple(parse_asset_record(item, place) for item in content["assets"])
        checks = tuple(_event(check, dg.AssetCheckEvaluation) for check in content["checks"])
    except (ValueError, TypeError, KeyError, dg.DagsterError) as error:
        raise BridgeError(f"{place}: is not a record of a step: {type(error).__name__}: {error}") from error
    return TaskRecord(assets, checks)


def parse_asset_record(item: Mapping[str, Any], place: str) -> AssetRecord:
    """Read the record of one asset back (the form that importers carry)."""
    try:
        event = _event(item["event"], dg.AssetMaterialization)
        return AssetRecord(item["asset"], item["sha256"], event, item["stored"])
    except (KeyError, TypeError, ValueError) as error:
        raise BridgeError(
            f"{place}: is not the record of an asset: {type(error).__name__}: {error}"
        ) from error


def relocated(event: dg.AssetMaterialization, path: str) -> dg.AssetMaterialization:
    """Return the materialization with another `path`; everything else is unchanged."""
    match event.metadata["path"]:  # keep its type: the IO manager may read an attribute of that type
        case dg.PathMetadataValue():
            entry: dg.MetadataValue = dg.MetadataValue.path(path)
        case dg.UrlMetadataValue():
            entry = dg.MetadataValue.url(path)
        case _:
            entry = dg.MetadataValue.text(path)
    return event.with_metadata({**event.metadata, "path": entry})


def without_pointers(event: dg.AssetMaterialization) -> dg.AssetMaterialization:
    """Return the materialization without event ids that are valid in its own instance only; data versions stay."""
    tags = {name: value for name, value in (event.tags or {}).items() if not name.startswith(_POINTER_TAG)}
    return dg.AssetMaterialization(
        asset_key=event.asset_key,
        description=event.description,
        metadata=event.metadata,
        partition=event.partition,
        tags=tags,
    )


def stored_path(path: str | None, storage: str) -> str | None:
    """Return the path relative to an instance's storage folder, or None if it is outside of it."""
    if path is None or "://" in path or not Path(path).is_relative_to(storage):
        return None
    return Path(path).relative_to(storage).as_posix()


def digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of the sorted list of a folder's files with their digests."""
    if path.is_file():
        return _file_digest(path)
    listing = hashlib.sha256()
    for file in _files(path):
        listing.update(f"{file.relative_to(path).as_posix()}\0{_file_digest(file)}\n".encode())
    return listing.hexdigest()


def _files(folder: Path) -> Iterable[Path]:
    return sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: file.as_posix())


def _file_digest(path: Path) -> str:
    sha256 = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha256.update(chunk)
    return sha256.hexdigest()


def _event(content: Mapping[str, Any], kind: type) -> Any:
    event = dg.deserialize_value(json.dumps(content), kind)
    if not isinstance(event, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(event).__name__}")
    return event
