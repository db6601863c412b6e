"""Makes what the KFP UI shows of a task: scalar metrics, the confusion matrix, and a report as Markdown and HTML.

Convention for assets: numbers in the materialization's metadata become metrics; a JSON entry `confusion_matrix` of the
form {"labels": […], "matrix": [[…]]} (rows: true labels) is drawn as a matrix; Markdown entries are copied unchanged
into the report.
"""

import html
import math
from collections.abc import Iterable, Mapping
from typing import Any

import dagster as dg

from kfp_bridge.errors import StepError
from kfp_bridge.records import TaskRecord

_MATRIX_ENTRY = "confusion_matrix"
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;margin:2rem;max-width:72rem}}
table{{border-collapse:collapse}}td,th{{border:1px solid #ccc;padding:.25rem .6rem;text-align:left}}
pre{{overflow:auto;background:#f6f6f6;padding:.6rem}}img{{max-width:100%}}</style></head><body>
{body}
</body></html>
"""


def scalar_metrics(record: TaskRecord) -> dict[str, float | int]:
    """Return the finite numbers of the metadata, named `asset.name` if there are several assets; checks as 0 or 1."""
    metrics: dict[str, float | int] = {}
    for asset in record.assets:
        prefix = f"{asset.asset}." if len(record.assets) > 1 else ""
        for name, entry in asset.event.metadata.items():
            value = entry.value
            if isinstance(value, bool | int | float) and math.isfinite(value):
                metrics[prefix + name] = int(value) if isinstance(value, bool) else value
    for check in record.checks:
        metrics[f"check.{check.check_name}"] = int(check.passed)
    return dict(sorted(metrics.items()))


def confusion_matrix(record: TaskRecord) -> dict[str, Any] | None:
    """Return the metadata of a ClassificationMetrics artifact, or None without a matrix.

    The format is what `kfp.dsl.ClassificationMetrics.log_confusion_matrix` writes.

    Raises:
        StepError: the entry is not a square matrix with one label per row.
    """
    for asset in record.assets:
        entry = asset.event.metadata.get(_MATRIX_ENTRY)
        if entry is None:
            continue
        content: Any = entry.value
        labels = content.get("labels") if isinstance(content, Mapping) else None
        matrix = content.get("matrix") if isinstance(content, Mapping) else None
        if not labels or not matrix or {len(labels)} != {len(matrix), *(len(row) for row in matrix)}:
            raise StepError(
                f"asset {asset.asset}: metadata {_MATRIX_ENTRY!r} must be "
                "{'labels': [n names], 'matrix': [n rows of n numbers]}"
            )
        return {
            "confusionMatrix": {
                "annotationSpecs": [{"displayName": str(label)} for label in labels],
                "rows": [{"row": list(row)} for row in matrix],
            }
        }
    return None


def markdown_report(record: TaskRecord) -> str:
    """Return the report: checks first, then each asset's metadata as a table, with Markdown entries unchanged."""
    sections: list[str] = []
    if record.checks:
        rows = [
            (
                ("passed" if check.passed else "FAILED"),
                f"{check.asset_key.to_user_string()}:{check.check_name}",
                f"{check.severity.value}{', blocking' if check.blocking else ''}",
                check.description or "",
                ", ".join(f"{name}={_text(entry)}" for name, entry in sorted(check.metadata.items())),
            )
            for check in record.checks
        ]
        sections += ["## Checks", _table(("result", "check", "severity", "message", "values"), rows)]
    for asset in record.assets:
        sections.append(f"## {asset.asset}")
        if asset.event.description:
            sections.append(asset.event.description)
        entries = sorted(asset.event.metadata.items())
        plain = [
            (name, _text(entry)) for name, entry in entries if not isinstance(entry, dg.MarkdownMetadataValue)
        ]
        if asset.sha256:
            plain.append(("sha256 of the artifact", asset.sha256))
        sections.append(_table(("metadata", "value"), plain))
        for name, entry in entries:
            if isinstance(entry, dg.MarkdownMetadataValue):
                sections += [f"### {name}", str(entry.value)]
    return "\n\n".join(sections) + "\n"


def html_report(record: TaskRecord) -> str:
    """Return the Markdown report as one HTML page; markup in values is escaped."""
    from markdown_it import MarkdownIt

    renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
    title = ", ".join(asset.asset for asset in record.assets) or "checks"
    return _PAGE.format(title=html.escape(title), body=renderer.render(markdown_report(record)))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _text(entry: dg.MetadataValue) -> str:
    return str(entry.value)
