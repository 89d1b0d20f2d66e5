"""What a job will cost and what it has cost: pure rules.

- A cost is a fixed part, of starting up and loading libraries, and a part per event. The fixed part is the kind's usual one; the
  part per event is the median over the model's newest jobs of the kind and level, so that one odd run does not move it.
- A model's first job of a kind goes by the usual figures alone. They are rough: those of a small model on one core.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from msgspec.structs import replace

from online_models.contracts.jobs import Cost, Estimate, JobKind


@dataclass(frozen=True, slots=True)
class UsualCost:
    """fixed : what a job costs whatever its data; per_event : what each event adds, in the same units"""

    fixed_cpu_seconds: float
    fixed_bytes: int
    cpu_seconds_per_event: float
    bytes_per_event: float


USUAL: Final = {
    JobKind.ALS: UsualCost(1.6, 230 << 20, 2e-5, 1_000.0),
    JobKind.TWO_TOWER: UsualCost(5.0, 500 << 20, 7e-4, 4_000.0),
    JobKind.LORA: UsualCost(6.0, 700 << 20, 3e-2, 4_000.0),
}
"""Of the kinds, each fitted twice, for the gate and for publication. ALS as measured on 10k and 100k ratings (1.8 and 3.0 CPU
seconds, 243 and 314 MiB); two towers as 55 microseconds per event and epoch, 6 epochs; an adapter as a 2M model's 39 CPU seconds
for 1200 choices."""


def estimate(kind: JobKind, events: int, past: Sequence[Cost]) -> Estimate:
    """What a job over so many events is expected to cost.

    cost(events) = fixed + per_event · events,    per_event = median_past max(cost_past - fixed, 0) / events_past

    Wall time is taken to be CPU time where nothing is known of it.

    >>> estimate(JobKind.ALS, 20_000, [Cost(10_000, 2.6, 4.6, 330 << 20)])
    Estimate(events=20000, cpu_seconds=3.6, wall_seconds=7.6, peak_bytes=450887680, jobs=1)
    >>> estimate(JobKind.ALS, 100_000, []).cpu_seconds
    3.6
    """
    usual = USUAL[kind]
    past = [cost for cost in past if cost.events > 0]

    def expected(fixed: float, per_event: float, measured: Sequence[float]) -> float:
        rates = [max(each - fixed, 0.0) / cost.events for each, cost in zip(measured, past, strict=True)]
        return fixed + (median(rates) if rates else per_event) * events

    seconds, size = usual.fixed_cpu_seconds, float(usual.fixed_bytes)
    return Estimate(
        events=events,
        cpu_seconds=round(expected(seconds, usual.cpu_seconds_per_event, [cost.cpu_seconds for cost in past]), 3),
        wall_seconds=round(expected(seconds, usual.cpu_seconds_per_event, [cost.wall_seconds for cost in past]), 3),
        peak_bytes=round(expected(size, usual.bytes_per_event, [cost.peak_bytes for cost in past])),
        jobs=len(past),
    )


def with_attempt(before: Cost, events: int, cpu_seconds: float, wall_seconds: float, peak_bytes: int) -> Cost:
    """The cost of a job after another attempt, or so far into it.

    >>> with_attempt(Cost(10, 1.0, 2.0, 500), 12, 3.0, 4.0, 400)
    Cost(events=12, cpu_seconds=4.0, wall_seconds=6.0, peak_bytes=500)
    """
    return replace(
        before,
        events=events,
        cpu_seconds=round(before.cpu_seconds + cpu_seconds, 3),
        wall_seconds=round(before.wall_seconds + wall_seconds, 3),
        peak_bytes=max(before.peak_bytes, peak_bytes),
    )


def over_budget(expected: Estimate, spent_cpu_seconds: float, budget_cpu_seconds: float) -> str:
    """Why a job is put off.

    >>> over_budget(Estimate(10, 120.0, 60.0, 0), 80.0, 150.0)
    'the estimate of 120 CPU seconds does not fit: 80 of 150 are used or reserved today (UTC)'
    """
    return (
        f"the estimate of {expected.cpu_seconds:.4g} CPU seconds does not fit: "
        f"{spent_cpu_seconds:.4g} of {budget_cpu_seconds:.4g} are used or reserved today (UTC)"
    )
