"""Files of finished runs, read back: people may have edited or damaged them."""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_json(path: Path, kinds: Mapping[str, Any], key: str | None = None, most: float = math.inf) -> Any:
    """Read what we wrote as JSON, names with values. None where it is not there.

    A damaged file counts as not there: a warning names what is wrong. `kinds` are the types of what must be there, by
    name; no number may be below 0, or, if it is not whole, above `most`. The key is that of its run.
    """
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it holds no names with values")
        wrong = ["key"] if key is not None and content["key"] != key else []
        for name, kind in kinds.items():
            value = content[name]
            sound = isinstance(value, kind) and not isinstance(value, bool)
            if sound and isinstance(value, int | float):
                sound = 0 <= value < (most if isinstance(value, float) else math.inf)
            wrong += [] if sound else [name]
        told = f"{', '.join(wrong)} is not what it must be" if wrong else ""
    except FileNotFoundError:
        return None
    except KeyError as error:
        told = f"{error} is missing"
    except (OSError, ValueError, RecursionError) as error:
        told = str(error)
    if told:
        warnings.warn(f"{path} is damaged and counts as not there: {told}", stacklevel=3)
    return None if told else content
