"""What versions did, counted over all requests at once in plain loops: the oracle of variant windows, sums by group, and those
of what is in the shadow."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.contracts.rollouts import GROUPS, GroupedCounts, ShadowCounts, VariantWindow

DAY_MS = 86_400_000


@dataclass(frozen=True)
class Asked:
    """One request: when, who (hash), which arm, what it showed, and the answers (delay, item).

    version, variant : of the arm that the user is in
    stand_in : whether another answered; by : which version, None for popularity
    shadow : the version in the shadow; places : of items in its list, by item. Items are shown in their alphabet's order
    """

    name: str
    ts_ms: int
    user: int
    version: ModelVersion
    rollout: int
    stage: int
    variant: str
    items: frozenset[str]
    answers: tuple[tuple[int, str], ...]
    stand_in: bool = False
    by: ModelVersion | None = None
    shadow: ModelVersion | None = None
    places: tuple[tuple[str, int], ...] = ()

    def taken(self, attribution_ms: int) -> set[str]:
        return {item for delay, item in self.answers if delay <= attribution_ms and item in self.items}

    @property
    def arm(self) -> tuple[int, int, str, ModelVersion]:
        return (self.rollout, self.stage, self.variant, self.version)


class Plain:
    """All requests, in order of event time; each question is answered by going through those before."""

    def __init__(self, model: ModelName, asked: Sequence[Asked], attribution_ms: int, window_ms: int) -> None:
        self.model, self.attribution_ms, self.window_ms = model, attribution_ms, window_ms
        self.asked = sorted(asked, key=lambda each: (each.ts_ms, each.name))

    def current(self, at: int) -> bool:
        """Whether a request is of the newest two rollouts so far."""
        return self.asked[at].rollout in sorted({each.rollout for each in self.asked[: at + 1] if each.rollout})[-2:]

    def first(self, at: int) -> bool:
        me, before = self.asked[at], self.asked[:at]
        if me.rollout == 0:
            days = {(each.user, each.ts_ms // DAY_MS) for each in before if each.rollout == 0}
            return (me.user, me.ts_ms // DAY_MS) not in days
        return self.current(at) and (me.user, me.rollout) not in {(each.user, each.rollout) for each in before}

    def first_of_stage(self, at: int) -> bool:
        me, before = self.asked[at], self.asked[:at]
        if me.rollout == 0:
            return self.first(at)
        newest = sorted({each.stage for each in [*before, me] if each.rollout == me.rollout})[-2:]
        met = {(each.user, each.rollout, each.stage) for each in before}
        return self.current(at) and me.stage in newest and (me.user, me.rollout, me.stage) not in met

    def repeats(self, at: int) -> int:
        """Ordered pairs of the same item that a first exposure makes with those of the same arm before it."""
        me = self.asked[at]
        if me.rollout == 0 or not self.first(at):
            return 0
        others = [each for n, each in enumerate(self.asked[:at]) if each.arm == me.arm and self.first(n)]
        return sum(2 * len(me.items & other.items) for other in others)

    def windows(self) -> list[VariantWindow]:
        """Each window at the end, by first request."""
        keys = [(each.arm, each.ts_ms // self.window_ms * self.window_ms) for each in self.asked]
        return [
            self.window(start, [at for at, key in enumerate(keys) if key == (arm, start)])
            for arm, start in dict.fromkeys(keys)
        ]

    def window(self, start: int, places: Sequence[int]) -> VariantWindow:
        requests = [self.asked[at] for at in places]
        taken = [each.taken(self.attribution_ms) for each in requests]
        rollout, stage, variant, version = requests[0].arm
        return VariantWindow(
            *(self.model, version, rollout, stage, start, start + self.window_ms),
            users=sum(map(self.first, places)),
            successes=sum(self.first(at) and bool(took) for at, took in zip(places, taken, strict=True)),
            requests=len(requests),
            hits=sum(map(bool, taken)),
            impressions=sum(len(each.items) for each in requests),
            clicks=sum(map(len, taken)),
            variant=variant,
            stage_users=sum(map(self.first_of_stage, places)),
            first_items=sum(len(self.asked[at].items) for at in places if rollout and self.first(at)),
            repeats=sum(map(self.repeats, places)),
        )

    def groups(self) -> list[GroupedCounts]:
        """Each sum by group at the end, by first request."""
        counted = [
            each
            for at, each in enumerate(self.asked)
            if each.rollout > 0 and self.current(at) and each.variant in ("stable", "canary", "arm")
        ]
        return [
            self.group([each for each in counted if each.arm == arm]) for arm in dict.fromkeys(e.arm for e in counted)
        ]

    def group(self, requests: Sequence[Asked]) -> GroupedCounts:
        rollout, stage, variant, version = requests[0].arm
        counts = [[0] * GROUPS for _ in range(4)]
        for each in requests:
            taken = each.taken(self.attribution_ms)
            for row, count in zip(counts, (1, bool(taken), len(each.items), len(taken)), strict=True):
                row[each.user // 2**57] += count
        packed = struct.pack(f"<{4 * GROUPS}I", *(count for row in counts for count in row))
        return GroupedCounts(self.model, version, rollout, stage, variant, requests[0].ts_ms, packed)

    def shadows(self) -> list[ShadowCounts]:
        """What each version in the shadow would have shown where, by first request; nobody may be exposed by it."""
        counted = [each for each in self.asked if each.shadow is not None and each.rollout == 0 and each.stage >= 0]
        return [
            self.shadow(version, [each for each in counted if each.shadow == version])
            for version in dict.fromkeys(each.shadow for each in counted if each.shadow is not None)
        ]

    def shadow(self, version: ModelVersion, requests: Sequence[Asked]) -> ShadowCounts:
        shown, took = ([[0] * 61 for _ in range(20)] for _ in range(2))
        for each in requests:
            places, taken = dict(each.places), each.taken(self.attribution_ms)
            for position, item in enumerate(sorted(each.items)):
                place = places.get(item, 60)
                shown[position][place] += 1
                took[position][place] += item in taken
        flat = [count for table in (shown, took) for row in table for count in row]
        return ShadowCounts(self.model, version, requests[0].ts_ms, struct.pack(f"<{len(flat)}I", *flat))
