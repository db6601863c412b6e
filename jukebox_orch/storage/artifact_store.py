"""The artifact store: an IO manager for all asset values, on any fsspec file system.

`<root>/<asset key>/<run id>/` is written under a temporary name, renamed, and never changed. The current artifact is
defined by the materialization in the event log, not by the folders: it records path and sha256. Files with another
sha256 are not read.
"""

import tempfile
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field, PrivateAttr

from jukebox_orch.storage.publishing import combined_digest, file_digest, is_local, publish

if TYPE_CHECKING:
    from upath import UPath

_HISTORY = 50


class ArtifactError(RuntimeError):
    """An artifact is missing or differs from its materialization."""


@dataclass(frozen=True)
class ReusedValue:
    """A value that is already in the store, with the metadata of its materialization."""

    value: Any
    metadata: Mapping[str, Any]


class ArtifactStore(dg.ConfigurableIOManager):
    """Stores asset values by type (see `jukebox_orch.ml.artifact_formats`) and verifies the sha256 on every load."""

    root: str = Field(
        description="Folder or fsspec URL of all artifacts, for example /data/artifacts or s3://b/a"
    )
    _scratch: tempfile.TemporaryDirectory[str] | None = PrivateAttr(default=None)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish a value and record its path and digest. A `ReusedValue` is recorded again, but not written again."""
        if isinstance(obj, ReusedValue):
            context.add_output_metadata(dict(obj.metadata))
            return
        from upath import UPath

        from jukebox_orch.ml.artifact_formats import format_of

        started = time.perf_counter()
        value_format = format_of(obj)
        target = UPath(self.root).joinpath(*context.asset_key.path, context.run_id)
        # A retried step may find the artifact of its first attempt, which must not be changed.
        attempt = 1
        while target.exists():
            attempt += 1
            target = target.with_name(f"{context.run_id}.{attempt}")
        files = publish(lambda folder: value_format.write(obj, folder), target, UPath(self.root))
        context.add_output_metadata(
            {
                "path": dg.MetadataValue.path(str(target)),
                "sha256": combined_digest({name: f.sha256 for name, f in files.items()}),
                "bytes": sum(f.bytes for f in files.values()),
                "rows": value_format.rows(obj) or dg.MetadataValue.null(),
                "format": value_format.name,
                "files": dg.MetadataValue.json({name: vars(f) for name, f in files.items()}),
                "write_seconds": round(time.perf_counter() - started, 3),
            }
        )

    def load_input(self, context: dg.InputContext) -> Any:
        """Read the upstream value of the same run (or of the run it re-executes), otherwise the latest value.

        Raises:
            ArtifactError: the asset was never materialized, files are missing, or the sha256 differs.
        """
        upstream = context.upstream_output
        materialization = _materialization(
            context.instance, context.asset_key, run_id=upstream.run_id if upstream else None
        )
        return self.read(materialization.metadata, context.asset_key)

    def find_reusable(
        self, instance: dg.DagsterInstance, asset_key: dg.AssetKey, fingerprint: str
    ) -> ReusedValue | None:
        """Return the newest value of this asset with the same inputs, code and configuration, or None.

        Searches the newest materializations for this `fingerprint`; skips those whose files are missing or
        changed.
        """
        for record in instance.fetch_materializations(asset_key, limit=_HISTORY).records:
            materialization = record.asset_materialization
            metadata = materialization.metadata if materialization else {}
            if "fingerprint" in metadata and metadata["fingerprint"].value == fingerprint:
                try:
                    value = self.read(metadata, asset_key)
                except ArtifactError as error:
                    dg.get_dagster_logger().warning(
                        f"cannot reuse the result of run {record.run_id}: {error}"
                    )
                    continue
                kept = ("path", "sha256", "bytes", "rows", "format", "files")
                return ReusedValue(
                    value,
                    {k: metadata[k] for k in kept if k in metadata} | {"reused_from_run": record.run_id},
                )
        return None

    def read(self, metadata: Mapping[str, dg.MetadataValue], asset_key: dg.AssetKey) -> Any:
        """Verify and read the value that materialization metadata points to.

        Raises:
            ArtifactError: files are missing, or the sha256 differs from the recorded one.
        """
        from upath import UPath

        from jukebox_orch.ml.artifact_formats import FORMATS, FormatError

        try:
            path, sha256 = str(metadata["path"].value), str(metadata["sha256"].value)
            value_format = FORMATS[str(metadata["format"].value)]
        except KeyError as missing:
            raise ArtifactError(
                f"{asset_key.to_user_string()}: the materialization has no {missing}: not written by this store"
            ) from None
        folder = self._local(UPath(path), asset_key)
        found = {file.name: file_digest(file) if file.is_file() else "" for file in sorted(folder.iterdir())}
        if combined_digest(found) != sha256:
            raise ArtifactError(
                f"{asset_key.to_user_string()}: {path} has sha256 {combined_digest(found)}, its materialization "
                f"recorded {sha256}: the files were changed; refused. Materialize the asset again."
            )
        try:
            return value_format.read(folder, found)
        except FormatError as error:
            raise ArtifactError(
                f"{asset_key.to_user_string()}: {path} was written by another version ({error}): "
                "materialize the asset again"
            ) from error

    def _local(self, path: "UPath", asset_key: dg.AssetKey) -> Path:
        """Return the folder if it is local, otherwise a local copy that is deleted when the process ends."""
        if not path.is_dir():
            raise ArtifactError(
                f"{asset_key.to_user_string()}: {path} is missing; materialize the asset again"
            )
        if is_local(path):
            return Path(path.path)
        if self._scratch is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="artifacts-")
        copy = Path(self._scratch.name) / uuid.uuid4().hex
        copy.mkdir()
        for file in path.iterdir():
            path.fs.get_file(file.path, str(copy / file.name))
        return copy


def _materialization(
    instance: dg.DagsterInstance, asset_key: dg.AssetKey, run_id: str | None
) -> dg.AssetMaterialization:
    """Return the asset's materialization by this run, otherwise the latest.

    Raises:
        ArtifactError: the asset was never materialized.
    """
    latest, cursor = None, None
    while True:
        page = instance.fetch_materializations(asset_key, limit=_HISTORY, cursor=cursor)
        for record in page.records:
            latest = latest or record.asset_materialization
            if record.run_id == run_id and record.asset_materialization:
                return record.asset_materialization
        # Read older pages only if this instance has the run: the upstream of a new run is on the first page.
        if not page.has_more or run_id is None or not instance.has_run(run_id):
            break
        cursor = page.cursor
    if latest is None:
        raise ArtifactError(f"{asset_key.to_user_string()} was never materialized: materialize it first")
    return latest
