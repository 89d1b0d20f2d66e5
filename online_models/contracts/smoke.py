"""What `python -m serving_api smoke` prints of an artifact, one line of JSON: whether the reader takes it, and how quickly."""

import msgspec


class SmokeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """An artifact that was loaded and asked.

    load_seconds : until it was verified and warm; rss_bytes : most memory that the process ever held
    p50_ms, p99_ms : of a request where one at a time is asked
    busy_p50_ms, busy_p99_ms : where `clients` ask at once, waiting for each other included
    errors : requests that raised something, the first of which is `first_error`; empty : lists without an item where there is one
    short : lists with fewer items than were asked for and are there; wrong : with an item twice, or one that the user has met
    """

    version: str
    kind: str
    items: int
    load_seconds: float
    rss_bytes: int
    requests: int
    clients: int
    p50_ms: float
    p99_ms: float
    busy_p50_ms: float
    busy_p99_ms: float
    requests_per_second: float
    errors: int = 0
    first_error: str = ""
    empty: int = 0
    short: int = 0
    wrong: int = 0


def encode_smoke(figures: SmokeFigures) -> bytes:
    """One line of JSON, without its end."""
    return msgspec.json.encode(figures)


def decode_smoke(raw: bytes) -> SmokeFigures:
    """From the last line that was printed. Raises msgspec.DecodeError when it is something else."""
    lines = raw.splitlines()
    return msgspec.json.decode(lines[-1] if lines else b"", type=SmokeFigures)
