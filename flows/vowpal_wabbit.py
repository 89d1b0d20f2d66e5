"""Vowpal Wabbit text (`.vw`): a line is one event, its namespaces are the event's fields and features.

`[label [importance [base]]] ['tag]|namespace[:scale] feature[:value] ... |namespace ...`

- As in VW a feature without value is a word and one with value a number, times the namespace's scale: `|age 23` is the word
  "23" (a number all the same when `VwMapping.numbers` says so), `|age :23` a number, `|user age:23` the number `user.age`, for
  in VW too a feature is another one in another namespace, and `|user city:Graz` the word `user.city`. A value 1 that is
  written is a number, not the word that VW would see. Nothing is hashed, no constant is added.
- The words of a namespace are one feature of its name; features in no namespace (`| a b:2`) are words named `words` and `b`.
- A label above 0 is a click, any other or none an impression; `VwMapping` names the namespaces that say more.
- The format has no time. It comes from a namespace, from a whole number as tag, or is counted up with the byte offset from
  `VwMapping.start_ms`; a line without any of these is refused. Whole numbers below 10^11 are seconds, others milliseconds.
- An event without id has one made of path and offset, so that it is the same whenever the file is read.

References
----------
Vowpal Wabbit wiki, "Input format": https://github.com/VowpalWabbit/vowpal_wabbit/wiki/Input-format
"""

import hashlib
import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from flows.chunks import Rows, reject
from online_models.contracts.events import Reject

NO_NAMESPACE = "words"
UNKNOWN = "-"
"""User and item of a line that names none."""

_FIRST_MILLISECONDS = 10**11
_IDS = uuid.uuid5(uuid.NAMESPACE_URL, "penstock:vowpal-wabbit")
_NO_TIME = (
    "ts: a line has no time: give a namespace |ts, a whole number as tag, or the time of the first line (vw_start)"
)

Row = dict[str, object]


@dataclass(frozen=True)
class VwMapping:
    """Which namespaces are fields of the event; all others are features.

    event_id, user_id, item_id, ts, domain, type : names of such namespaces; the text up to the next bar is the field
    numbers : namespaces whose one word is a number
    default_domain : the domain of a line that names none
    start_ms : epoch ms of the first byte of a log without times, None when lines have theirs: a line that begins at byte b
        is then an event at `start_ms + b`, so that windows follow the order of the lines
    """

    event_id: tuple[str, ...] = ("event_id",)
    user_id: tuple[str, ...] = ("user_id", "user")
    item_id: tuple[str, ...] = ("item_id", "item")
    ts: tuple[str, ...] = ("ts",)
    domain: tuple[str, ...] = ("domain",)
    type: tuple[str, ...] = ("type",)
    numbers: frozenset[str] = frozenset()
    default_domain: str = "vw"
    start_ms: int | None = None
    fields: dict[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = ("event_id", "user_id", "item_id", "ts", "domain", "type")
        object.__setattr__(self, "fields", {space: name for name in names for space in getattr(self, name)})


class _UnusableError(ValueError):
    """Why a line is no event."""


def vw_rows(
    blob: bytes, offset: int, terminated: bool, path: str, mapping: VwMapping
) -> tuple[Rows, tuple[Reject, ...]]:
    """The lines of a text whose first byte is byte `offset` of its file, as rows, and those that are none as rejects.

    >>> text = b"1 '1700000000|user u7 |genre war drama |movie year:1999\\n-1 |genre war\\n"
    >>> rows, refused = vw_rows(text, 0, True, "a.vw", VwMapping())
    >>> rows.rows[0]["type"], rows.rows[0]["ts"], rows.rows[0]["features"]
    ('click', 1700000000000, {'genre': ['war', 'drama'], 'movie.year': 1999.0})
    >>> refused[0].offset, refused[0].reason[:25]
    (56, 'ts: a line has no time: g')
    """
    rows: list[Row] = []
    offsets: list[int] = []
    raws: list[bytes] = []
    rejects: list[Reject] = []
    lines = blob.split(b"\n")
    for number, line in enumerate(lines, start=1):
        raw = line.rstrip(b"\r")
        if raw.strip():
            try:
                rows.append(vw_row(raw.decode(), offset, path, mapping))
            except ValueError as error:
                cut = "" if terminated or number < len(lines) else "truncated last line: "
                rejects.append(reject(cut + _reason(raw, error), path, offset, raw))
            else:
                offsets.append(offset)
                raws.append(raw)
        offset += len(line) + 1
    return Rows(rows, offsets, raws, terminated), tuple(rejects)


def _reason(raw: bytes, error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte {raw[error.start]:#04x} at {error.start}"
    return str(error)


def vw_row(line: str, offset: int, path: str, mapping: VwMapping) -> Row:
    """The fields of the event that a line at a byte offset of a file spells.

    Raises
    ------
    ValueError
        When the line has no label or no time that can be read, or a namespace is both words and a nameless number.
    """
    head, *spaces = line.split("|")
    label, tag = _head(head, bool(spaces))
    row: Row = {"type": "click" if label > 0 else "impression", "user_id": UNKNOWN, "item_id": UNKNOWN}
    row["domain"] = mapping.default_domain
    features: dict[str, object] = {}
    fields = mapping.fields
    for space in spaces:
        tokens = space.split()
        name, scale = "", ""
        if not space[:1].isspace() and tokens:
            name = tokens.pop(0)
            if ":" in name:
                name, _, scale = name.partition(":")
        if name in fields:
            row[fields[name]] = " ".join(tokens).removeprefix(":")
        elif ":" in space or name in mapping.numbers:
            _add_features(features, name, _number(scale, "scale") if scale else 1.0, tokens, mapping)
        elif len(tokens) == 1 and name and name not in features:
            features[name] = tokens[0]
        else:
            _add_words(features, name or NO_NAMESPACE, tokens)
    if features:
        row["features"] = features
    row["ts"] = _time(row.get("ts"), tag, offset, mapping)
    if "event_id" not in row:
        row["event_id"] = _id(path, offset)
    return row


def _head(head: str, has_features: bool) -> tuple[float, str]:
    """Label, NaN for none, and tag of what stands before the first bar."""
    words = head.split()
    tag = ""
    if words and (words[-1].startswith("'") or (has_features and not head[-1].isspace())):
        tag = words.pop().removeprefix("'")
    if not words:
        return math.nan, tag
    if len(words) > 3:
        raise _UnusableError(
            f"label: expected at most label, importance and base before the first bar, got {head[:64]!r}"
        )
    label, *_ = [_number(word, "label") for word in words]
    return label, tag


def _number(text: str, what: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise _UnusableError(f"{what}: expected a number, got {text[:64]!r}") from None


def _add_words(features: dict[str, object], name: str, words: Sequence[str]) -> None:
    """One word is a text, several are a list, in the order of the line."""
    if not words:
        return
    given = features.get(name)
    if given is None:
        features[name] = words[0] if len(words) == 1 else list(words)
    elif isinstance(given, float):
        raise _UnusableError(f"namespace {name[:64]!r}: expected words or a number, got both")
    else:
        features[name] = [*(given if isinstance(given, list) else [given]), *words]


def _add_features(
    features: dict[str, object], name: str, scale: float, tokens: Sequence[str], mapping: VwMapping
) -> None:
    for token in tokens:
        word, colon, value = token.partition(":")
        if not colon and name in mapping.numbers:
            word, value = "", word
        elif not colon:
            _add_words(features, name or NO_NAMESPACE, [word])
            continue
        feature = f"{name}.{word}" if name and word else name or word or NO_NAMESPACE
        try:
            number = float(value) * scale
        except ValueError:
            _add_words(features, feature, [value])
            continue
        if isinstance(features.get(feature), str | list):
            raise _UnusableError(f"namespace {name[:64]!r}: expected words or a number, got both")
        features[feature] = number


def _time(given: object, tag: str, offset: int, mapping: VwMapping) -> int | str:
    """Epoch ms of a line, or the text that the event contract reads as a time."""
    text = str(given) if given is not None else tag if _is_whole(tag) else ""
    if not text:
        if mapping.start_ms is None:
            raise _UnusableError(_NO_TIME)
        return mapping.start_ms + offset
    try:
        number = int(text) if _is_whole(text) else float(text)
    except ValueError:
        return text
    if not math.isfinite(number):
        raise _UnusableError(f"ts: expected a finite number, got {text[:64]}")
    return round(number * 1000) if abs(number) < _FIRST_MILLISECONDS else round(number)


def _is_whole(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20


def _id(path: str, offset: int) -> str:
    """The UUID (version 5) of a line: `uuid.uuid5` of its path and offset, without the objects."""
    digest = hashlib.sha1(_IDS.bytes + f"{path}:{offset}".encode(), usedforsecurity=False).hexdigest()
    variant = "89ab"[int(digest[16], 16) & 3]
    return f"{digest[:8]}-{digest[8:12]}-5{digest[13:16]}-{variant}{digest[17:20]}-{digest[20:32]}"
