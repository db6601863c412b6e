"""Convert tables, figures and values to Dagster metadata for the UI."""

import base64
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    import pandas as pd

_PREVIEW_ROWS = 5


def image(png: bytes, title: str) -> dg.MetadataValue:
    """Return a figure as inline Markdown image."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def preview(data: "pd.DataFrame", rows: int = _PREVIEW_ROWS) -> dg.MetadataValue:
    """Return the first rows as a table."""
    return table(data.head(rows).to_dict("records"))


def table(rows: Sequence[Mapping[Any, Any]]) -> dg.MetadataValue:
    """Return rows as a table of strings."""
    names = list(dict.fromkeys(str(name) for row in rows for name in row))
    if not rows:
        return dg.MetadataValue.text("none")
    return dg.MetadataValue.table(
        [dg.TableRecord({name: _cell(row.get(name)) for name in names}) for row in rows],
        dg.TableSchema([dg.TableColumn(name, "string") for name in names]),
    )


def column_schema(data: "pd.DataFrame") -> dg.TableSchema:
    """Return the names and pandas types of the columns."""
    return dg.TableSchema([dg.TableColumn(str(name), str(dtype)) for name, dtype in data.dtypes.items()])


def json_safe(value: Any) -> Any:
    """Return a value as metadata. NaN and infinity, which JSON does not have, become text."""
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
