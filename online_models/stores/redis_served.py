"""What readers have said of their requests of one rollout, as the fields of a hash: {reader}|{stage}|{variant} -> JSON `Served`.

A reader's field holds its sums since it began: a repeated write changes nothing, and the sum over all fields counts the readers
that are gone too.
"""

from collections.abc import Mapping
from functools import reduce
from typing import Any

import msgspec

from online_models.contracts.rollouts import LATENCY_EDGES_MS, Served
from online_models.errors import StoreError

Key = tuple[int, str]
"""Stage, variant."""


def encode(reader_id: str, served: Mapping[Key, Served]) -> dict[str, bytes]:
    """The fields of one reader.

    >>> encode("host|1", {(2, "canary"): Served(requests=3)}).keys()
    dict_keys(['host|1|2|canary'])
    """
    return {f"{reader_id}|{stage}|{variant}": msgspec.json.encode(each) for (stage, variant), each in served.items()}


def summed(fields: Mapping[bytes, bytes], key: str) -> dict[Key, Served]:
    """The sums over readers of a hash, by stage and variant. Raises StoreError when a field of the hash `key` is torn.

    >>> fields = {**encode("a", {(0, "stable"): Served(requests=3)}), **encode("b", {(0, "stable"): Served(requests=4)})}
    >>> summed({name.encode(): raw for name, raw in fields.items()}, "key")[0, "stable"].requests
    7
    """
    parts: dict[Key, list[Served]] = {}
    for field, raw in fields.items():
        try:
            _, stage, variant = field.decode().rsplit("|", 2)
            parts.setdefault((int(stage), variant), []).append(_decoded(raw))
        except (ValueError, msgspec.DecodeError) as error:  # of UTF-8, of a field's parts, of a stage, of JSON
            raise StoreError(f"{key}: expected Served by reader, stage and variant, got {field!r}: {error}") from error
    return {variant: reduce(_added, of_readers) for variant, of_readers in parts.items()}


def _decoded(raw: bytes) -> Served:
    served = msgspec.json.decode(raw, type=Served)
    if len(served.latency) != len(LATENCY_EDGES_MS) + 1:
        raise ValueError(f"latency: expected {len(LATENCY_EDGES_MS) + 1} buckets, got {len(served.latency)}")
    return served


def _added(one: Served, other: Served) -> Served:
    fields = (name for name in Served.__struct_fields__ if name != "latency")
    sums: dict[str, Any] = {name: getattr(one, name) + getattr(other, name) for name in fields}
    return Served(**sums, latency=tuple(map(int.__add__, one.latency, other.latency)))
