"""The files of a recorded event log by its name: logs, and the catalogues that lie beside them."""

from glob import glob
from pathlib import Path
from typing import Final

CATALOGUE_SUFFIX: Final = ".items.ndjson"


def log_paths(pattern: str) -> list[Path]:
    """The logs that a file or glob names, by name, without the catalogues that lie beside them; itself where it finds nothing."""
    return [Path(found) for found in sorted(glob(pattern)) or [pattern] if not found.endswith(CATALOGUE_SUFFIX)]
