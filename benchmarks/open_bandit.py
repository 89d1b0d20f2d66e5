"""Off-policy estimates on the Open Bandit sample: what a logged policy earned, told from the log of another one.

- A fashion page was served by uniform draws and, beside them, by Thompson sampling; each log gives the value of the other's
  policy, and the other's own click rate says whether that is right. The logs were made side by side: no look-ahead is involved.
- What Thompson sampling would have done in a row of the uniform log is not in the log, for its posterior moved all week. Its mean
  probability of an item at a position is the item's share of what it showed there. The mean of the logged propensities is not:
  over the rows that show the item it is E[p²] / E[p], too high wherever p moved, and told beside.
- The other way round all propensities are logged, and the target, 1 in 34, is known.
- The bootstrap draws the rows of both logs anew and estimates the policy anew, whose error the intervals do not hold.
- A world like this one is simulated, where the truth is known: how often the interval holds it, and how often it holds the rate
  of the uniform policy as well, that is, how little 10,000 rows can tell.
"""

import argparse
import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.report import Machine, Target, data_folder, result, table
from online_models.off_policy import (
    Estimated,
    Logged,
    PositionPropensities,
    Refused,
    Terms,
    dr,
    ips,
    position_propensities,
    replay,
    snips,
)

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

FOLDER: Final = "open-bandit-sample"
UNIFORM, THOMPSON = "random", "bts"
CLIP: Final = Terms(clip=10.0)
ROUNDING: Final = 1e-9
SHRINK: Final = 200.0
"""Rows of the mean that an item of the direct model starts from."""
PERCENT: Final = 100


@dataclass(frozen=True, slots=True)
class Rows:
    """One log as columns (n,): item from 0, position from 0, click 0 or 1, propensity of the item at its position."""

    item: I64
    position: I64
    click: F64
    propensity: F64

    def __len__(self) -> int:
        return len(self.item)

    def take(self, rows: I64) -> "Rows":
        return Rows(self.item[rows], self.position[rows], self.click[rows], self.propensity[rows])

    @property
    def logged(self) -> Logged:
        return Logged(self.click, self.propensity)

    @property
    def shares(self) -> F64:
        """How often each item was shown at each position, (positions, items), rows add up to 1."""
        counts = np.zeros((int(self.position.max()) + 1, int(self.item.max()) + 1))
        np.add.at(counts, (self.position, self.item), 1)
        shares: F64 = counts / counts.sum(axis=1, keepdims=True)
        return shares


Told = Estimated | Refused


def main(arguments: Sequence[str]) -> int:
    """Estimate and print; 0 when it ran, or there is no data."""
    options = parser().parse_args(arguments)
    machine = Machine.here()
    folder = data_folder() / FOLDER
    if not folder.is_dir():
        print(f"Open Bandit: no {folder}; set PENSTOCK_DATA to the folder of the data sets")
        print(result("open_bandit", machine, {}, []))
        return 0
    uniform, thompson = (read(folder / f"obd_{name}_men_men.csv") for name in (UNIFORM, THOMPSON))
    figures, targets = measured(uniform, thompson, options.seed, options.draws, options.worlds)
    print(result("open_bandit", machine, figures, targets))
    return 0


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks open_bandit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: PENSTOCK_DATA=data python -m benchmarks open_bandit --seed 1",
    )
    found.add_argument("--seed", type=int, default=0, help="of replay's draws, the folds and the bootstrap")
    found.add_argument("--draws", type=int, default=2_000, help="of the bootstrap")
    found.add_argument("--worlds", type=int, default=1_000, help="simulated pairs of logs")
    return found


def read(path: Path) -> Rows:
    """One log of the Open Bandit Dataset; positions are told from 1 there."""
    with path.open(newline="") as file:
        rows = [
            (row["item_id"], row["position"], row["click"], row["propensity_score"]) for row in csv.DictReader(file)
        ]
    item, position, click, propensity = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    return Rows(item.astype(np.int64), position.astype(np.int64) - 1, click, propensity)


def measured(
    uniform: Rows, thompson: Rows, seed: int, draws: int, worlds: int
) -> tuple[dict[str, float], list[Target]]:
    """All tables, the figures and the targets."""
    figures: dict[str, float] = {}
    truth = {UNIFORM: on_policy(uniform), THOMPSON: on_policy(thompson)}
    policy = {UNIFORM: np.full_like(uniform.shares, 1 / uniform.shares.shape[1]), THOMPSON: thompson.shares}
    for target, log in ((THOMPSON, uniform), (UNIFORM, thompson)):
        found = estimates(log, policy[target], seed)
        told(f"\nclick rate of {target}, from the other log ({len(log):,} rows)", truth[target], found, figures, target)
    halves(uniform, policy[THOMPSON], truth[THOMPSON], figures)
    bootstrapped(uniform, thompson, seed, draws, figures)
    simulated(uniform, thompson, seed, worlds, figures)
    averaged = sum(thompson.propensity[shown].mean() for shown in cells(thompson)) / len(thompson.shares)
    figures["mean propensities add up to, bts"] = round(float(averaged), 2)
    print(f"\naveraged over the rows that show an item, bts's propensities add up to {averaged:.2f} instead of 1")
    positions(uniform, thompson, figures)
    main_line = snips(uniform.logged, target_of(uniform, policy[THOMPSON]))
    covered = isinstance(main_line, Estimated) and main_line.covers(truth[THOMPSON].value)
    return figures, [
        Target("the 95 % interval of SNIPS from random covers bts's own click rate", float(covered), at_least=1)
    ]


def on_policy(rows: Rows) -> Estimated:
    """A log's own click rate, with its interval."""
    found = ips(Logged(rows.click, np.ones(len(rows))), np.ones(len(rows)))
    assert isinstance(found, Estimated), found
    return found


def target_of(rows: Rows, policy: F64) -> F64:
    """Probability (n,) of what was shown, by a policy (positions, items)."""
    return policy[rows.position, rows.item]


def estimates(log: Rows, policy: F64, seed: int) -> dict[str, Told]:
    """Every estimator on one log."""
    target = target_of(log, policy)
    matched = np.random.default_rng([seed, 1]).random(len(log)) < target
    found = {"IPS": ips(log.logged, target), "SNIPS": snips(log.logged, target)}
    if (target / log.propensity > CLIP.clip).any():
        found |= {
            f"IPS, weights <= {CLIP.clip:g}": ips(log.logged, target, CLIP),
            f"SNIPS, weights <= {CLIP.clip:g}": snips(log.logged, target, CLIP),
        }
    found |= {"DR": dr(log.logged, target, *crossed(log, policy, seed)), "replay": replay(log.logged, matched)}
    if np.ptp(log.propensity) < ROUNDING:
        found["replay, from 100 rows on"] = replay(log.logged, matched, Terms(min_ess=100))
    return found


def crossed(log: Rows, policy: F64, seed: int, folds: int = 5) -> tuple[F64, F64]:
    """A direct model of the other folds, (n,) each: of the item shown, and of the target policy.

    q(a, k) = theta_k (clicks_a + m ctr) / (rows_a + m),  theta_k = ctr_k / ctr
    """
    fold = np.random.default_rng([seed, 2]).integers(folds, size=len(log))
    of_shown, of_target = np.zeros(len(log)), np.zeros(len(log))
    for each in range(folds):
        model = direct(log.take(np.flatnonzero(fold != each)), policy.shape)
        rows = np.flatnonzero(fold == each)
        of_shown[rows] = model[log.position[rows], log.item[rows]]
        of_target[rows] = (policy * model).sum(axis=1)[log.position[rows]]
    return of_shown, of_target


def direct(rows: Rows, shape: tuple[int, ...]) -> F64:
    """Click rates (positions, items): the item's, drawn towards the mean, times the position's."""
    ctr = rows.click.mean()
    clicks, shown = (
        np.bincount(rows.item, weights=each, minlength=shape[1]) for each in (rows.click, np.ones(len(rows)))
    )
    at = np.array([rows.click[rows.position == k].mean() for k in range(shape[0])])
    rates: F64 = (at / ctr)[:, None] * ((clicks + SHRINK * ctr) / (shown + SHRINK))[None, :]
    return rates


def told(title: str, truth: Estimated, found: dict[str, Told], figures: dict[str, float], target: str) -> None:
    """A table of estimates beside the truth, and their figures."""
    rows = [["click rate %", "value", "95 % interval", "effective rows", "mean weight", "largest", "covers"]]
    rows.append(["on-policy", *percents(truth), f"{truth.diagnosis.rows:,}", "", "", ""])
    figures |= {f"{target}, on-policy CTR %": percent(truth.value)}
    refused = []
    for name, each in found.items():
        if isinstance(each, Refused):
            refused.append(f"{name}: refused, {each.detail}")
            continue
        seen, covers = each.diagnosis, "yes" if each.covers(truth.value) else "no"
        weights = (f"{seen.ess:,.0f}", f"{seen.mean_weight:.3f}", f"{seen.largest_share:.1%}")
        rows.append([name, *percents(each), *weights, covers])
        figures |= {
            f"{target}, {name}: CTR %": percent(each.value),
            f"{target}, {name}: from": percent(each.lower),
            f"{target}, {name}: to": percent(each.upper),
            f"{target}, {name}: effective rows": round(seen.ess),
        }
    print("\n".join([title, table(rows), *refused]))


def percent(value: float) -> float:
    return round(PERCENT * value, 3)


def percents(found: Estimated) -> tuple[str, str]:
    return f"{PERCENT * found.value:.3f}", f"{PERCENT * found.lower:.3f} to {PERCENT * found.upper:.3f}"


def halves(log: Rows, policy: F64, truth: Estimated, figures: dict[str, float]) -> None:
    """SNIPS on each half of the uniform log, by time."""
    middle = len(log) // 2
    rows = [["SNIPS of bts from", "value", "95 % interval", "covers"]]
    for name, part in (("first half", np.arange(middle)), ("second half", np.arange(middle, len(log)))):
        found = snips(log.take(part).logged, target_of(log.take(part), policy))
        if isinstance(found, Estimated):
            rows.append([name, *percents(found), "yes" if found.covers(truth.value) else "no"])
            figures[f"{THOMPSON}, SNIPS, {name}: CTR %"] = percent(found.value)
    print(f"\n{table(rows)}")


def bootstrapped(uniform: Rows, thompson: Rows, seed: int, draws: int, figures: dict[str, float]) -> None:
    """SNIPS and its distance from the on-policy rate when the rows of both logs are drawn anew."""
    rng = np.random.default_rng([seed, 3])
    values = np.array([one_draw(uniform, thompson, rng) for _ in range(draws)])  # (draws, 2)
    names = ("SNIPS of bts", "SNIPS of bts - on-policy")
    rows = [["bootstrap", "mean", "standard error", "2.5 to 97.5 %"]]
    for name, column in zip(names, (values[:, 0], values[:, 0] - values[:, 1]), strict=True):
        low, high = (PERCENT * np.quantile(column, [0.025, 0.975])).tolist()
        spread = [f"{PERCENT * each:.3f}" for each in (column.mean(), column.std())]
        rows.append([name, *spread, f"{low:.3f} to {high:.3f}"])
        figures |= {f"bootstrap, {name}: from": round(low, 3), f"bootstrap, {name}: to": round(high, 3)}
    print(f"\n{table(rows)}")


def one_draw(uniform: Rows, thompson: Rows, rng: np.random.Generator) -> tuple[float, float]:
    """SNIPS and the on-policy rate of logs drawn anew."""
    log, own = (rows.take(rng.integers(len(rows), size=len(rows))) for rows in (uniform, thompson))
    weights = target_of(log, padded(own.shares, thompson.shares.shape)) / log.propensity
    return float(weights @ log.click / weights.sum()), float(own.click.mean())


def simulated(uniform: Rows, thompson: Rows, seed: int, worlds: int, figures: dict[str, float]) -> None:
    """The whole way on logs drawn from a world like this one, whose truth is known: how often the interval of SNIPS holds it."""
    rng = np.random.default_rng([seed, 4])
    policy = thompson.shares
    both = Rows(*(np.concatenate(pair) for pair in zip(columns(uniform), columns(thompson), strict=True)))
    rate = direct(both, policy.shape)
    even = np.full_like(policy, 1 / policy.shape[1])
    truth, other = (float((each * rate).sum(axis=1).mean()) for each in (policy, even))
    held = []
    for _ in range(worlds):
        log, own = (drawn(rate, each, len(uniform), rng) for each in (even, policy))
        found = snips(log.logged, target_of(log, padded(own.shares, policy.shape)))
        if isinstance(found, Estimated):
            covered = [found.covers(each) for each in (truth, float(own.click.mean()), other)]
            held.append((*covered, found.value - truth, found.standard_error))
    truth_held, own_held, other_held, bias, error = np.mean(held, axis=0).tolist()
    holds = [f"the truth {PERCENT * truth:.3f}", "bts's own rate", f"random's {PERCENT * other:.3f}"]
    rows = [["simulated, holds", *holds, "bias", "standard error"]]
    shares = [f"{each:.1%}" for each in (truth_held, own_held, other_held)]
    rows.append([f"{len(held)} worlds", *shares, f"{PERCENT * bias:+.3f}", f"{PERCENT * error:.3f}"])
    figures |= {"simulated, holds the truth %": round(PERCENT * truth_held, 1), "simulated, bias": percent(bias)}
    figures |= {"simulated, holds bts's own rate %": round(PERCENT * own_held, 1)}
    figures |= {"simulated, holds random's rate %": round(PERCENT * other_held, 1)}
    print(f"\n{table(rows)}")


def columns(rows: Rows) -> tuple[I64, I64, F64, F64]:
    return rows.item, rows.position, rows.click, rows.propensity


def drawn(rate: F64, policy: F64, rows: int, rng: np.random.Generator) -> Rows:
    """A log of a policy (positions, items) in a world of click rates (positions, items)."""
    position = rng.integers(len(policy), size=rows)
    bounds = policy.cumsum(axis=1)[position]
    item = np.minimum((rng.random(rows)[:, None] > bounds).sum(axis=1), policy.shape[1] - 1)
    click = rng.random(rows) < rate[position, item]
    return Rows(item, position, click.astype(np.float64), policy[position, item])


def padded(shares: F64, shape: tuple[int, ...]) -> F64:
    """Shares of a log in which the last items may be missing."""
    found = np.zeros(shape)
    found[: shares.shape[0], : shares.shape[1]] = shares
    return found


def cells(rows: Rows) -> Iterator[npt.NDArray[np.bool_]]:
    """Rows (n,) of each item at each position."""
    for position in range(int(rows.position.max()) + 1):
        for item in range(int(rows.item.max()) + 1):
            shown = (rows.position == position) & (rows.item == item)
            if shown.any():
                yield shown


def positions(uniform: Rows, thompson: Rows, figures: dict[str, float]) -> None:
    """How much the three positions are looked at: neither policy knows the user, so that an item is the same to both."""
    both = [
        np.concatenate(pair) for pair in zip(*((r.item, r.position, r.click) for r in (uniform, thompson)), strict=True)
    ]
    rows = [["position", "looked at", "± standard error", "rows", "clicks"]]
    found: PositionPropensities = position_propensities(both[1].astype(np.int64), both[2] > 0, both[0])
    columns = (found.theta, found.standard_error, found.rows, found.clicks)
    for k, (theta, error, shown, clicks) in enumerate(zip(*(each.tolist() for each in columns), strict=True), 1):
        rows.append([str(k), f"{theta:.2f}", f"{error:.2f}", f"{shown:,}", str(clicks)])
        figures |= {f"position {k}: looked at": round(theta, 3), f"position {k}: ±": round(error, 3)}
    print(f"\nposition propensities, from both logs{'; ' + found.reason if found.reason else ''}\n{table(rows)}")
