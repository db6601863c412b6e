"""Verdicts, tables and pictures in the form the Dagster UI shows."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from jukebox_orch.contract.project import InputError

if TYPE_CHECKING:
    import pandas as pd

_PREVIEW_ROWS = 5


def verdict(
    name: str,
    passed: bool,
    value: Any,
    threshold: Any,
    text: str,
    *,
    warn: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> dg.AssetCheckResult:
    """A check's result: what was measured, what it had to be, and a sentence about it."""
    return dg.AssetCheckResult(
        passed=bool(passed),
        check_name=name,
        severity=dg.AssetCheckSeverity.WARN if warn else dg.AssetCheckSeverity.ERROR,
        description=text,
        metadata={"value": shown(value), "threshold": shown(threshold), **(metadata or {})},
    )


def refuse_failed(noun: str, checks: Sequence[dg.AssetCheckResult], remedy: str) -> None:
    """Refuse a value that did not pass its blocking checks: they stop their own run, a later one starts after them.

    Raises:
        InputError: naming the asset, its failed checks and what to do.
    """
    stopping = [c for c in checks if not c.passed and c.severity == dg.AssetCheckSeverity.ERROR]
    failed = [f"{c.check_name}: {c.description}" for c in stopping]
    if failed:
        raise InputError(f"{noun} did not pass its checks ({'; '.join(failed)}): {remedy}")


def image(png: bytes, title: str) -> dg.MetadataValue:
    """A figure inline."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def preview(table: "pd.DataFrame", rows: int = _PREVIEW_ROWS) -> dg.MetadataValue:
    """The first rows as a table."""
    return records(table.head(rows).to_dict("records"))


def records(rows: Sequence[Mapping[Any, Any]]) -> dg.MetadataValue:
    """Rows as a table of text."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if not rows:
        return dg.MetadataValue.text("none")
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in rows],
        dg.TableSchema([dg.TableColumn(name, "string") for name in names]),
    )


def column_schema(table: "pd.DataFrame") -> dg.TableSchema:
    """Names and pandas types of the columns."""
    return dg.TableSchema([dg.TableColumn(str(name), str(dtype)) for name, dtype in table.dtypes.items()])


def shown(value: Any) -> Any:
    """A value as metadata; JSON has no NaN or infinity, they are spelled."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return dg.MetadataValue.json({str(k): v for k, v in value.items()})
    return str(value)


def _cell(value: Any) -> str:
    import pandas as pd

    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None or value is pd.NaT else str(value)
