"""Redis keys: one function per key, with its type, TTL and single writer.

- `{model}` is a hash tag: all keys of one model share a slot, so that one batch's writes are one transaction.
- Binary values begin with an 8-byte little-endian event-time version (epoch ms), then the body.
"""

from online_models.contracts.ids import ModelName, ModelVersion


def user_vector(model: ModelName, version: ModelVersion, user_id: str) -> str:
    """String: 8-byte version + k float32. No TTL (dropped with the version). Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:u:{user_id}"


def new_items(model: ModelName, version: ModelVersion) -> str:
    """Hash item id -> 8-byte version + k float32, for items that came after the version was trained. Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:items"


def new_item_equations(model: ModelName, version: ModelVersion) -> str:
    """Hash item id -> float32 (k, k+1), the accumulated normal equations [A | b] of a new item. Writer: the flow."""
    return f"m:{{{model}}}:v:{version}:equations"


def history(model: ModelName, user_id: str) -> str:
    """String: a `UserHistory` (newest events and all seen items of a user). No TTL. Writer: the flow."""
    return f"m:{{{model}}}:history:{user_id}"


def popularity(model: ModelName) -> str:
    """Hash item id -> two float64 (decayed count, epoch ms it is decayed to). Writer: the flow."""
    return f"m:{{{model}}}:popularity"


def popular_items(model: ModelName) -> str:
    """String: JSON list of the most popular item ids, best first. Writer: the flow."""
    return f"m:{{{model}}}:popular"


def applied_position(model: ModelName, run_id: str, source: str) -> str:
    """String: decimal position up to which a run's source is applied to this model's keys. TTL 7 days. Writer: the flow."""
    return f"m:{{{model}}}:applied:{run_id}:{source}"


def route(model: ModelName) -> str:
    """Hash {epoch, document}: JSON `Route`, replaced only by a larger epoch (Lua). Writer: the rollout controller."""
    return f"m:{{{model}}}:route"


def reader_status(model: ModelName, version: ModelVersion, reader_id: str) -> str:
    """String: JSON `ReaderStatus`. TTL 15 s, renewed on every poll. Writer: that reader."""
    return f"m:{{{model}}}:ready:{version}:{reader_id}"


def readers(model: ModelName) -> str:
    """Sorted set reader id -> epoch seconds of its last sign of life, of the readers that serve the model. Writer: each reader
    its own member; members silent for a day are dropped by any."""
    return f"m:{{{model}}}:readers"
