"""What the API says of rollouts as lines for people."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import msgspec

from online_models.text_columns import text_columns
from serving_api.analysis.power import Forecast
from serving_api.rollout_schemas import (
    HistoryReport,
    OrderReport,
    RolloutFacts,
    RolloutReport,
    StageReport,
    StartReport,
)

_COUNTS: Final = ("stage", "variant", "version", "users", "successes", "requests", "hits", "impressions", "clicks")
_SERVED: Final = (
    "stage", "variant", "requests", "errors", "empty", "fallbacks", "stood_in", "slow", "compared", "dropped",
)  # fmt: skip
_STAGES: Final = ("stage", "weight", "users", "on the canary", "days", "limited by")
_EVENTS: Final = ("rollout", "when", "epoch", "phase", "stage", "weight", "who", "why")


def status_lines(raw: bytes) -> list[str]:
    """Stage and weight, since when and why, what it waits for, and the numbers behind that."""
    report = RolloutReport.model_validate_json(raw)
    event = report.last_event
    lines = [
        *_heading(report),
        f"  since {_instant(event.created_at)}, by {event.actor}: {event.reason}",
        f"  now: {report.outlook}",
    ]
    if report.judged is not None:
        lines += [f"  gates: {report.judged.verdict}, {report.judged.reason}", *_gates(report.judged.evidence)]
    return [*lines, *_indented(_counts(report.stages)), *_indented(_served(report.stages))]


def order_lines(raw: bytes) -> list[str]:
    """What became of the rollout."""
    report = OrderReport.model_validate_json(raw)
    return [*_heading(report), *_unrouted(report)]


def start_lines(raw: bytes) -> list[str]:
    """The rollout that began, and how long it will take."""
    report = StartReport.model_validate_json(raw)
    return [*_heading(report), *_unrouted(report), *_forecast(report.forecast)]


def history_lines(raw: bytes) -> list[str]:
    """A table of what happened to the last rollouts, the youngest first."""
    report = HistoryReport.model_validate_json(raw)
    rows = [
        (
            str(rollout.id), _instant(event.created_at), str(event.epoch), event.to_phase, str(event.to_stage),
            _share(event.weight_bp), event.actor, event.reason,
        )
        for rollout in report.rollouts
        for event in rollout.events
    ]  # fmt: skip
    return text_columns([_EVENTS, *rows]) if rows else [f"{report.model} has had no rollout"]


def _heading(facts: RolloutFacts) -> list[str]:
    arms = ", ".join(f"{arm.version} {_share(arm.weight_bp)}" for arm in facts.arms)
    stage = "before its first stage" if facts.stage < 0 else f"in stage {facts.stage}"
    return [
        f"{facts.model} rollout {facts.id} ({facts.kind}): {arms or f'{facts.canary} beside {facts.stable}'}",
        f"  {facts.phase} {stage}, {_share(facts.weight_bp)} of users, epoch {facts.epoch}",
    ]


def _unrouted(report: OrderReport) -> list[str]:
    return [] if report.routed else ["  readers are not told yet, for Redis is away: the controller will"]


def _counts(stages: Sequence[StageReport]) -> list[str]:
    rows = [
        (str(stage.stage), each.variant, each.version, *(str(getattr(each, name)) for name in _COUNTS[3:]))
        for stage in stages
        for each in stage.counts
    ]
    return text_columns([_COUNTS, *rows]) if rows else []


def _served(stages: Sequence[StageReport]) -> list[str]:
    rows = [
        (str(stage.stage), each.variant, *(str(getattr(each, name)) for name in _SERVED[2:]))
        for stage in stages
        for each in stage.served
    ]
    return text_columns([_SERVED, *rows]) if rows else []


class _Test(msgspec.Struct, frozen=True):
    """A sequential test of `analysis.evidence`: its log e-value, and what that must reach; of a guardrail the rates, too."""

    log_e: float | None = None
    log_e_limit: float | None = None
    state: str = ""
    canary: float | None = None
    stable: float | None = None


class _Users(msgspec.Struct, frozen=True):
    canary: int = 0
    stable: int = 0
    canary_needed: int = 0
    stable_needed: int = 0


class _Served(msgspec.Struct, frozen=True):
    canary: int = 0
    stable: int = 0


class _Lift(msgspec.Struct, frozen=True):
    metric: str = ""
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    lowest_allowed: float | None = None


class _Collapse(msgspec.Struct, frozen=True):
    upper: float | None = None
    limit: float | None = None


class _Refusal(msgspec.Struct, frozen=True):
    detail: str = ""


class _Offline(msgspec.Struct, frozen=True):
    """What `rollouts.shadow_estimates` documents."""

    looks: str = ""
    clicks_per_list: float | None = None
    at_least: float | None = None
    order: _Lift | None = None
    kept: float | None = None
    effective: float | None = None
    refused: _Refusal | None = None


class _Evidence(msgspec.Struct, frozen=True):
    """What `analysis.evidence` documents, as far as it is shown here."""

    log_e: float | None = None
    log_e_limit: float | None = None
    weight_bp: int | None = None
    users: _Users = _Users()
    served: _Served = _Served()
    split: _Test = _Test()
    lift: _Lift = _Lift()
    collapse: _Collapse = _Collapse()
    guardrails: dict[str, _Test] = {}
    offline: _Offline | None = None


def _gates(evidence: Mapping[str, object]) -> list[str]:
    """Each test with the boundary that it is held against."""
    told = msgspec.convert(evidence, _Evidence)
    users, lift = told.users, told.lift
    asked = "" if lift.lowest_allowed is None else f", asked is above {_percent(lift.lowest_allowed)}"
    shadow = told.weight_bp == 0
    have = told.served if shadow else users
    rows = [
        (
            "requests" if shadow else "users",
            f"canary {have.canary} of {users.canary_needed}, stable {have.stable} of {users.stable_needed}",
        ),
        ("harm", _against(_Test(told.log_e, told.log_e_limit))),
        ("lift", f"{lift.metric} {_percent(lift.value)}, {_percent(lift.lower)} to {_percent(lift.upper)}{asked}"),
        ("collapse", f"at most {_percent(told.collapse.upper)}, fails below {_percent(told.collapse.limit)}"),
        ("split", _against(told.split)),
        *((name, _guardrail(test)) for name, test in told.guardrails.items()),
        *([("offline", _offline(told.offline))] if shadow else []),
    ]
    return [f"    {line}" for line in text_columns(rows)]


def _offline(told: _Offline | None) -> str:
    """What a shadow's lists would have earned, or why that is not known."""
    if told is None:
        return "nothing is counted yet"
    order, kept = told.order, told.kept
    if order is None or kept is None:
        return "unknown" if told.refused is None else told.refused.detail
    return (
        f"at least {_figure(told.at_least)} clicks a list, {_figure(told.clicks_per_list)} as shown; order of common items "
        f"{_percent(order.value)}, {_percent(order.lower)} to {_percent(order.upper)}; {kept:.1%} of what was taken is in it; "
        f"{_figure(told.effective)} effective impressions, looks {told.looks}"
    )


def _guardrail(test: _Test) -> str:
    against = "" if test.log_e_limit is None else f"; {_against(test)}"
    return f"{test.state}: canary {_figure(test.canary)}, stable {_figure(test.stable)}{against}"


def _against(test: _Test) -> str:
    return f"log e {_figure(test.log_e)} of {_figure(test.log_e_limit)}"


def _forecast(told: Mapping[str, object]) -> list[str]:
    expected = msgspec.convert(told, Forecast)
    rows = [
        (
            str(stage.stage), _share(stage.weight_bp), _figure(stage.users), _figure(stage.canary_users),
            _figure(stage.days), stage.limited_by,
        )
        for stage in expected.stages
    ]  # fmt: skip
    return [
        f"  expected: {_figure(expected.users)} users, {_figure(expected.canary_users)} of them on the canary, "
        f"{_figure(expected.days)} days at {_figure(expected.users_per_day)} users a day",
        *_indented(text_columns([_STAGES, *rows])),
        *(f"  warning: {warning}" for warning in expected.warnings),
    ]


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:+.2%}"


def _figure(told: int | float | None) -> str:
    if told is None:
        return "unknown"
    return str(told) if isinstance(told, int) else f"{told:.4g}"


def _share(weight_bp: int) -> str:
    return f"{weight_bp / 100:g} %"


def _instant(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def _indented(lines: Sequence[str]) -> list[str]:
    return [f"  {line}" for line in lines]
