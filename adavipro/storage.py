"""Where downloads and what is computed once are kept: one folder, outside the project."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Folder of everything that is kept between runs: $ADAVIPRO_CACHE, or ~/.cache/adavipro."""
    return Path(os.environ.get("ADAVIPRO_CACHE") or "~/.cache/adavipro").expanduser()


def datasets_folder() -> Path:
    """Folder of the nine data sets: $ADAVIPRO_DATA, or datasets/ in the cache folder."""
    given = os.environ.get("ADAVIPRO_DATA")
    return Path(given).expanduser() if given else cache_folder() / "datasets"
