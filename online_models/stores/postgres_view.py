"""A domain's events in PostgreSQL as they are at one moment: digests of their days, their rows as CSV, and the catalogue.

- A digest reads every row and sends one line a day: a hash of the whole row, so that a changed field shows, not only an id.
- COPY streams: rows go from the server's sort to the receiver in pieces, and neither side holds them all in memory. psycopg2's
  rows as tuples would take several times as long.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from online_models.contracts.events import Item
from online_models.interactions import EventDay
from online_models.stores.postgres import Cursor, query

PIECE_BYTES: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class PostgresView:
    """`EventView` of the events of `domain` up to `until_ms` (inclusive), inside a transaction that sees one moment."""

    cursor: Cursor
    domain: str
    until_ms: int

    def days(self) -> list[EventDay]:
        """Every day with events, oldest first."""
        self.cursor.execute(query("select_event_days"), {"domain": self.domain, "until_ms": self.until_ms})
        return [EventDay(day, int(events), int(checksum) % 2**64) for day, events, checksum in self.cursor]

    def copy(self, days: Collection[int], receive: Callable[[bytes], object]) -> None:
        """The rows of some days as CSV, ordered by (time, event id), in pieces of about `PIECE_BYTES`."""
        if not days:
            return
        wanted = {"domain": self.domain, "until_ms": self.until_ms, "days": sorted(days)}
        statement = self.cursor.mogrify(query("copy_event_days"), wanted)
        rows = _Rows(receive)
        self.cursor.copy_expert(statement, rows)
        rows.send()

    def items(self) -> list[Item]:
        """The catalogue of the domain, by item id."""
        return items_of(self.cursor, self.domain)


def items_of(cursor: Cursor, domain: str) -> list[Item]:
    """The catalogue of a domain, by item id."""
    cursor.execute(query("select_items"), {"domain": domain})
    return [Item(item_id, domain, *told) for item_id, *told in cursor]


class _Rows:
    """A file that COPY writes CSV to, and that passes whole rows on."""

    def __init__(self, receive: Callable[[bytes], object]) -> None:
        self._receive = receive
        self._held: list[bytes] = []
        self._bytes = 0

    def write(self, row: bytes) -> None:
        """Called with one row each: the server sends a message for every row."""
        self._held.append(row)
        self._bytes += len(row)
        if self._bytes >= PIECE_BYTES:
            self.send()

    def send(self) -> None:
        """Pass on what is held."""
        if self._held:
            self._receive(b"".join(self._held))
        self._held.clear()
        self._bytes = 0
