"""Catalogue files: NDJSON of `Item` lines, beside a log as `<log>.items.ndjson`."""

from pathlib import Path

import msgspec

from online_models.contracts.events import Item
from online_models.errors import SourceError


def read_catalogue(path: Path) -> list[Item]:
    """All entries of a catalogue file.

    Raises
    ------
    SourceError
        When the file cannot be read or a line is not an `Item`; a catalogue is small and written by one program, so that
        one bad line means a bad file.
    """
    decoder = msgspec.json.Decoder(Item)
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SourceError(f"catalogue {path}: {error}") from error
    items = []
    for number, line in enumerate(lines, 1):
        try:
            items.append(decoder.decode(line))
        except msgspec.DecodeError as error:
            raise SourceError(f"catalogue {path}, line {number}: {error}") from error
    return items
