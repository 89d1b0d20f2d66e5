"""The simulated rollouts are judged as real ones are, and the worlds they live in are what they say."""

import json

import msgspec
import numpy as np
import pytest

from benchmarks.canary_batches import Counts, Ticks, judged, run
from benchmarks.canary_error_rates import (
    DRIFT,
    PEOPLE,
    POLICY,
    alarmed,
    caught,
    main,
    peeked,
    plan_of,
    returning,
    scheduled,
    targets,
)
from benchmarks.canary_worlds import BAD, Fresh, Returning, World
from benchmarks.estimates import Estimate
from online_models.contracts.ids import ModelVersion
from online_models.contracts.rollouts import GROUPS, Plan, Served, StageCounts
from online_models.rollout_store import VariantCounts
from serving_api.analysis.guardrails import NAMES
from serving_api.analysis.verdicts import Error, Failed, Inconclusive, StageTally, Successful, Verdict, verdict

PLAN = plan_of(POLICY.margin, POLICY)
QUICK = Plan(
    tuple(msgspec.structs.replace(stage, min_users=20, min_stable_users=5) for stage in PLAN.stages), PLAN.policy
)


class Recorded:
    """Sums by stage of one rollout of a batch, as the stores would give them."""

    def __init__(self, stages: int) -> None:
        self.trials, self.hits = np.zeros((2, stages, 2, GROUPS), np.int64)

    def tallies(self, counts: Counts, rollout: int, stage: int, plan: Plan) -> list[StageTally]:
        return [
            StageTally(number, plan.stages[number].weight_bp, *self._arms(counts, rollout, number))
            for number in range(stage + 1)
        ]

    def _arms(self, counts: Counts, rollout: int, stage: int) -> tuple[VariantCounts, VariantCounts, Served, Served]:
        variants, served = [], []
        for place, name in enumerate(("canary", "stable")):
            trials, hits = self.trials[stage, place], self.hits[stage, place]
            users, successes, stage_users = (
                int(each[rollout, stage, place]) for each in (counts.users, counts.successes, counts.stage_users)
            )
            sums = StageCounts(
                users=users,
                successes=successes,
                requests=int(trials.sum()),
                hits=int(hits.sum()),
                stage_users=stage_users,
            )
            grouped = np.stack([trials, hits, 0 * trials, 0 * hits])
            variants.append(VariantCounts(stage, name, ModelVersion("v1"), sums, grouped))
            bad = dict(zip((f"user_{each}" for each in NAMES), counts.bad[rollout, stage, place].tolist(), strict=True))
            served.append(Served(requests=int(trials.sum()), users=users, **bad))
        return variants[0], variants[1], served[0], served[1]


def kind(tick: Ticks, rollout: int) -> type[Verdict]:
    if tick.fails[rollout]:
        return Failed
    if tick.split[rollout]:
        return Error
    return Successful if tick.passes[rollout] else Inconclusive


def worlds(rng: np.random.Generator, runs: int) -> list[tuple[World, int]]:
    return [
        (Fresh(rng, runs, 2_000, 0.05, 1.0), 60),
        (Fresh(rng, runs, 2_000, 0.05, 0.6), 8),
        (Fresh(rng, runs, 2_000, 0.05, 1.0, lost=0.4), 8),
        (Returning(rng, runs, 2_000, 0.2, 0.4, 1.0, 8.0), 40),
        (Returning(rng, runs, 2_000, 0.2, 0.4, 0.5, 8.0), 8),
    ]


@pytest.mark.parametrize("number", range(5))
def test_a_batch_is_judged_as_each_rollout_by_the_real_verdict(number: int) -> None:
    runs = 3
    world, looks = worlds(np.random.default_rng(1), runs)[number]
    stage, counts = np.zeros(runs, np.int64), Counts.none(runs, len(QUICK.stages))
    recorded = [Recorded(len(QUICK.stages)) for _ in range(runs)]
    share = np.array([each.weight_bp / 10_000 for each in QUICK.stages])
    kinds = set()
    for _ in range(looks):
        look = world.look(share[stage], np.ones(runs))
        counts.add(stage, look)
        tick = judged(counts, stage, QUICK)
        for rollout in range(runs):
            recorded[rollout].trials[stage[rollout]] += look.trials[rollout]
            recorded[rollout].hits[stage[rollout]] += look.hits[rollout]
            real = verdict(recorded[rollout].tallies(counts, rollout, int(stage[rollout]), QUICK), QUICK)
            assert kind(tick, rollout) is type(real), real.reason
            kinds.add(type(real))
        moves = tick.passes & (stage < len(QUICK.stages) - 1)
        counts.next_stage(moves)
        world.next_stage(moves)
        stage = stage + moves
    expected: list[set[type[Verdict]]] = [
        {Inconclusive, Successful}, {Failed}, {Error}, {Inconclusive, Successful}, {Failed}
    ]  # fmt: skip
    assert expected[number] <= kinds


def test_fresh_users_come_once_at_the_split_and_rates_that_are_said() -> None:
    world = Fresh(np.random.default_rng(1), 200, 2_000, 0.05, 0.8)
    look = world.look(np.full(200, 0.25), np.full(200, 2.0))
    assert (look.users == look.trials.sum(axis=-1)).all()
    assert look.users.sum() / 200 == pytest.approx(2_000, rel=0.02)
    assert look.users[:, 0].sum() / look.users.sum() == pytest.approx(0.25, rel=0.02)
    rates = look.hits.sum(axis=(0, 2)) / look.trials.sum(axis=(0, 2))
    assert rates == pytest.approx([0.08, 0.1], rel=0.05)
    assert look.bad.sum(axis=(0, 1)) / look.users.sum() == pytest.approx(BAD, rel=0.1)


def test_returning_users_keep_their_bucket_and_are_first_exposed_once() -> None:
    world = Returning(np.random.default_rng(1), 20, 500, 0.3, 0.4, 1.0, 4.0)
    first, in_stage, trials = np.zeros((20, 2)), np.zeros((20, 2)), np.zeros((20, 2))
    for _ in range(40):
        look = world.look(np.full(20, 0.25), np.ones(20))
        first, in_stage, trials = first + look.users, in_stage + look.stage_users, trials + look.trials.sum(axis=-1)
    assert first.sum(axis=1).tolist() == [500] * 20
    assert (first == in_stage).all()
    on_canary = first[:, 0]
    world.next_stage(np.ones(20, np.bool_))
    later = np.zeros((20, 2))
    for _ in range(40):
        look = world.look(np.full(20, 0.5), np.ones(20))
        assert look.users.sum() == 0
        later += look.stage_users
    assert later.sum(axis=1).tolist() == [500] * 20
    assert (later[:, 0] > on_canary).all()


def test_people_come_as_often_as_is_said_and_many_are_met_in_every_stage_where_few_are_not() -> None:
    met = {}
    for name, (number, active) in PEOPLE.items():
        world = Returning(np.random.default_rng(4), 10, number, active, 0.2, 1.0, 4.0)
        looks = [world.look(np.full(10, 0.5), np.ones(10)) for _ in range(100)]
        requests = sum(int(look.trials.sum()) for look in looks)
        assert requests / (10 * 100 * number) == pytest.approx(active, rel=0.02)
        met[name] = [
            sum(int(look.users.sum()) for look in looks[n : n + 20]) / (10 * number) for n in range(0, 100, 20)
        ]
    assert met["returning users"] == pytest.approx([0.18, 0.15, 0.12, 0.10, 0.08], abs=0.01)
    assert met["few returning users"][0] > 0.85
    assert sum(met["few returning users"][2:]) < 0.03


def test_a_loss_is_caught_among_many_who_return_and_seldom_among_few() -> None:
    rng = np.random.default_rng(8)
    many, few = (returning(rng, 30, people, 0.8).ours.mean() for people in PEOPLE.values())
    assert many > 0.9
    assert few < 0.3


def test_equal_rollouts_reach_everybody_and_bad_ones_do_not() -> None:
    rng = np.random.default_rng(2)
    equal = run(Fresh(rng, 40, 1_000, 0.05, 1.0), 40, PLAN, DRIFT, 400)
    assert equal.promoted.mean() >= 0.85
    assert not (equal.promoted & equal.rolled_back).any()
    took = equal.requests[equal.promoted]
    assert np.median(took) > 40_000
    assert took.min() > 5_000  # a canary that is lucky all the way
    bad = run(Fresh(rng, 40, 1_000, 0.05, 0.7), 40, PLAN, DRIFT, 400)
    assert bad.rolled_back.all()
    assert np.median(bad.canary_users) < 5_000


def test_what_is_peeked_at_or_pooled_goes_wrong_where_ours_does_not() -> None:
    rng = np.random.default_rng(3)
    alarms = scheduled(Fresh(rng, 100, 2_000, 0.05, 1.0), 100, [0.05, 0.25, 0.5, 0.75], DRIFT[:4], 20)
    assert alarms.ours.mean() <= 0.1
    assert alarms.peeked.mean() > 0.3
    assert alarms.pooled.mean() > 0.3


def test_a_z_test_that_is_looked_at_once_keeps_its_error() -> None:
    rng = np.random.default_rng(4)
    trials = np.full((4_000, 2), 2_000)
    assert peeked(trials, rng.binomial(trials, 0.05)).mean() == pytest.approx(0.05, abs=0.015)


def test_the_targets_of_catching_a_loss_hold_for_few_rollouts() -> None:
    rng = np.random.default_rng(5)
    assert np.median(caught(rng, 300, 0.1, 400)) <= 16_000
    assert np.median(caught(rng, 300, 0.5, 60)) <= 1_800


def test_a_split_gone_wrong_is_found() -> None:
    rng = np.random.default_rng(6)
    assert np.isfinite(alarmed(rng, 60, 0.045)).mean() > 0.9
    assert not np.isfinite(alarmed(rng, 60, 0.05)).any()


def test_an_estimate_has_its_error_and_none_of_many_is_not_zero_for_sure() -> None:
    assert Estimate.share(np.zeros(100, np.bool_)).error == pytest.approx(0.00995, abs=1e-5)
    rng = np.random.default_rng(7)
    medians = [Estimate.quantile(rng.exponential(1.0, 400), 0.5) for _ in range(200)]
    spread = np.std([each.value for each in medians])
    assert np.mean([each.error for each in medians]) == pytest.approx(spread, rel=0.2)
    assert Estimate.quantile(np.full(10, np.inf), 0.5).users() == "not within the run"


def test_the_command_ends_with_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--runs", "2", "--seed", "1"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["benchmark"] == "canary_error_rates"
    assert len(found["targets"]) == 15
    assert all(target["value"] == found["figures"][target["name"]] for target in found["targets"])


def test_every_target_names_a_figure() -> None:
    with pytest.raises(KeyError):
        targets({})
