"""Converts Dagster's cron expressions to KFP's: six fields with seconds first, days of the week 0-6.

KFP: github.com/robfig/cron (v1, six fields with seconds), Dagster: the Python package croniter.
"""

import re

from kfp_bridge.errors import BridgeError

_FIELD = re.compile(r"[0-9A-Za-z*/,-]+")
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def kfp_cron(cron: str) -> str:
    """Return the expression for KFP.

    Raises:
        BridgeError: KFP's parser does not support it: a day of the week 7, `L`, `#`, an unknown macro.
    """
    if cron in _MACROS:
        return cron
    fields = cron.split()
    if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
        raise BridgeError(
            f"cron {cron!r}: KFP takes five plain fields (minute hour day month weekday) or one of {', '.join(_MACROS)}"
        )
    if re.search(r"\b7\b", fields[4]) or "L" in "".join(fields).upper().replace("JUL", ""):
        raise BridgeError(f"cron {cron!r}: KFP counts weekdays 0-6 from Sunday and has no last day (L)")
    return " ".join(["0", *fields])
