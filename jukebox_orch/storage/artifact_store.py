"""The artifact store: one IO manager for every value, on any fsspec file system.

`<root>/<asset key>/<run id>/` is written once, under a temporary name, and never changed. The
materialization in the event log, not the folder, says which one is current: it records path and sha256, and
nothing is read whose sha256 differs.
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
    """An artifact is missing, or is not what its materialization recorded."""


@dataclass(frozen=True)
class ReusedValue:
    """A value that already lies in the store, with the metadata of the materialization that put it there."""

    value: Any
    metadata: Mapping[str, Any]


class ArtifactStore(dg.ConfigurableIOManager):
    """Stores asset values by type (see `jukebox_orch.ml.formats`), verified by sha256 on every load."""

    root: str = Field(
        description="Folder or fsspec URL of all artifacts, for example /data/artifacts or s3://b/a"
    )
    _scratch: tempfile.TemporaryDirectory[str] | None = PrivateAttr(default=None)

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        """Publish a value and record where it is. A `ReusedValue` value is recorded again, not written again."""
        if isinstance(obj, ReusedValue):
            context.add_output_metadata(dict(obj.metadata))
            return
        from upath import UPath

        from jukebox_orch.ml.formats import format_of

        started = time.perf_counter()
        value_format = format_of(obj)
        target = UPath(self.root).joinpath(*context.asset_key.path, context.run_id)
        # A retried step finds what its first attempt published: that stays as it is.
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
        """Read the upstream value: of the same run (or the run it re-executes), else the latest recorded.

        Raises:
            ArtifactError: never materialized, files missing, or another sha256 than recorded.
        """
        upstream = context.upstream_output
        materialization = _materialization(
            context.instance, context.asset_key, run_id=upstream.run_id if upstream else None
        )
        return self.read(materialization.metadata, context.asset_key)

    def find_reusable(
        self, instance: dg.DagsterInstance, asset_key: dg.AssetKey, fingerprint: str
    ) -> ReusedValue | None:
        """The value this asset had when it was made from the same inputs, code and configuration.

        Looks at the newest materializations with this `fingerprint` in their metadata; one whose files are
        gone or changed is passed over.
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
            ArtifactError: files missing, or another sha256 than recorded.
        """
        from upath import UPath

        from jukebox_orch.ml.formats import FORMATS, FormatError

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
            return value_format.read(folder)
        except FormatError as error:
            raise ArtifactError(
                f"{asset_key.to_user_string()}: {path} was written by another version ({error}): "
                "materialize the asset again"
            ) from error

    def _local(self, path: "UPath", asset_key: dg.AssetKey) -> Path:
        """The folder itself where it is local, else a copy that lives as long as this process."""
        if not path.is_dir():
            raise ArtifactError(f"{asset_key.to_user_string()}: {path} is gone; materialize the asset again")
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
    """The asset's materialization by this run, else the latest.

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
        # Only a run of this instance can be further back: a fresh one's upstream is always on the first page.
        if not page.has_more or run_id is None or not instance.has_run(run_id):
            break
        cursor = page.cursor
    if latest is None:
        raise ArtifactError(f"{asset_key.to_user_string()} was never materialized: materialize it first")
    return latest
