"""What new users say they like, and lists made before anybody asks: JSON that the API keeps in Redis for itself."""

import msgspec


class Preferences(msgspec.Struct, frozen=True):
    """What a user has said to like in one domain: item ids and category names, as sent; `ts_ms` is when, epoch milliseconds.

    >>> msgspec.json.encode(Preferences(("318",), ("Drama",), 5))
    b'{"items":["318"],"categories":["Drama"],"ts_ms":5}'
    """

    items: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    ts_ms: int = 0

    def __bool__(self) -> bool:
        return bool(self.items or self.categories)


NO_PREFERENCES = Preferences()


class PrecomputedList(msgspec.Struct, frozen=True):
    """A user's best items by one version, best first, as of `ts_ms` (epoch milliseconds).

    scores : of the ranking; null where no model placed the item
    """

    ts_ms: int
    items: list[str]
    scores: list[float | None]
