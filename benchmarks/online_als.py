"""Online ALS: how fast users and items are learned beside implicit, to the same vectors, and how soon an event can be served.

- A seeded world of tastes: items in groups, users who like three of them. Item factors are trained by implicit on other users;
  then new users, of about ten events each, are folded in by all, and the item that they meet next is looked for.
- All in this process on one thread, in turn, by CPU time; implicit's YtY and our Ridge are made beforehand. Medians.
- The latency part is a real `flows run` (`event_latency`), offered each rate several times.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from implicit.cpu.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from benchmarks.event_latency import Latencies, latencies
from benchmarks.report import Machine, Target, result, table
from online_models import als
from online_models.item_updates import UserBasis, moved_items, solve_items, trained_equations, with_events
from online_models.recency import Confidences
from online_models.ridge import Ridge

F32 = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

FACTORS: Final = 64
GROUPS: Final = 100
LIKED: Final = 3
LOYALTY: Final = 0.9
POPULARITY: Final = 1.0
"""Within its group the n-th item is met n^-1 as often as the first."""

EVENTS: Final = 10.0
TRAINING_ITERATIONS: Final = 10
HOW: Final = als.FoldIn(alpha=2.0, regularization=1.0, half_life_events=10.0)
STEPS: Final = 2
CUTOFF: Final = 10
CHECKED: Final = 500
ITEM_EVENTS: Final = 4_000
TOUCHED: Final = 500
RATES: Final = (1_000, 10_000, 50_000)

IMPLICIT, IMPLICIT_SINGLE = "implicit, batch", "implicit, one by one"
EXACT, WITHOUT_RIDGE, SINGLE = "exact, batch", "exact without a ridge, batch", "exact, one by one"
BEFORE = "the vector before, left as it was"
WARM, FROM_ZEROS = f"{STEPS} steps from the vector before, batch", f"{STEPS + 1} steps from zeros, batch"


@dataclass(frozen=True, slots=True)
class World:
    """Trained factors and users to fold in.

    item_factors : (items, k); user_factors : (trained users, k)
    entries : what each new user has met; before : the same without their newest event
    target : int64 (users,), the item that they meet next
    """

    item_factors: F32
    user_factors: F32
    entries: Confidences
    before: Confidences
    target: Rows


def main(arguments: Sequence[str]) -> int:
    """Measure and print; 1 when a vector is not that of the dense solution."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    with threadpool_limits(1):
        world = drawn(options.users, options.items, options.seed)
        figures = folded(world, options.runs) | moved(world, options.runs, options.seed)
    print(fold_in_table(figures))
    goals = fold_in_targets(figures)
    if not options.offline:
        found = latencies(sorted(options.rates * options.repeats), options.seconds, options.seed)
        print(latency_table(found))
        figures |= latency_figures(found)
        goals += latency_targets(figures)
    print(result("online_als", machine, figures, goals))
    return 0


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m benchmarks online_als",
        description="Users and items learned per second beside implicit, and the time from an event to a servable vector.",
        epilog="example: python -m benchmarks online_als --rates 1000 10000 --seconds 30",
    )
    top.add_argument("--users", type=int, default=4_000, metavar="N", help="users to fold in (default 4000)")
    top.add_argument("--items", type=int, default=20_000, metavar="N", help="items of the model (default 20000)")
    top.add_argument("--runs", type=int, default=9, metavar="N", help="runs to take the median of (default 9)")
    top.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the world (default 0)")
    top.add_argument("--rates", type=int, nargs="+", default=RATES, metavar="R", help="events per second to offer")
    top.add_argument("--seconds", type=float, default=10.0, metavar="T", help="how long each is offered (default 10)")
    top.add_argument("--repeats", type=int, default=3, metavar="N", help="how often each is offered (default 3)")
    top.add_argument("--offline", action="store_true", help="leave the latency out")
    return top


def drawn(users: int, items: int, seed: int) -> World:
    """The world of a seed: as many trained users as there are items, and `users` new ones."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(items) % GROUPS
    trained, _, _ = tastes(rng, items, group)
    confidence = csr_matrix((trained.confidence, trained.indices, trained.indptr), shape=(items, items))
    model = AlternatingLeastSquares(
        factors=FACTORS,
        regularization=HOW.regularization,
        alpha=1.0,
        iterations=TRAINING_ITERATIONS,
        random_state=seed,
        num_threads=1,
    )
    model.fit(confidence, show_progress=False)
    entries, before, target = tastes(rng, users, group)
    return World(np.ascontiguousarray(model.item_factors), model.user_factors, entries, before, target)


def tastes(rng: np.random.Generator, users: int, group: Rows) -> tuple[Confidences, Confidences, Rows]:
    """Users of about EVENTS distinct items, mostly popular ones of groups that they like.

    What they have met but for the last item, what they have met but for the last two, and the last one.
    """
    members = [np.flatnonzero(group == each) for each in range(GROUPS)]
    share = np.arange(1, 1 + max(map(len, members))) ** -POPULARITY
    rows: list[Rows] = []
    for count in 2 + rng.poisson(EVENTS - 1, users):
        draws = 4 * count
        which = rng.choice(GROUPS, LIKED, replace=False)[rng.integers(0, LIKED, draws)]
        which = np.where(rng.random(draws) < LOYALTY, which, rng.integers(0, GROUPS, draws))
        rank = rng.choice(len(share), draws, p=share / share.sum())
        met = np.array([members[each][at % len(members[each])] for each, at in zip(which, rank, strict=True)])
        _, first = np.unique(met, return_index=True)
        rows.append(met[np.sort(first)[:count]])
    last = np.array([each[-1] for each in rows])
    return weighted([each[:-1] for each in rows]), weighted([each[:-2] for each in rows]), last


def weighted(rows: Sequence[Rows]) -> Confidences:
    """Items, each user's oldest first, as events of strength 1."""
    weights = [als.recency_weights(np.ones(len(each), np.float32), HOW.half_life_events) for each in rows]
    confidence = (1 + HOW.alpha * np.concatenate(weights)).astype(np.float32)
    return Confidences(np.cumsum([0, *map(len, rows)]), np.concatenate(rows), confidence)


def folded(world: World, runs: int) -> dict[str, float]:
    """Users per CPU second of each way, its hit rate, and how far vectors are from dense solves and implicit's."""
    ways, one_by_one = batches(world), singles(world)
    vectors = {name: way() for name, way in ways.items()}
    seconds = timed(ways | one_by_one, runs)
    users = len(world.target)
    done = dict.fromkeys(ways, users) | dict.fromkeys(one_by_one, min(users, CHECKED))
    figures: dict[str, float] = {
        f"{name}: users/s": round(done[name] / statistics.median(taken)) for name, taken in seconds.items()
    }
    figures |= {f"{name}: spread": round(max(taken) / min(taken), 2) for name, taken in seconds.items()}
    vectors[BEFORE] = als.fold_in(
        *world.before, world.item_factors, als.gramian(world.item_factors), HOW.regularization
    )
    figures |= {f"{name}: hit@{CUTOFF}": hit_rate(world, found) for name, found in vectors.items()}
    dense = dense_users(world, min(users, CHECKED))
    scale = float(np.abs(dense).max())
    for name in (EXACT, WITHOUT_RIDGE):
        figures[f"{name}: apart from implicit"] = float(np.abs(vectors[name] - vectors[IMPLICIT]).max()) / scale
    apart = [float(np.abs(vectors[name][: len(dense)] - dense).max()) / scale for name in (EXACT, WITHOUT_RIDGE)]
    return figures | {"exact: apart from the dense solution": max(apart)}


def batches(world: World) -> dict[str, Callable[[], F32]]:
    """Every way to fold all users in at once."""
    Y, reg, entries = world.item_factors, HOW.regularization, world.entries
    YtY, users = als.gramian(Y), len(world.target)
    ridge, zeros = Ridge.of(YtY, reg), np.zeros((users, FACTORS), np.float32)
    near = als.fold_in(*world.before, Y, YtY, reg, ridge)
    model, stored, ids = peer(world), as_csr(world), np.arange(users)
    return {
        IMPLICIT: lambda: np.asarray(model.recalculate_user(ids, stored), np.float32),
        EXACT: lambda: als.fold_in(*entries, Y, YtY, reg, ridge),
        WITHOUT_RIDGE: lambda: als.fold_in(*entries, Y, YtY, reg),
        WARM: lambda: als.warm_fold_in(*entries, Y, YtY, reg, near, STEPS, ridge),
        FROM_ZEROS: lambda: als.warm_fold_in(*entries, Y, YtY, reg, zeros, STEPS + 1, ridge),
    }


def singles(world: World) -> dict[str, Callable[[], object]]:
    """The first few users, a call for each."""
    Y, reg = world.item_factors, HOW.regularization
    YtY, model, stored = als.gramian(Y), peer(world), as_csr(world)
    ridge, users = Ridge.of(YtY, reg), range(min(len(world.target), CHECKED))
    theirs = [stored[user] for user in users]
    ours = [of_user(world.entries, user) for user in users]
    return {
        IMPLICIT_SINGLE: lambda: [model.recalculate_user(user, row) for user, row in zip(users, theirs, strict=True)],
        SINGLE: lambda: [als.fold_in(*row, Y, YtY, reg, ridge) for row in ours],
    }


def peer(world: World) -> AlternatingLeastSquares:
    """implicit with these item factors, its YtY made."""
    model = AlternatingLeastSquares(factors=FACTORS, regularization=HOW.regularization, alpha=1.0, num_threads=1)
    model.item_factors = world.item_factors
    assert model.YtY.shape == (FACTORS, FACTORS)
    return model


def as_csr(world: World) -> csr_matrix:
    indptr, indices, confidence = world.entries
    return csr_matrix((confidence, indices, indptr), shape=(len(world.target), len(world.item_factors)))


def of_user(entries: Confidences, user: int) -> Confidences:
    of = slice(entries.indptr[user], entries.indptr[user + 1])
    return Confidences(np.array([0, of.stop - of.start]), entries.indices[of], entries.confidence[of])


def dense_users(world: World, users: int) -> npt.NDArray[np.float64]:
    """(YtCY + lambda I)^-1 YtCp of the first users, in float64."""
    Y = world.item_factors.astype(np.float64)
    M = Y.T @ Y + HOW.regularization * np.eye(FACTORS)
    found = []
    for _, rows, c in (of_user(world.entries, user) for user in range(users)):
        found.append(np.linalg.solve(M + (Y[rows].T * (c - 1)) @ Y[rows], Y[rows].T @ c))
    return np.array(found)


def hit_rate(world: World, vectors: F32) -> float:
    """Share of users whose next item is among their best unseen ones."""
    hits = 0
    for user, vector in enumerate(vectors):
        _, seen, _ = of_user(world.entries, user)
        best = als.top_k(world.item_factors @ vector, CUTOFF, seen.astype(np.int64))
        hits += int(world.target[user] in best)
    return hits / len(vectors)


def moved(world: World, runs: int, seed: int) -> dict[str, float]:
    """Item events per CPU second: in full, with all touched items solved at the end, and in brief."""
    rng = np.random.default_rng(seed)
    X, Y, reg = world.user_factors, world.item_factors[:TOUCHED], HOW.regularization
    XtX, weights = als.gramian(X), rng.exponential(20.0, len(Y))
    prior, basis = trained_equations(Y, weights, len(X), XtX, reg), UserBasis.of(XtX, len(X), reg)
    item, c = rng.integers(0, len(Y), ITEM_EVENTS), np.full(ITEM_EVENTS, 3, np.float32)
    users = np.ascontiguousarray(X[rng.integers(0, len(X), ITEM_EVENTS)])
    ways: dict[str, Callable[[], object]] = {
        "items in full": lambda: solve_items(with_events(prior, item, c, users), XtX, reg),
        "items in brief": lambda: moved_items(Y, weights, item, c, users, basis),
    }
    seconds = timed(ways, runs)
    return {f"{name}: events/s": round(ITEM_EVENTS / statistics.median(taken)) for name, taken in seconds.items()}


def timed(ways: Mapping[str, Callable[[], object]], runs: int) -> dict[str, list[float]]:
    """CPU seconds of each run of each way, in turn; the first run of all is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(runs + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if run:
                seconds[name].append(time.process_time() - start)
    return seconds


def fold_in_table(figures: Mapping[str, float]) -> str:
    rows = [["way", "users/s", "times implicit's batch", "slowest / fastest", f"hit@{CUTOFF}"]]
    for name in (IMPLICIT, IMPLICIT_SINGLE, EXACT, WITHOUT_RIDGE, SINGLE, WARM, FROM_ZEROS):
        rate, hits = figures[f"{name}: users/s"], figures.get(f"{name}: hit@{CUTOFF}")
        times = rate / figures[f"{IMPLICIT}: users/s"]
        rows.append(
            [name, f"{rate:,.0f}", f"{times:.2f}", f"{figures[f'{name}: spread']:.2f}", f"{hits:.4f}" if hits else ""]
        )
    rows.append([BEFORE, "", "", "", f"{figures[f'{BEFORE}: hit@{CUTOFF}']:.4f}"])
    items = [f"{name}: {figures[f'{name}: events/s']:,.0f} events/s" for name in ("items in full", "items in brief")]
    return "\n".join([table(rows), *items])


def fold_in_targets(figures: Mapping[str, float]) -> list[Target]:
    def times(name: str, other: str) -> float:
        return figures[f"{name}: users/s"] / figures[f"{other}: users/s"]

    lost = figures[f"{WARM}: hit@{CUTOFF}"] - figures[f"{IMPLICIT}: hit@{CUTOFF}"]
    return [
        Target("exact fold-in, times implicit's batch", times(EXACT, IMPLICIT), at_least=0.9),
        Target("exact fold-in, times implicit's single calls", times(EXACT, IMPLICIT_SINGLE), at_least=3.0),
        Target("warm conjugate gradient, times implicit's batch", times(WARM, IMPLICIT), at_least=3.0),
        Target(f"its hit@{CUTOFF} less implicit's", lost, at_least=-0.001),
        Target("exact, apart from the dense solution", figures["exact: apart from the dense solution"], at_most=1e-5),
        Target("exact, apart from implicit", figures[f"{EXACT}: apart from implicit"], at_most=1e-5),
    ]


def latency_table(found: Sequence[Latencies]) -> str:
    rows = [["offered/s", "appended/s", "applied/s", "p50 ms", "p99 ms", "most ms", "lost"]]
    for each in found:
        rates = [f"{rate:,.0f}" for rate in (each.offered, each.appended, each.applied)]
        rows.append([*rates, *(f"{each.milliseconds(share):.0f}" for share in (0.5, 0.99, 1.0)), str(each.lost)])
    return table(rows)


def latency_figures(found: Sequence[Latencies]) -> dict[str, float]:
    """Medians over what was offered the same rate, and the worst of its p99."""
    figures: dict[str, float] = {}
    for rate in dict.fromkeys(each.offered for each in found):
        same = [each for each in found if each.offered == rate]
        p99 = [each.milliseconds(0.99) for each in same]
        figures |= {
            f"at {rate}/s: appended/s": round(statistics.median(each.appended for each in same)),
            f"at {rate}/s: applied/s": round(statistics.median(each.applied for each in same)),
            f"at {rate}/s: p50 ms": round(statistics.median(each.milliseconds(0.5) for each in same), 1),
            f"at {rate}/s: p99 ms": round(statistics.median(p99), 1),
            f"at {rate}/s: worst p99 ms": round(max(p99), 1),
            f"at {rate}/s: lost": sum(each.lost for each in same),
        }
    return figures


def latency_targets(figures: Mapping[str, float]) -> list[Target]:
    """The bound at 10,000 events per second, where that was offered."""
    name, p99 = "event to servable vector at 10,000 events/s, p99 ms", figures.get("at 10000/s: p99 ms")
    return [] if p99 is None else [Target(name, p99, at_most=100.0)]
