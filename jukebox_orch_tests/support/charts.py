"""Charts of the jukebox as one Parquet file of combined rows, good and bad."""

from pathlib import Path

import pandas as pd

from jukebox_orch.projects.jukebox import sample


def write_charts(path: Path, *, seed: int = 2023, days: int = 5, chart: int = 50, bad: bool = False) -> Path:
    """The embedded sample of this seed and size; with `bad` each fifth row has a rank that no chart has."""
    songs, rankings = (
        pd.DataFrame(table) for table in sample.generate(seed=seed, days=days, chart=chart).values()
    )
    rankings = rankings.astype({"spotify_id": "str"})
    if bad:
        rankings.loc[rankings.index[::5], "daily_rank"] = 99
    rankings.merge(songs, on="spotify_id").to_parquet(path, compression="zstd")
    return path
