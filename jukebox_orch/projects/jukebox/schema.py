"""The two tables of the jukebox data: columns, allowed ranges, classes.

Source: "Top Spotify Songs in 73 Countries (Daily Updated)", Kaggle, asaniczka, ODC-BY 1.0. The features are
those of Spotify's Web API, "Get Track's Audio Features"; the ranges are the documented ones, widened where the
published data exceeds them.
"""

from __future__ import annotations

FEATURES = (
    "is_explicit",
    "duration_ms",
    "danceability",
    "energy",
    "key",
    "loudness",
    "mode",
    "speechiness",
    "acousticness",
    "instrumentalness",
    "liveness",
    "valence",
    "tempo",
)
"""The model's inputs, in the column order of `Split.x`."""

SONG_COLUMNS = ("spotify_id", "name", "artists", *FEATURES)
"""Table `songs`: one row per song."""

RANKING_COLUMNS = ("spotify_id", "country", "snapshot_date", "daily_rank")
"""Table `rankings`: one row per song, country and day; an empty country means the worldwide chart."""

ORIGIN_COLUMNS = ("file", "row")
"""Columns of both tables that say where a row comes from; row 0 is the first one below the file's header."""

WHOLE_NUMBERS = frozenset({"duration_ms", "key", "mode", "daily_rank"})

RANGES = {
    "is_explicit": (0, 1),
    "duration_ms": (1, 86_400_000),  # milliseconds, up to a day; 0: song was withdrawn from the service
    "danceability": (0, 1),
    "energy": (0, 1),
    "key": (-1, 11),  # pitch class, 0 = C; -1: not detected
    "loudness": (-60, 10),  # decibels; documented up to 0, published up to 3.2
    "mode": (0, 1),  # 1 = major
    "speechiness": (0, 1),
    "acousticness": (0, 1),
    "instrumentalness": (0, 1),
    "liveness": (0, 1),
    "valence": (0, 1),
    "tempo": (0, 300),  # beats per minute; 0: not detected
}
"""Feature -> lowest and highest usable value."""

RANKS = (1, 50)

# fmt: off
COUNTRIES = (
    "AE", "AR", "AT", "AU", "BE", "BG", "BO", "BR", "BY", "CA", "CH", "CL", "CO", "CR", "CZ", "DE",
    "DK", "DO", "EC", "EE", "EG", "ES", "FI", "FR", "GB", "GR", "GT", "HK", "HN", "HU", "ID", "IE",
    "IL", "IN", "IS", "IT", "JP", "KR", "KZ", "LT", "LU", "LV", "MA", "MX", "MY", "NG", "NI", "NL",
    "NO", "NZ", "PA", "PE", "PH", "PK", "PL", "PT", "PY", "RO", "SA", "SE", "SG", "SK", "SV", "TH",
    "TR", "TW", "UA", "US", "UY", "VE", "VN", "ZA",
)
# fmt: on
"""The classes: the 72 published charts, ISO 3166-1 alpha-2, sorted. Fixed, so that the meaning of an output does
not depend on the countries in the data of a day."""
