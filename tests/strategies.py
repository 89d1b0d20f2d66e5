"""Hypothesis strategies for events and logs, and logs with faults whose dead letters are known.

- `dirty_log` is a function of a clean log and a seed, so that tests without Hypothesis can use it too.
"""

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import hypothesis.strategies as st
import msgspec

from online_models.contracts.events import Event, EventType, FeatureValue, TimeBounds, utc

BOUNDS = TimeBounds(earliest_ms=946_684_800_000, latest_ms=1_893_456_000_000)
"""2000 to 2030."""

MEGABYTE = 1_000_000

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
finite = st.floats(allow_nan=False, allow_infinity=False)
naturals = st.integers(0, 2**31 - 1)
features = st.dictionaries(texts, st.one_of(finite, texts, st.lists(texts, max_size=3)), max_size=3)
times = st.integers(BOUNDS.earliest_ms, BOUNDS.latest_ms)
spelled_times: st.SearchStrategy[int | str] = st.one_of(times, times.map(lambda ms: utc(ms).isoformat()))


def events(times: st.SearchStrategy[int | str] = spelled_times) -> st.SearchStrategy[Event]:
    """Valid events of every type, with and without each optional field."""
    return st.builds(
        Event,
        event_id=st.uuids().map(str),
        type=st.sampled_from(EventType),
        user_id=texts,
        item_id=texts,
        ts=times,
        domain=st.sampled_from(["movies", "products"]),
        value=st.none() | finite,
        request_id=st.none() | texts,
        position=st.none() | naturals,
        model_version=st.none() | texts,
        rollout_id=st.none() | naturals,
        propensity=st.none() | finite,
        features=st.none() | features,
    )


def logs(
    min_size: int = 0, max_size: int = 20, times: st.SearchStrategy[int | str] = spelled_times
) -> st.SearchStrategy[list[Event]]:
    """Valid events with distinct ids."""
    return st.lists(events(times), min_size=min_size, max_size=max_size, unique_by=lambda event: event.event_id)


def ndjson(log: Sequence[Event]) -> bytes:
    """The lines of a log."""
    return msgspec.json.Encoder().encode_lines(log)


@dataclass(frozen=True)
class BadRow:
    """One line of a dirty log that must become a dead letter: a part of its reason, where it is, and its bytes."""

    reason: str
    offset: int
    raw: bytes


@dataclass(frozen=True)
class DirtyLog:
    """The same events twice: alone, and among rows that are none or repeat one."""

    # Not shown: hypothesis refuses to print megabytes.
    clean: bytes = field(repr=False)
    dirty: bytes = field(repr=False)
    bad: list[BadRow] = field(repr=False)
    duplicates: list[BadRow] = field(repr=False)


Fault = tuple[bytes, str]
"""A bad line and a part of the reason it must be refused for."""


def sample_event(rng: random.Random) -> Event:
    """A valid event in ASCII, with every kind of field."""
    genres: list[str] = rng.sample(["Action", "Comedy", "Drama", "Horror"], 2)
    given: dict[str, FeatureValue] = {"genres": genres, "weight": rng.random(), "word": "w"}
    return Event(
        event_id=str(uuid.UUID(int=rng.getrandbits(128))),
        type=rng.choice(list(EventType)),
        user_id=f"u{rng.randrange(50)}",
        item_id=f"i{rng.randrange(200)}",
        ts=rng.randrange(BOUNDS.earliest_ms, BOUNDS.latest_ms),
        domain="movies",
        value=float(rng.randrange(1, 6)),
        features=given,
    )


def sample_log(size: int, seed: int) -> list[Event]:
    """Valid events with distinct ids, in order of time."""
    rng = random.Random(seed)
    return sorted((sample_event(rng) for _ in range(size)), key=lambda event: event.ts)


def _broken(rng: random.Random) -> Fault:
    line = msgspec.json.encode(sample_event(rng))
    return rng.choice(
        [
            (
                line[: rng.randrange(1, 40)],
                "truncated",
            ),  # within the id: cut elsewhere, a number may be malformed instead
            (b"not json", "malformed"),
            (b"[1, 2]", "Expected `object`"),
            (b"{} " + line, "missing required field"),
            (line + b" " + line, "malformed"),
            (b"\xff" + line, "not UTF-8: byte 0xff at 0"),
            (line.replace(b'"movies"', b'"\xed\xa0\x80"'), "not UTF-8"),
        ]
    )


def _replaced(rng: random.Random, field: str, raw: str, reason: str) -> Fault:
    """A line whose field holds any JSON text, or nothing when that is empty."""
    fields = msgspec.to_builtins(sample_event(rng))
    fields.pop(field)
    body = msgspec.json.encode(fields)[1:]
    line = f'{{"{field}":{raw},'.encode() + body if raw else b"{" + body
    return line, reason


def _wrong_type(rng: random.Random) -> Fault:
    field, raw = rng.choice(
        [
            ("event_id", "17"),
            ("user_id", "7"),
            ("item_id", "null"),
            ("type", '"view"'),
            ("ts", "1.5"),
            ("domain", "[]"),
            ("value", '"4"'),
            ("position", "1.5"),
            ("rollout_id", "true"),
            ("features", "[]"),
            ("features", '{"a":null}'),
        ]
    )
    return _replaced(rng, field, raw, f"`$.{field}") if field in sample_fields() else _added(rng, field, raw)


def sample_fields() -> set[str]:
    """Fields that `sample_event` fills."""
    return set(msgspec.to_builtins(sample_event(random.Random(0))))


def _added(rng: random.Random, field: str, raw: str) -> Fault:
    body = msgspec.json.encode(sample_event(rng))[1:]
    return f'{{"{field}":{raw},'.encode() + body, f"`$.{field}"


def _bad_id(rng: random.Random) -> Fault:
    field = rng.choice(["event_id", "user_id", "item_id", "domain"])
    missing = _replaced(rng, field, "", f"missing required field `{field}`")
    empty = _replaced(rng, field, '""', f"{field}: expected")
    nul = _replaced(rng, field, '"a\\u0000"', f"{field}: expected")
    return rng.choice([missing, empty, nul])


def _not_finite(rng: random.Random) -> Fault:
    raw, reason = rng.choice(
        [("NaN", "malformed"), ("Infinity", "malformed"), ("-Infinity", "malformed"), ("1e999", "out of range")]
    )
    if rng.random() < 0.5:
        return _replaced(rng, "features", f'{{"a":{raw}}}', reason)
    return _replaced(rng, "value", raw, reason)


def _bad_time(rng: random.Random) -> Fault:
    raw, reason = rng.choice(
        [
            (str(BOUNDS.latest_ms + 1), "ts: expected within"),
            (str(BOUNDS.earliest_ms - 1), "ts: expected within"),
            (str(10**30), "ts: expected within"),
            ('"3020-01-01T00:00:00Z"', "ts: expected within"),
            ('"2020-01-01T00:00:00"', "ts: "),
            ('"yesterday"', "ts: "),
        ]
    )
    return _replaced(rng, "ts", raw, reason)


def _megabyte(rng: random.Random) -> Fault:
    return _replaced(rng, "features", '{"a":"' + "x" * MEGABYTE + '"}', "line: expected at most")


FAULTS: tuple[Callable[[random.Random], Fault], ...] = (
    _broken,
    _wrong_type,
    _bad_id,
    _not_finite,
    _bad_time,
    _megabyte,
)


def dirty_log(
    log: Sequence[Event], seed: int, faults: int = 10, duplicates: int = 3, truncated: bool = True
) -> DirtyLog:
    """A clean log mixed with bad lines, empty lines and repeats.

    Parameters
    ----------
    log : valid events with distinct ids
    faults, duplicates : how many bad lines and repeats are mixed in; at most two bad lines are of 1 MB
    truncated : whether the file ends in the middle of a line
    """
    rng = random.Random(seed)
    kinds = [_megabyte] * min(2, faults // 5) + [rng.choice(FAULTS[:-1]) for _ in range(faults - min(2, faults // 5))]
    rows: list[tuple[bytes, str | None]] = [(msgspec.json.encode(event), None) for event in log]
    for _ in range(duplicates if log else 0):
        # a repeat comes after its original, and may spell the id in capitals
        at = rng.randrange(len(log))
        event = msgspec.structs.replace(log[at], event_id=rng.choice([str.upper, str.lower])(log[at].event_id))
        place = 1 + next(k for k, (line, _) in enumerate(rows) if line == msgspec.json.encode(log[at]))
        rows.insert(rng.randint(place, len(rows)), (msgspec.json.encode(event), "duplicate"))
    for kind in kinds:
        rows.insert(rng.randint(0, len(rows)), kind(rng))
    for blank in (b"", b"  \r"):
        rows.insert(rng.randint(0, len(rows)), (blank, None))
    dirty, offset = [], 0
    found: list[BadRow] = []
    for line, reason in rows:
        if reason is not None:
            found.append(BadRow(reason, offset, line))
        dirty.append(line + b"\n")
        offset += len(line) + 1
    if truncated:
        line = msgspec.json.encode(sample_event(rng))
        line = line[: rng.randrange(1, len(line))]
        found.append(BadRow("truncated last line", offset, line))
        dirty.append(line)
    bad = [row for row in found if row.reason != "duplicate"]
    return DirtyLog(ndjson(log), b"".join(dirty), bad, [row for row in found if row.reason == "duplicate"])


def dirty_logs(max_size: int = 20, max_faults: int = 12) -> st.SearchStrategy[DirtyLog]:
    """Dirty logs of any mixture."""
    return st.builds(
        dirty_log,
        logs(max_size=max_size),
        seed=st.integers(0, 2**32),
        faults=st.integers(0, max_faults),
        duplicates=st.integers(0, 4),
        truncated=st.booleans(),
    )
