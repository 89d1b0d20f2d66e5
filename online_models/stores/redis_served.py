"""What readers have said of their requests of one rollout, as the fields of a hash: {reader}|{stage}|{variant} -> JSON `Served`.

A reader's field holds its sums since it began: a repeated write changes nothing, and the sum over all fields counts the readers
that are gone too. A field that nobody can read counts as nothing: one reader's must not silence what all others say.
"""

import logging
from collections.abc import Iterator, Mapping
from functools import reduce
from typing import Any, Final

import msgspec

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Served

log: Final = logging.getLogger(__name__)

Key = tuple[int, str]
"""Stage, variant."""


def encode(reader_id: str, served: Mapping[Key, Served]) -> dict[str, bytes]:
    """The fields of one reader.

    >>> encode("host|1", {(2, "canary"): Served(requests=3)}).keys()
    dict_keys(['host|1|2|canary'])
    """
    return {f"{reader_id}|{stage}|{variant}": msgspec.json.encode(each) for (stage, variant), each in served.items()}


def summed(fields: Mapping[bytes, bytes], key: str, told: set[tuple[str, bytes]]) -> dict[Key, Served]:
    """The sums over readers of a hash, by stage and variant.

    told : fields by their hash's `key` that were said to be unreadable; grows, so that each is said once

    >>> fields = {**encode("a", {(0, "stable"): Served(requests=3)}), **encode("b", {(0, "stable"): Served(requests=4)})}
    >>> summed({name.encode(): raw for name, raw in fields.items()}, "key", set())[0, "stable"].requests
    7
    """
    parts: dict[Key, list[Served]] = {}
    for field, raw in fields.items():
        try:
            _, stage, variant = field.decode().rsplit("|", 2)
            parts.setdefault((int(stage), variant), []).append(_decoded(raw))
        except (ValueError, msgspec.DecodeError) as error:  # of UTF-8, of a field's parts, of a stage, of JSON
            if (key, field) not in told:
                told.add((key, field))
                log.error("served_unreadable key=%s field=%r error=%s", key, field, error)
    return {variant: reduce(_added, of_readers) for variant, of_readers in parts.items()}


def _decoded(raw: bytes) -> Served:
    """Of another release's buckets, which cannot be added, the latencies count as nothing. Raises ValueError, DecodeError."""
    served = msgspec.json.decode(raw, type=Served)
    if min(_numbers(served)) < 0:
        raise ValueError("expected sums from 0 on")
    if len(served.latency) != len(LATENCY_EDGES_MS) + 1:
        return msgspec.structs.replace(served, latency=Served().latency)
    return served


def _numbers(served: Served) -> Iterator[float]:
    for each in msgspec.structs.astuple(served):
        yield from each if isinstance(each, tuple) else (each,)


def _added(one: Served, other: Served) -> Served:
    fields = (name for name in Served.__struct_fields__ if name != "latency")
    sums: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in fields}
    return Served(**sums, latency=tuple(map(int.__add__, one.latency, other.latency)))
