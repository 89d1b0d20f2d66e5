"""A chunk of a log as columns of events, and its bad rows as rejects with their reasons.

- A text is scanned without making an object of any event. Lines that surprise the scanner go to the exact decoder, and what comes
  of them is put in their place: the result is that of `parse_slow` for the whole.
- Hashes are `ids.hash64`; an event id is hashed in canonical lower-case form, so that its spellings meet.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from flows.chunks import Chunk, Lines, Parsed, Rows, Table
from flows.decode import parse_lines, parse_slow
from flows.scanned import ScannedColumns, ScannedEvents
from flows.scanner import Scan, scan
from flows.table_events import parse_table
from online_models.contracts.events import EventBatch, TimeBounds


def parse(chunk: Chunk, bounds: TimeBounds, names: Sequence[str] = ()) -> Parsed:
    """Columns of a chunk's valid events, and a reject for each row that is not one.

    Empty lines are neither. The batch has the chunk's path and position, also when it is empty.

    names : distinct features that will be asked for; others can be had too, but from a text not fast

    >>> line = b'{"event_id":"00000000-0000-0000-0000-000000000001","type":"click","user_id":"u",'
    >>> line += b'"item_id":"i","ts":5,"domain":"movies"}'
    >>> parsed = parse(Chunk("log", "a.ndjson", 0, Lines(line + b"\\nbroken\\n", 0)), TimeBounds(0, 9))
    >>> parsed.batch.ts_ms, parsed.rejects[0].offset, parsed.rejects[0].reason
    (array([5]), 120, 'JSON is malformed: invalid character (byte 0)')
    """
    match chunk.content:
        case Lines() as content:
            found = scan(content.blob, bounds, tuple(names))
            if not found.lines["known"].any():
                return parse_slow(chunk, content, bounds)
            return _merged(chunk, content, found, tuple(names), bounds)
        case Rows() as content:
            return parse_slow(chunk, content, bounds)
        case Table() as content:
            return parse_table(chunk, content, bounds)


def _merged(chunk: Chunk, content: Lines, found: Scan, names: tuple[str, ...], bounds: TimeBounds) -> Parsed:
    """The scanned events, with the events of the other lines put between them."""
    lines, text = found.lines, content.blob
    odd = np.flatnonzero(~lines["known"])
    raws = [
        text[start:end] for start, end in zip(lines["start"][odd].tolist(), lines["end"][odd].tolist(), strict=True)
    ]
    terminated = content.terminated or bool(lines["known"][-1])
    rest = parse_lines(chunk, raws, lines["start"][odd] + content.offset, terminated, bounds)
    merge = _Merge.of(found, rest.batch, content.offset)
    domain, domains = merge.domains()
    start, end = merge.column("start"), merge.column("end")
    events = ScannedEvents(text, start, end, dict(zip(merge.rows.tolist(), rest.batch.events, strict=True)))
    batch = EventBatch(
        events=events,
        event_hash=merge.column("event_hash", rest.batch.event_hash),
        user_hash=merge.column("user_hash", rest.batch.user_hash),
        item_hash=merge.column("item_hash", rest.batch.item_hash),
        type=merge.column("type", rest.batch.type),
        ts_ms=merge.column("ts_ms", rest.batch.ts_ms),
        value=merge.column("value", rest.batch.value),
        domain=domain,
        domains=domains,
        offset=start + content.offset,
        requested=merge.column("requested", rest.batch.requested),
        features=ScannedColumns(text, found, names, events, merge.row_of, rest.batch.features, merge.rows),
        source=chunk.path,
        position=chunk.position,
    )
    return Parsed(batch, rest.rejects)


@dataclass(frozen=True, slots=True)
class _Merge:
    """Which lines are events: those that the scan knows, and those of the decoded `rest`.

    lines : int64 (m,), the line of each event of the rest
    keep : bool (lines,), None when every line is an event
    row_of : int32 (lines,), the event of each line that is one; None as above
    rows : int32 (m,), which events of all those of the rest are
    """

    scan: Scan
    rest: EventBatch
    lines: npt.NDArray[np.int64]
    keep: npt.NDArray[np.bool_] | None
    row_of: npt.NDArray[np.int32] | None
    rows: npt.NDArray[np.int32]

    @staticmethod
    def of(scan: Scan, rest: EventBatch, offset: int) -> "_Merge":
        """The merge of a scan of a text that stands at `offset` of its source."""
        lines = np.searchsorted(scan.lines["start"], rest.offset - offset)
        keep = scan.lines["known"].copy()
        keep[lines] = True
        if keep.all():
            return _Merge(scan, rest, lines, None, None, lines.astype(np.int32))
        row_of = (np.cumsum(keep) - 1).astype(np.int32)
        return _Merge(scan, rest, lines, keep, row_of, row_of[lines])

    def column(self, name: str, of_rest: npt.NDArray[Any] | None = None) -> npt.NDArray[Any]:
        """A field of all events (n,); for those of the rest it is the line's own when not given."""
        every = self.scan.lines[name]
        column = every.copy() if self.keep is None else every[self.keep]
        if of_rest is not None:
            column[self.rows] = of_rest
        return column

    def domains(self) -> tuple[npt.NDArray[np.int16], tuple[str, ...]]:
        """The domain of each event and the domains, in order of appearance."""
        if not len(self.rest):
            return self.column("domain"), self.scan.domains
        names = {name: code for code, name in enumerate(dict.fromkeys(self.scan.domains + self.rest.domains))}
        recoded = np.array([names[name] for name in self.rest.domains], np.int16)
        codes = self.column("domain", recoded[self.rest.domain])
        used, first = np.unique(codes, return_index=True)
        order = np.argsort(first)
        place = np.zeros(len(names), np.int16)
        place[used[order]] = np.arange(len(used))
        listed = tuple(names)
        return place[codes], tuple(listed[code] for code in used[order].tolist())
