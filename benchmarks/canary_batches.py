"""The gates of many simulated rollouts at once: the same functions as one rollout's verdict, over arrays.

A rollout goes through its plan as the controller would move it: every look is a tick, a stage that passes is followed by the
next, a failed gate ends it. `tests/unit/benchmarks/test_canary_error_rates.py` compares each tick with `verdicts.verdict`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.canary_worlds import F64, I64, Look, Mask, World
from online_models.contracts.rollouts import FULL_WEIGHT_BP, GROUPS, Plan
from serving_api.analysis.e_values import log_harm, log_limit, log_split
from serving_api.analysis.guardrails import NAMES, log_too_many
from serving_api.analysis.lift import Lift, half_width, lift, nothing, terms
from serving_api.analysis.measures import COLLAPSE_EFFECT, LEAST_GROUPS, LEAST_HITS


@dataclass
class Counts:
    """What rollouts have so far, by stage; the axis of 2 is the canary, stable.

    users, successes, stage_users : (runs, stages, 2); bad : (runs, stages, 2, len(NAMES))
    trials, hits : (runs, 2, GROUPS) of the current stage; past : (runs, 9, 1 + GROUPS), the terms of those before
    requests : (runs,), of all stages and both arms
    """

    users: I64
    successes: I64
    stage_users: I64
    bad: I64
    trials: I64
    hits: I64
    past: F64
    requests: I64

    @classmethod
    def none(cls, runs: int, stages: int) -> "Counts":
        shape = (runs, stages, 2)
        return cls(
            *(np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)),
            np.zeros((*shape, len(NAMES)), np.int64),
            *(np.zeros((runs, 2, GROUPS), np.int64), np.zeros((runs, 2, GROUPS), np.int64)),
            np.tile(nothing(GROUPS), (runs, 1, 1)),
            np.zeros(runs, np.int64),
        )

    def add(self, stage: I64, look: Look) -> None:
        at = (np.arange(len(stage)), stage)
        self.users[at] += look.users
        self.successes[at] += look.successes
        self.stage_users[at] += look.stage_users
        self.bad[at] += look.bad
        self.trials += look.trials
        self.hits += look.hits
        self.requests += look.trials.sum(axis=(1, 2))

    def next_stage(self, begins: Mask) -> None:
        self.past[begins] += terms(self.hits[begins], self.trials[begins])
        self.trials[begins] = self.hits[begins] = 0

    def keep(self, kept: Mask) -> None:
        for name, value in vars(self).items():
            setattr(self, name, value[kept])


@dataclass(frozen=True)
class Ticks:
    """What the gates say of rollouts (runs,) at one tick."""

    harm: Mask
    collapse: Mask
    guardrails: Mask
    split: Mask
    passes: Mask

    @property
    def fails(self) -> Mask:
        return self.collapse | self.guardrails | (self.harm & ~self.split)


def judged(counts: Counts, stage: I64, plan: Plan) -> Ticks:
    """One tick of rollouts in these stages (runs,) of a plan without shadow stages."""
    policy = plan.policy
    share = np.array([each.weight_bp / FULL_WEIGHT_BP for each in plan.stages])
    (won_c, won_b), (users_c, users_b) = (np.moveaxis(each, -1, 0) for each in (counts.successes, counts.users))
    harm = log_harm(won_c, won_b, share, policy.tolerated_harm, policy.smallest_effect)
    split = log_split(users_c, users_b, share) >= log_limit(policy.split_alpha)
    too_many = [log_too_many(counts.bad[..., row], counts.users, share, policy) for row in range(len(NAMES))]
    found = lift(counts.past + terms(counts.hits, counts.trials))
    enough = (found.groups >= LEAST_GROUPS) & (found.stable_hits >= LEAST_HITS)
    collapse = found.log_ratio + half_width(found, -np.log1p(-COLLAPSE_EFFECT), policy.collapse_alpha)
    return Ticks(
        harm >= log_limit(policy.harm_alpha),
        enough & (collapse < np.log(policy.collapse_ratio)),
        (np.max(too_many, axis=0) >= log_limit(policy.guardrail_alpha / len(NAMES))),
        split,
        ~split & _passes(counts, stage, plan, found, enough),
    )


def _passes(counts: Counts, stage: I64, plan: Plan, found: Lift, enough: Mask) -> Mask:
    margins = np.array([each.margin or np.nan for each in plan.stages])[stage]
    effect = np.where(np.isnan(margins), plan.policy.margin, margins)
    width, limit = half_width(found, -np.log1p(-effect), plan.policy.promote_alpha), np.log1p(-effect)
    trusted = enough & (found.canary_hits >= LEAST_HITS)
    proven = trusted & (found.log_ratio - width > limit)
    contradicted = trusted & (found.log_ratio + width < limit)
    needed = np.array([(max(each.min_users, 1), max(each.min_stable_users, 1)) for each in plan.stages])[stage]
    have = np.minimum(counts.stage_users[np.arange(len(stage)), stage], counts.trials.sum(axis=-1))
    served = (counts.users.sum(axis=1) > 0).all(axis=-1)
    passed: Mask = (have >= needed).all(axis=-1) & served & np.where(np.isnan(margins), ~contradicted, proven)
    return passed


@dataclass(frozen=True)
class Ends:
    """How rollouts (runs,) ended, and how many canary users had been exposed and requests made by then.

    promoted, harm, collapse, guardrails : bool; split : whether a split alarm ever was; none of the first: still open at the end
    """

    promoted: Mask
    harm: Mask
    collapse: Mask
    guardrails: Mask
    split: Mask
    canary_users: I64
    requests: I64

    @property
    def rolled_back(self) -> Mask:
        return self.harm | self.collapse | self.guardrails


def run(world: World, runs: int, plan: Plan, bases: Sequence[float], looks: int) -> Ends:
    """Rollouts of a plan until all have ended, at most so many looks, each after a second; a stage's base rate is `bases` times
    the world's."""
    ends = Ends(*np.zeros((5, runs), np.bool_), *np.zeros((2, runs), np.int64))
    counts, stage, alive = Counts.none(runs, len(plan.stages)), np.zeros(runs, np.int64), np.arange(runs)
    shortest, lasted = np.array([each.min_seconds for each in plan.stages]), np.zeros(runs, np.int64)
    share, base = np.array([each.weight_bp / FULL_WEIGHT_BP for each in plan.stages]), np.array(bases)
    for _ in range(looks):
        counts.add(stage, world.look(share[stage], base[stage]))
        tick = judged(counts, stage, plan)
        lasted, last = lasted + 1, stage == len(plan.stages) - 1
        goes_on = tick.passes & ~tick.fails & (lasted >= shortest[stage])
        promoted, moves = goes_on & last, goes_on & ~last
        note(ends, alive, tick, promoted, counts)
        counts.next_stage(moves)
        world.next_stage(moves)
        stage, lasted = stage + moves, np.where(moves, 0, lasted)
        kept = ~(tick.fails | promoted)
        counts.keep(kept)
        world.keep(kept)
        stage, alive, lasted = stage[kept], alive[kept], lasted[kept]
        if not len(alive):
            break
    return ends


def note(ends: Ends, alive: I64, tick: Ticks, promoted: Mask, counts: Counts) -> None:
    """Write one tick of the rollouts still alive into their ends."""
    ends.promoted[alive] = promoted
    ends.harm[alive] = tick.harm & ~tick.split
    ends.collapse[alive], ends.guardrails[alive] = tick.collapse, tick.guardrails
    ends.split[alive] |= tick.split
    ends.canary_users[alive], ends.requests[alive] = counts.users[..., 0].sum(axis=1), counts.requests
