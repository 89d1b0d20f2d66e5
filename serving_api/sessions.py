"""Pages of one list: it is ranked once, kept under its request's id, and every page is cut from it.

- So no item is on two pages and nothing moves between them, whatever the stream learns meanwhile, and any worker can give
  any page.
- All pages are one request: they share its id, its version and its arm, and their positions go on.
- A page asked for twice has the same impressions, id by id, and the stream counts them once.
"""

import re
from typing import Final, NamedTuple, Self

import msgspec

from online_models.contracts.ids import UserId
from online_models.contracts.rollouts import Variant
from online_models.errors import StoreError
from serving_api.ranking import RankedItem

_TOKEN: Final = re.compile(r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.([1-9][0-9]{0,4})", re.ASCII)


class Session(msgspec.Struct, frozen=True, gc=False):
    """A ranked list, best first, and what its answer said of it; `language_model` names whose scores its items carry.

    arm_propensity : how likely the user was to be in their arm, where users are split
    asked_variant, asked_version : the arm that it counts for where another answered, in a stage that shows arms to people
    """

    user_id: UserId
    model_version: str | None
    variant: Variant
    source: str
    rollout_id: int | None
    stage: int
    weight_bp: int
    degraded: bool
    items: list[RankedItem]
    language_model: str | None = None
    arm_propensity: float | None = None
    asked_variant: Variant | None = None
    asked_version: str | None = None


class PageToken(NamedTuple):
    """Where a list goes on: the request it belongs to, and how many of its items have been shown.

    >>> PageToken.parse("0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e.10")
    PageToken(request_id='0a6b1c52-6df3-4a3e-9a3e-6a8a4d1f0f0e', offset=10)
    """

    request_id: str
    offset: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From what an answer carried. Raises ValueError for anything else."""
        found = _TOKEN.fullmatch(text)
        if found is None:
            raise ValueError("expected the page_token of an answer, as it came")
        return cls(found[1], int(found[2]))

    def __str__(self) -> str:
        return f"{self.request_id}.{self.offset}"


encode: Final = msgspec.json.Encoder().encode

_decode: Final = msgspec.json.Decoder(Session).decode


def decoded(raw: bytes) -> Session:
    """A session as kept. Raises StoreError when it is torn."""
    try:
        return _decode(raw)
    except msgspec.DecodeError as error:
        raise StoreError(f"a session: {error}") from error
