"""Stretches of event time as people write them on a command line: `A..B`, either end left out for open."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Final

from online_models.contracts.events import timestamp_ms, utc
from online_models.errors import SourceError

BEGINNING: Final = -(2**62)
END: Final = 2**62

_SEPARATOR: Final = ".."


@dataclass(frozen=True, slots=True)
class TimeRange:
    """Event times in [start_ms, end_ms), epoch ms, UTC."""

    start_ms: int = BEGINNING
    end_ms: int = END

    def __str__(self) -> str:
        start = "" if self.start_ms == BEGINNING else day_or_moment(self.start_ms)
        end = "" if self.end_ms == END else day_or_moment(self.end_ms)
        return f"{start}{_SEPARATOR}{end}" if start or end else "all of it"


def moment_text(ts_ms: int) -> str:
    """RFC 3339 in UTC, to the second.

    >>> moment_text(1_300_000_000_123)
    '2011-03-13T07:06:40Z'
    """
    return utc(ts_ms).strftime("%Y-%m-%dT%H:%M:%SZ")


def day_or_moment(ts_ms: int) -> str:
    """The same, a day's first moment as the day."""
    return moment_text(ts_ms).removesuffix("T00:00:00Z")


def parse_moment(text: str) -> int:
    """Epoch ms of an RFC 3339 time, or of a day's first moment in UTC.

    Raises
    ------
    SourceError
        When the text is neither.

    >>> parse_moment("1970-01-02"), parse_moment("1970-01-01T01:00:00+01:00")
    (86400000, 0)
    """
    try:
        if len(text) == len("2011-03-01"):
            return timestamp_ms(datetime.combine(date.fromisoformat(text), time(), UTC).isoformat())
        return timestamp_ms(text)
    except (ValueError, OverflowError) as error:
        raise SourceError(f"expected a time such as 2011-03-01 or 2011-03-01T12:00:00Z, got {text!r}") from error


def is_range(text: str) -> bool:
    """Whether a text is written as a range."""
    return _SEPARATOR in text


def parse_range(text: str) -> TimeRange:
    """The range of `A..B`, `A..` or `..B`.

    Raises
    ------
    SourceError
        When it is not written so, or ends before it begins.

    >>> parse_range("1970-01-01..1970-01-02")
    TimeRange(start_ms=0, end_ms=86400000)
    >>> str(parse_range("1970-01-02.."))
    '1970-01-02..'
    """
    start, separator, end = text.partition(_SEPARATOR)
    if not separator:
        raise SourceError(f"expected a range such as 2011-03-01..2011-04-01, got {text!r}")
    found = TimeRange(parse_moment(start) if start else BEGINNING, parse_moment(end) if end else END)
    if found.start_ms >= found.end_ms:
        raise SourceError(f"expected a range that ends after it begins, got {text!r}")
    return found
