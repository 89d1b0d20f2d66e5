"""How often a canary's gates are wrong, and how soon right: rollouts simulated through the functions that judge real ones.

- A/A: canary and stable are one model, so each rollback is false. Fixed schedules without end show the harm test alone, beside a
  z-test that is peeked at and beside the same test with counts pooled over the stages; whole rollouts go through all gates, stage
  by stage as their verdicts let them.
- Looked at on every tick: the gates see each of 100 more users on the canary, in whole rollouts each of 1,000 more users.
- Worlds: everybody comes once; or people come again and again, with rates of their own and sticky buckets. Of 40,000 of whom 1 %
  come between two looks 18, 15, 12, 10 and 8 % are met for the first time in one stage after the other. Of 2,000 of whom 10 %
  come 88 % are met in the first, at 5 %: the harm test, which counts first exposures, has little to go by after it, so that its
  few false alarms there say little, and losses are left to the collapse and to the proof of the margin. How often it catches one
  is printed for both.
- `+-` is one standard error of the simulation.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np

from benchmarks.canary_batches import Ends, run
from benchmarks.canary_worlds import F64, I64, Fresh, Mask, Returning, World
from benchmarks.estimates import Estimate
from benchmarks.report import Machine, Target, result, table
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Plan, Policy
from serving_api.analysis.e_values import log_harm, log_limit, log_split
from serving_api.rollouts.ramp import Pace, ramp

RUNS: Final = 2_000
AT_ONCE: Final = 500
"""Rollouts in memory together."""

CTR: Final = 0.05
LOOK: Final = 100
"""More users on the canary, from one look to the next."""

POLICY: Final = Policy()
DRIFT: Final = (1.2, 1.0, 0.9, 1.0, 1.1)
"""Base rate of each stage, relative to the world's."""

PEEKED_Z: Final = -1.645


class People(NamedTuple):
    """How many come again and again, and the share of them that makes a request between two looks."""

    number: int
    active: float


PEOPLE: Final = {"returning users": People(40_000, 0.01), "few returning users": People(2_000, 0.1)}

PERCENTS: Final = (5, 25, 50, 75, 100)
HOLDBACK_BP: Final = 200
PACE: Final = Pace(
    shadow_requests=0, min_users=20, min_stable_users=10, min_seconds=0.0, max_seconds=math.inf, bake_seconds=20.0
)


def plan_of(margin: float, policy: Policy) -> Plan:
    """What the controller begins, without the shadow: stages of one look at least, the bake of 20, and as few users as tell."""
    return Plan(ramp(PERCENTS, HOLDBACK_BP, margin, PACE), policy)


WEIGHTS_BP: Final = tuple(stage.weight_bp for stage in plan_of(POLICY.margin, POLICY).stages)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    machine, rng, runs = Machine.here(), np.random.default_rng(options.seed), options.runs
    figures: dict[str, Estimate] = {}
    print(f"{runs:,} rollouts a line; harm alpha {POLICY.harm_alpha:.1%}, of the tests together {POLICY.alpha:.1%}")
    figures |= false_alarms(rng, runs)
    figures |= catches(rng, runs)
    figures |= catches_among_returning(rng, runs)
    figures |= whole_rollouts(rng, runs)
    figures |= splits(rng, runs)
    flat = {name: each.value for name, each in figures.items()}
    flat |= {f"{name}, standard error": each.error for name, each in figures.items()}
    print(result("canary_error_rates", machine, flat, targets(figures)))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks canary_error_rates",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m benchmarks canary_error_rates --seed 1",
    )
    found.add_argument("--runs", type=int, default=RUNS, metavar="N", help="simulated rollouts of each line")
    found.add_argument("--seed", type=int, default=0)
    return found


def targets(figures: dict[str, Estimate]) -> list[Target]:
    """What the figures should be."""
    at_most = {
        "A/A fixed at 5/95: rolled back": 0.03,
        "A/A drifting over the stages: rolled back": 0.03,
        "A/A returning users: rolled back": 0.03,
        "equal, all gates, drifting: rolled back": 0.03,
        "equal, all gates, 3,000 returning, margin 10%: rolled back": 0.03,
        "-10%: median canary users": 15_000,
        "-50%: median canary users": 1_800,
        "at the margin, all gates, drifting: promoted": 0.05,
        "at the margin, no harm test, drifting: promoted": 0.05,
        "at the margin, no harm test, 3,000 returning, margin 10%: promoted": 0.05,
        "at the margin, no harm test, 600 returning, margin 10%: promoted": 0.05,
        "at the margin, no harm test, 600 returning, margin 20%: promoted": 0.05,
        "split of 5%: alarmed": 0.005,
    }
    at_least = {"equal, all gates, drifting: promoted": 0.9, "split of 4.5%: alarmed": 0.95}
    return [Target(name, figures[name].value, at_most=bound) for name, bound in at_most.items()] + [
        Target(name, figures[name].value, at_least=bound) for name, bound in at_least.items()
    ]


def batches(runs: int) -> list[int]:
    """Sizes of the batches that so many rollouts are simulated in.

    >>> batches(1_200)
    [500, 500, 200]
    """
    return [min(AT_ONCE, runs - begin) for begin in range(0, runs, AT_ONCE)]


# --- the harm test alone, on schedules without end ----------------------------------------------------


@dataclass(frozen=True)
class Alarms:
    """Which rollouts (runs,) were ever rolled back, by which test."""

    ours: Mask
    peeked: Mask
    pooled: Mask


def false_alarms(rng: np.random.Generator, runs: int) -> dict[str, Estimate]:
    """A/A, rolled back by ours, by a peeked z-test and by pooled counts."""
    shares = [weight / FULL_WEIGHT_BP for weight in WEIGHTS_BP]
    lines: dict[str, Callable[[int], Alarms]] = {
        "A/A fixed at 5/95": lambda n: scheduled(Fresh(rng, n, 20 * LOOK, CTR, 1.0), n, [0.05], [1.0], 400),
        "A/A drifting over the stages": lambda n: scheduled(Fresh(rng, n, 20 * LOOK, CTR, 1.0), n, shares, DRIFT, 40),
        **{f"A/A {name}": partial(returning, rng, of=of, ratio=1.0) for name, of in PEOPLE.items()},
    }
    figures, rows = dict[str, Estimate](), [["", "rolled back", "z-test, peeked at", "pooled over the stages"]]
    for name, line in lines.items():
        parts = [line(n) for n in batches(runs)]
        found = [Estimate.share(np.concatenate([getattr(part, test) for part in parts])) for test in vars(parts[0])]
        keys = ("rolled back", "rolled back by a peeked z-test", "rolled back by pooled counts")
        figures |= {f"{name}: {key}": each for key, each in zip(keys, found, strict=True)}
        rows.append([name, *(each.percent() for each in found)])
    print(table(rows))
    return figures


def returning(rng: np.random.Generator, runs: int, of: People, ratio: float) -> Alarms:
    """Rollouts among people who come again, of a canary with so many times stable's rates."""
    shares = [weight / FULL_WEIGHT_BP for weight in WEIGHTS_BP]
    return scheduled(Returning(rng, runs, of.number, of.active, 0.2, ratio, 4.0), runs, shares, DRIFT, 20)


def scheduled(world: World, runs: int, shares: Sequence[float], bases: Sequence[float], looks: int) -> Alarms:
    """Rollouts through stages of so many looks each, nobody promoted and nobody stopped."""
    alarms = Alarms(*np.zeros((3, runs), np.bool_))
    users, successes = np.zeros((2, runs, len(shares), 2), np.int64)
    for stage, (share, base) in enumerate(zip(shares, bases, strict=True)):
        tried = np.zeros((runs, 2, 2), np.int64)  # trials and hits of the stage
        for _ in range(looks):
            look = world.look(np.full(runs, share), np.full(runs, base))
            users[:, stage] += look.users
            successes[:, stage] += look.successes
            tried += np.stack([look.trials.sum(axis=-1), look.hits.sum(axis=-1)], axis=1)
            alarms.ours[:] |= harmful(successes, np.array(shares))
            alarms.peeked[:] |= peeked(*np.moveaxis(tried, 1, 0))
            pooled_share = users[..., 0].sum(axis=1) / np.maximum(users.sum(axis=(1, 2)), 1)
            alarms.pooled[:] |= harmful(successes.sum(axis=1, keepdims=True), pooled_share[:, None])
    return alarms


def harmful(successes: I64, share: F64) -> Mask:
    """By our test, of successes (runs, stages, 2)."""
    log_e = log_harm(successes[..., 0], successes[..., 1], share, POLICY.tolerated_harm, POLICY.smallest_effect)
    found: Mask = log_e >= log_limit(POLICY.harm_alpha)
    return found


def peeked(trials: I64, hits: I64) -> Mask:
    """By a z-test of two proportions, of all requests (runs, 2) of the stage, at 5 % each time."""
    n = np.maximum(trials, 1)
    rates, all_of = hits / n, hits.sum(axis=-1) / n.sum(axis=-1)
    spread = np.sqrt(all_of * (1.0 - all_of) * (1.0 / n).sum(axis=-1))
    z = np.divide(
        rates[:, 0] - rates[:, 1], spread, out=np.zeros(len(n)), where=(spread > 0) & (trials > 0).all(axis=-1)
    )
    found: Mask = z < PEEKED_Z
    return found


# --- how soon a loss is found -------------------------------------------------------------------------


def catches(rng: np.random.Generator, runs: int) -> dict[str, Estimate]:
    """Canary users at 5/95 until a loss is evidence of harm."""
    figures, rows = dict[str, Estimate](), [["loss", "median canary users", "80 % by"]]
    for loss, looks in ((0.05, 2_500), (0.1, 800), (0.2, 250), (0.5, 60)):
        found = np.concatenate([caught(rng, n, loss, looks) for n in batches(runs)])
        median, later = Estimate.quantile(found, 0.5), Estimate.quantile(found, 0.8)
        figures |= {f"-{loss:.0%}: median canary users": median, f"-{loss:.0%}: 80% caught by canary users": later}
        rows.append([f"-{loss:.0%}", median.users(), later.users()])
    print(table(rows))
    return figures


def catches_among_returning(rng: np.random.Generator, runs: int) -> dict[str, Estimate]:
    """How often the harm test alone finds a loss within 20 looks of each stage."""
    figures, rows = dict[str, Estimate](), [["loss", *PEOPLE]]
    for loss in (0.1, 0.2, 0.5):
        found = {
            name: Estimate.share(np.concatenate([returning(rng, n, of, 1.0 - loss).ours for n in batches(runs)]))
            for name, of in PEOPLE.items()
        }
        figures |= {f"-{loss:.0%}, {name}: caught": each for name, each in found.items()}
        rows.append([f"-{loss:.0%}", *(each.percent() for each in found.values())])
    print(table(rows))
    return figures


def caught(rng: np.random.Generator, runs: int, loss: float, looks: int) -> F64:
    """Canary users (runs,) at the first look at which the harm test fails the rollout; infinite where none does."""
    canary = rng.binomial(LOOK, CTR * (1.0 - loss), (runs, looks)).cumsum(axis=1)
    stable = rng.binomial(19 * LOOK, CTR, (runs, looks)).cumsum(axis=1)
    return first(harmful(np.stack([canary, stable], axis=-1)[..., None, :], np.array([0.05]))) * LOOK


def first(found: Mask) -> F64:
    """Number of the first look, from 1, of (runs, looks).

    >>> first(np.array([[False, True], [False, False]])).tolist()
    [2.0, inf]
    """
    return np.where(found.any(axis=1), found.argmax(axis=1) + 1.0, np.inf)


# --- whole rollouts through all gates -----------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """Whole rollouts of one kind: the world they are in, the plan they follow, the looks they may take."""

    name: str
    world: Callable[[int], World]
    plan: Plan
    looks: int


def kinds(rng: np.random.Generator) -> list[Line]:
    """Equal canaries, and ones exactly at the margin, these also without the test that finds them harmful."""
    blind = msgspec.structs.replace(POLICY, harm_alpha=1e-300, collapse_alpha=1e-300)

    def fresh(name: str, ratio: float, policy: Policy) -> Line:
        plan = plan_of(POLICY.margin, policy)
        return Line(f"{name}, drifting", lambda n: Fresh(rng, n, 1_000, CTR, ratio), plan, 400)

    def returning(name: str, users: int, margin: float, at_margin: bool, policy: Policy) -> Line:
        ratio, full = 1.0 - margin * at_margin, f"{name}, {users:,} returning, margin {margin:.0%}"
        return Line(full, lambda n: Returning(rng, n, users, 0.1, 0.4, ratio, 4.0), plan_of(margin, policy), 150)

    return [
        fresh("equal, all gates", 1.0, POLICY),
        fresh("at the margin, all gates", 1.0 - POLICY.margin, POLICY),
        fresh("at the margin, no harm test", 1.0 - POLICY.margin, blind),
        *(
            returning(name, users, margin, at_margin, policy)
            for users, margin in ((3_000, 0.1), (600, 0.1), (600, 0.2))
            for name, at_margin, policy in (
                ("equal, all gates", False, POLICY),
                ("at the margin, no harm test", True, blind),
            )
        ),
    ]


def whole_rollouts(rng: np.random.Generator, runs: int) -> dict[str, Estimate]:
    """From 5 % to everybody, as the verdicts let them."""
    figures: dict[str, Estimate] = {}
    rows = [["", "promoted", "rolled back", "still open", "split alarms", "requests, median", "90 %"]]
    for line in kinds(rng):
        parts = [run(line.world(n), n, line.plan, DRIFT, line.looks) for n in batches(runs)]
        figures |= told(line.name, joined(parts), rows)
    print(table(rows))
    return figures


def joined(parts: Sequence[Ends]) -> Ends:
    """Batches as one."""
    return Ends(*(np.concatenate([getattr(part, name) for part in parts]) for name in vars(parts[0])))


def told(name: str, ends: Ends, rows: list[list[str]]) -> dict[str, Estimate]:
    promoted, rolled_back = Estimate.share(ends.promoted), Estimate.share(ends.rolled_back)
    split = Estimate.share(ends.split)
    still_open = Estimate.share(~(ends.promoted | ends.rolled_back))
    figures = {
        f"{name}: promoted": promoted,
        f"{name}: rolled back": rolled_back,
        f"{name}: ever a split alarm": split,
        f"{name}: median requests": Estimate.quantile(ends.requests.astype(np.float64), 0.5),
        f"{name}: 90% by requests": Estimate.quantile(ends.requests.astype(np.float64), 0.9),
    }
    shares = [each.percent() for each in (promoted, rolled_back, still_open, split)]
    rows.append([name, *shares, *(each.users() for each in list(figures.values())[-2:])])
    return figures


# --- the split ----------------------------------------------------------------------------------------


def splits(rng: np.random.Generator, runs: int) -> dict[str, Estimate]:
    """Users at a weight of 5 % until the split is called wrong."""
    figures, rows = dict[str, Estimate](), [["on the canary", "alarmed within 200,000 users", "median users"]]
    for share in (0.05, 0.045):
        found = np.concatenate([alarmed(rng, n, share) for n in batches(runs)])
        alarms, median = Estimate.share(np.isfinite(found)), Estimate.quantile(found, 0.5)
        figures |= {f"split of {share:.1%}: alarmed".replace(".0%", "%"): alarms}
        if share < 0.05:
            figures |= {f"split of {share:.1%}: median users": median}
        rows.append([f"{share:.1%}", alarms.percent(), median.users()])
    print(table(rows))
    return figures


def alarmed(rng: np.random.Generator, runs: int, share: float, looks: int = 200, per_look: int = 1_000) -> F64:
    """Users (runs,) at the first look with a split alarm at a weight of 5 %."""
    canary = rng.binomial(per_look, share, (runs, looks)).cumsum(axis=1)
    stable = per_look * np.arange(1, looks + 1) - canary
    log_e = log_split(canary[..., None], stable[..., None], np.array([0.05]))
    return first(log_e >= log_limit(POLICY.split_alpha)) * per_look
