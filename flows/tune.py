"""A replay for choosing thresholds: which alarms each set of policies would have raised on a recorded log, and which triggers.

- The log runs once through the stream job's own windows and judges, one judge per set, without Redis or PostgreSQL.
- The reference is a stretch of the log itself, by default its first part; windows that touch it are not judged.
- Triggers are decided as in the stream job: what hysteresis, cooldown and budget would have suppressed is told with the reason.
"""

import dataclasses
import itertools
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from flows.admission import Admitted
from flows.combine import Combine, Plans
from flows.drift import Judge
from flows.feature_rows import Words
from flows.levels import near_line
from flows.live import Reference
from flows.offline import Log, Tallied, batches
from flows.profiles import profiles_of
from flows.ranges import BEGINNING, TimeRange, is_range, moment_text, parse_moment, parse_range
from flows.reports import told
from flows.retraining import policy, rules
from flows.settings import FlowSettings
from flows.text_table import text_table
from flows.triggers import LANGUAGE_MODEL, RECOMMENDER, Signal, Suppressed, TriggerPolicy, TriggerState, step
from flows.windows import ClosedWindow, windows_of
from online_models.contracts.events import TimeBounds
from online_models.contracts.ids import ModelName
from online_models.drift.policy import Policy
from online_models.drift.verdict import Verdict
from online_models.errors import SourceError
from online_models.ports import FeatureWindowRow

REFERENCE_SHARE: Final = 0.3
"""Part of a log's event time that is its reference unless another is asked for."""

NO_VERDICT: Final = (Verdict.INCONCLUSIVE.value, "unjudged")

TRIGGER: Final = "trigger"
"""Name of the table of a set that holds its trigger rules instead of a component's policy."""


class TriggerRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A set's own trigger rules; what is None is the settings'."""

    hysteresis_windows: int | None = None
    cooldown_seconds: int | None = None
    daily_budget: int | None = None


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Policies by component, and trigger rules, under a name."""

    name: str
    policies: Mapping[str, Policy]
    trigger: TriggerPolicy


@dataclass(frozen=True, slots=True)
class Alarm:
    """A feature that drifted in a window, the `number`-th of its model and length."""

    model: str
    feature: str
    number: int
    window_start: str
    window_end: str
    effect: float
    why: str


@dataclass(frozen=True, slots=True)
class Asked:
    """What the trigger rules made of the alarms of a window: a retrain job, or none and why not.

    features : that drifted in it, of a job that waited none
    """

    model: str
    features: tuple[str, ...]
    window_end: str
    triggered: bool
    reason: str


@dataclass(slots=True)
class Outcome:
    """What one set would have done on the log.

    windows : in which at least one feature had enough events for a verdict
    """

    name: str
    windows: int = 0
    alarms: list[Alarm] = field(default_factory=list)
    decisions: list[Asked] = field(default_factory=list)

    @property
    def triggers(self) -> int:
        """Retrain jobs asked for."""
        return sum(each.triggered for each in self.decisions)


def usual_sets(settings: FlowSettings, components: Sequence[str]) -> list[PolicySet]:
    """What is shipped (or set), what is published, and both directions from the former."""
    trigger = policy(settings)
    ours = {name: settings.policy(name) for name in components}
    published = Policy(rule="two_of_three", calibrated=False, confirm=False)
    stricter = {name: _changed(each, q=each.q / 10, effect=5 * each.effect) for name, each in ours.items()}
    looser = {
        name: _changed(each, q=min(5 * each.q, 0.5), effect=each.effect / 5, confirm=False)
        for name, each in ours.items()
    }
    return [
        PolicySet("settings" if settings.policies else "shipped", ours, trigger),
        PolicySet("published", dict.fromkeys(components, published), trigger),
        PolicySet("stricter", stricter, trigger),
        PolicySet("looser", looser, trigger),
    ]


def _changed(policy: Policy, **changes: object) -> Policy:
    return msgspec.structs.replace(policy, **changes)


def read_sets(path: Path, settings: FlowSettings) -> list[PolicySet]:
    """A user's sets: `[NAME.recommender]` holds a policy of that component, `[NAME.trigger]` trigger rules.

    Raises
    ------
    SourceError
        When the file cannot be read or holds something else.
    """
    try:
        tables = tomllib.loads(path.read_text())
        return [_read_set(name, table, settings) for name, table in tables.items()]
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError, ValueError) as error:
        raise SourceError(f"--sets: {path}: {error}") from error


def _read_set(name: str, table: object, settings: FlowSettings) -> PolicySet:
    parts = msgspec.convert(table, dict[str, dict[str, object]])
    rules = msgspec.convert(parts.pop(TRIGGER, {}), TriggerRules)
    trigger = TriggerPolicy(
        settings.hysteresis_windows if rules.hysteresis_windows is None else rules.hysteresis_windows,
        1000 * (settings.cooldown_seconds if rules.cooldown_seconds is None else rules.cooldown_seconds),
        settings.daily_budget if rules.daily_budget is None else rules.daily_budget,
    )
    return PolicySet(name, {component: msgspec.convert(each, Policy) for component, each in parts.items()}, trigger)


def reference_span(text: str | None, log: Log, settings: FlowSettings, bounds: TimeBounds) -> TimeRange:
    """The event times of the reference: a range `A..B`, or the first share of the log's, such as `30%`.

    Raises
    ------
    SourceError
        When it is written as neither, or the log has no event.
    """
    if text is not None and is_range(text):
        return parse_range(text)
    share = REFERENCE_SHARE if text is None else _share(text)
    start_ms, end_ms, tally = 2**62, BEGINNING, Tallied()
    for batch in batches(log, bounds, settings.dedupe_capacity, tally):
        start_ms, end_ms = min(start_ms, int(batch.ts_ms.min())), max(end_ms, int(batch.ts_ms.max()))
    if start_ms > end_ms:
        raise tally.nothing(log)
    pane_ms = settings.pane_seconds * 1000
    # up to a pane's end, so that no window is half reference
    return TimeRange(start_ms, -(-(start_ms + round(share * (end_ms - start_ms))) // pane_ms) * pane_ms)


def _share(text: str) -> float:
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise SourceError(f"--reference: expected a range A..B or a share such as 30%, got {text!r}")
    return share


def tune(
    log: Log, span: TimeRange, settings: FlowSettings, sets: Sequence[PolicySet], bounds: TimeBounds
) -> list[Outcome]:
    """What each set would have done.

    Parameters
    ----------
    span : the reference's event times
    settings : with the features that the log has

    Raises
    ------
    SourceError
        When no event is in the reference.
    """
    reference = Log(log.paths, TimeRange(max(span.start_ms, log.span.start_ms), min(span.end_ms, log.span.end_ms)))
    profiles, _ = profiles_of(reference, settings.features, settings.dedupe_capacity, bounds, stretched=True)
    references = {model: Reference(None, tuple(profile.references())) for model, profile in profiles.items()}
    words = {model: dict(profile.words) for model, profile in profiles.items()}
    trials = [_Trial(each, settings, references, words) for each in sets]
    for window in _windows(log, settings, bounds, words):
        if window.start_ms >= span.end_ms or window.end_ms <= span.start_ms:
            for trial in trials:
                trial.add(window)
    return [trial.outcome for trial in trials]


def _windows(
    log: Log, settings: FlowSettings, bounds: TimeBounds, words: dict[ModelName, dict[str, dict[int, str]]]
) -> Iterator[ClosedWindow]:
    """The log's windows as they close; `words` learns the frequent words on the way."""
    plans, windows = Plans(settings), windows_of(settings)
    combine = Combine(settings, plans, None)
    for batch in batches(log, bounds, settings.dedupe_capacity, Tallied(), settings.features):
        delta = combine(Admitted("log", batch, [], []))
        for word in delta.words:
            words.setdefault(word.model, {}).setdefault(word.feature, {})[word.fingerprint] = word.text
        yield from windows.add(delta, now=0.0)


class _Trial:
    """One set's judges and trigger states, a pair for each model."""

    def __init__(
        self,
        tried: PolicySet,
        settings: FlowSettings,
        references: Mapping[ModelName, Reference],
        words: Mapping[ModelName, Words],
    ) -> None:
        self.outcome = Outcome(tried.name)
        self._rules = tried.trigger
        self._levels = rules(settings)
        self._settings = settings.model_copy(
            update={"policies": msgspec.to_builtins(dict(tried.policies)), "baseline_seconds": 0}
        )
        self._plans = Plans(self._settings)
        self._references = references
        self._words = words
        self._judges: dict[ModelName, Judge] = {}
        self._states: dict[tuple[ModelName, str], TriggerState] = {}
        self._numbers: Counter[tuple[ModelName, int]] = Counter()

    def add(self, window: ClosedWindow) -> None:
        model = window.model
        if model not in self._references:
            return
        if model not in self._judges:
            self._judges[model] = Judge(model, self._settings, self._plans)
        scored = self._judges[model].add(window, self._references[model])
        self.outcome.windows += any(row.verdict not in NO_VERDICT for row in scored.features)
        self._numbers[model, window.end_ms - window.start_ms] += 1
        drifted = [told(row, self._words[model]) for row in scored.features if row.verdict == Verdict.DRIFT]
        number = self._numbers[model, window.end_ms - window.start_ms]
        self.outcome.alarms += [_alarm(row, number) for row in drifted]
        of_text = {spec.name for spec in self._settings.specs(model) if spec.component == LANGUAGE_MODEL}
        features = tuple(row.feature for row in drifted)
        self._decide(scored.signal, tuple(name for name in features if name not in of_text))
        if scored.language is not None:
            self._decide(scored.language, tuple(name for name in features if name in of_text))

    def _decide(self, signal: Signal, features: tuple[str, ...]) -> None:
        key = (signal.model, signal.component)
        state = self._states.get(key, TriggerState())
        answered = near_line(signal, state.since_ms, self._levels) if signal.component == RECOMMENDER else ""
        self._states[key], decisions = step(state, signal, self._rules, answered=answered)
        for decision in decisions:
            end = moment_text(decision.signal.window_end_ms)
            reason = decision.reason if isinstance(decision, Suppressed) else "retrain"
            triggered = not isinstance(decision, Suppressed)
            self.outcome.decisions.append(Asked(signal.model, features, end, triggered, reason))


def _alarm(row: FeatureWindowRow, number: int) -> Alarm:
    span = (moment_text(row.window_start_ms), moment_text(row.window_end_ms))
    return Alarm(row.model, row.feature, number, *span, row.effect or 0.0, row.why)


def episodes(alarms: Sequence[Alarm]) -> list[list[Alarm]]:
    """Alarms of one feature in windows that follow each other, an episode each, by when they begin."""
    open_at: dict[tuple[str, str, int], list[Alarm]] = {}
    found: list[list[Alarm]] = []
    for alarm in alarms:
        length = parse_moment(alarm.window_end) - parse_moment(alarm.window_start)
        episode = open_at.get((alarm.model, alarm.feature, length))
        if episode and episode[-1].number + 1 == alarm.number:
            episode.append(alarm)
        else:
            open_at[alarm.model, alarm.feature, length] = [alarm]
            found.append(open_at[alarm.model, alarm.feature, length])
    return found


def text_of(outcomes: Sequence[Outcome], span: TimeRange) -> str:
    """A table of the sets, then each set's alarms and what became of them."""
    header = ["set", "windows", "alarms", "features", "windows with alarms", "triggers", "suppressed"]
    rows = [
        [
            each.name,
            f"{each.windows:,}",
            f"{len(each.alarms):,}",
            str(len({(alarm.model, alarm.feature) for alarm in each.alarms})),
            str(len({(alarm.model, alarm.window_start, alarm.window_end) for alarm in each.alarms})),
            str(each.triggers),
            str(len(each.decisions) - each.triggers),
        ]
        for each in outcomes
    ]
    parts = [f"reference: {span}", text_table(header, rows)]
    for each in outcomes:
        lines = [episode_text(episode) for episode in episodes(each.alarms)]
        lines += [_asked_text(list(run)) for _, run in itertools.groupby(each.decisions, key=_kind)]
        calm = "no alarm" if each.windows else "no window held enough events for a verdict"
        parts.append(f"{each.name}:\n" + ("\n".join(sorted(lines)) or calm))
    return "\n\n".join(parts)


def episode_text(episode: Sequence[Alarm]) -> str:
    """When an episode began and ended, and its strongest alarm."""
    first, worst = episode[0], max(episode, key=lambda alarm: alarm.effect)
    many = f" ({len(episode)} windows until {episode[-1].window_end}; at its strongest)" if len(episode) > 1 else ""
    return f"{first.window_end}  {first.model}  alarm       {worst.why}{many}"


def _kind(asked: Asked) -> tuple[object, ...]:
    return (asked.model, asked.features, asked.triggered, asked.reason)


def _asked_text(run: Sequence[Asked]) -> str:
    first = run[0]
    what = "trigger     retrain for" if first.triggered else f"suppressed  {first.reason}:"
    many = f" ({len(run)} times until {run[-1].window_end})" if len(run) > 1 else ""
    return f"{first.window_end}  {first.model}  {what} {', '.join(first.features) or 'what waited'}{many}"


def json_of(outcomes: Sequence[Outcome], span: TimeRange) -> bytes:
    """The same as JSON."""
    told = {
        "reference": str(span),
        "sets": [dataclasses.asdict(each) | {"triggers": each.triggers} for each in outcomes],
    }
    return msgspec.json.format(msgspec.json.encode(told), indent=1) + b"\n"
