"""Operators' calls through the real API: who may do what, what is refused and why, and what is done once and at once."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest

from online_models.contracts.registry import Alias
from online_models.contracts.rollouts import FULL_WEIGHT_BP, Kind, Phase
from online_models.stores.embedded import Endpoints
from serving_api.access import Role
from tests.api_process import eventually
from tests.artifacts import flip_one_byte
from tests.operator_world import BODY, MOVIES, PATH, Desk, operator_desk

ROLES = (None, Role.VIEWER, Role.OPERATOR, Role.APPROVER, Role.ADMIN)
LOOK = (401, 200, 200, 200, 200)
STOP = (401, 403, 200, 200, 200)
APPROVE = (401, 403, 403, 200, 200)


@pytest.fixture
def desk(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Desk]:
    with operator_desk(fresh_stores, tmp_path) as desk:
        yield desk


def asked(desk: Desk, role: Role | None, method: str, path: str, body: object = None) -> int:
    epoch = {"If-Match": f'"{desk.world.latest().epoch}"'} if method == "POST" else {}
    key = desk.keys[role] if role else {}
    return desk.api.send(method, path, body, {**key, **epoch}).status_code


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_it_may_and_no_more(desk: Desk, role: Role | None) -> None:
    place = ROLES.index(role)
    starting = asked(desk, role, "POST", PATH, BODY)
    assert starting == (401, 403, 201, 201, 201)[place]
    if starting != 201:
        desk.start()
    for path in (PATH, f"{PATH}/history", "/v1/models/movies"):
        assert (path, asked(desk, role, "GET", path)) == (path, LOOK[place])
    for verb in ("pause", "resume"):
        assert (verb, asked(desk, role, "POST", f"{PATH}/{verb}", BODY)) == (verb, STOP[place])
        if STOP[place] != 200:
            assert desk.post(verb).status_code == 200
    assert asked(desk, role, "POST", f"{PATH}/abort", BODY) == STOP[place]
    if STOP[place] != 200:
        assert desk.post("abort").status_code == 200
    first, second = desk.world.champions
    assert asked(desk, role, "POST", f"{PATH}/rollback", {**BODY, "version": "previous"}) == STOP[place]
    assert desk.world.registry.champion(MOVIES) == (first if STOP[place] == 200 else second)


@pytest.mark.parametrize("role", ROLES)
def test_a_promotion_and_a_far_rollback_take_an_approver(
    fresh_stores: Endpoints, tmp_path: Path, role: Role | None
) -> None:
    expected = APPROVE[ROLES.index(role)]
    with operator_desk(fresh_stores, tmp_path, crowned=3) as desk:
        body = {**BODY, "version": desk.world.champions[0]}
        assert asked(desk, role, "POST", f"{PATH}/rollback", body) == expected
        if expected == 200:
            assert desk.world.registry.champion(MOVIES) == desk.world.champions[0]
        rollout = desk.started()
        assert asked(desk, role, "POST", f"{PATH}/promote", BODY) == expected
        phase = Phase.PROMOTED if expected == 200 else Phase.PREPARING
        assert (desk.world.latest().id, desk.world.latest().phase) == (rollout.id, phase)


def test_a_refusal_says_which_role_it_takes_and_which_the_key_has(desk: Desk) -> None:
    desk.start()
    assert "takes the role operator; this key is viewer" in desk.post("abort", Role.VIEWER).text
    assert "takes the role approver; this key is operator" in desk.post("promote", Role.OPERATOR).text
    third = {**BODY, "version": desk.world.publish(9)}
    told = desk.post("rollback", Role.OPERATOR, third)
    assert (told.status_code, "approver; this key is operator" in told.text) == (403, True)


def test_whatever_is_wrong_with_a_key_the_answer_is_the_same(desk: Desk) -> None:
    valid = desk.keys[Role.ADMIN]["Authorization"]
    expired = desk.api.key_of(Role.ADMIN, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    revoked = desk.api.key_of(Role.ADMIN)
    desk.api.parts.keys.revoke_key(revoked["Authorization"][10:18], datetime.now(UTC))
    unknown = "Bearer pk_00000000_" + "A" * 43
    wrong = [{}, expired, revoked, *({"Authorization": told} for told in (unknown, valid[:-1], "Basic YTpi", "Bearer"))]
    answers = [desk.api.get(PATH, each) for each in wrong]
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert {answer.headers["WWW-Authenticate"] for answer in answers} == {'Bearer realm="penstock"'}


def test_a_key_may_come_in_a_header_of_its_own(desk: Desk) -> None:
    key = desk.keys[Role.VIEWER]["Authorization"].removeprefix("Bearer ")
    assert desk.api.get("/v1/models/movies", {"X-API-Key": key}).status_code == 200


def test_who_wants_recommendations_needs_no_key(desk: Desk) -> None:
    assert desk.api.recommend("u1")["model_version"] == desk.world.champions[-1]


def test_a_start_tells_what_it_is_and_how_long_it_will_take(desk: Desk) -> None:
    response = desk.start()
    told = response.json()
    assert response.status_code == 201
    assert (told["kind"], told["phase"], told["stage"], told["weight_bp"]) == ("canary", "preparing", -1, 0)
    assert (told["stable"], told["canary"]) == (desk.world.champions[-1], "v3")
    assert told["forecast"]["warnings"], "nobody has been here: that cannot be enough"
    assert told["routed"] is True
    assert response.headers["ETag"] == f'"{desk.world.latest().epoch}"'
    (event,) = desk.world.events()
    assert event.actor.startswith("key:the-admin (")
    assert (event.reason, event.evidence["role"]) == (BODY["reason"], "admin")
    assert event.evidence["forecast"] == told["forecast"]
    assert desk.world.route().canary == "v3"


def test_a_second_rollout_is_refused_while_one_is_open(desk: Desk) -> None:
    first = desk.started()
    refused = desk.start()
    assert (refused.status_code, f"rollout {first.id} is open" in refused.text) == (409, True)
    assert desk.post("abort").status_code == 200
    again = desk.start(canary=first.canary)
    assert again.status_code == 201, "an operator may try a version again"


CANNOT_START: Final[list[tuple[dict[str, object], int, str]]] = [
    ({"canary": "v999"}, 409, "not a registered version"),
    ({"canary": "v2"}, 409, "is the champion"),
    ({"kind": "bandit", "arms": ["v1", "v3"]}, 409, "champion v2 is not among the arms"),
    ({"kind": "bandit", "arms": ["v2", "v999"]}, 409, "not a registered version"),
    ({"kind": "bandit"}, 422, "arms"),
    ({"kind": "bandit", "arms": ["v2"]}, 422, "at least 2"),
    ({"kind": "bandit", "arms": ["v2", "v2"]}, 422, "different"),
    ({"kind": "aa", "canary": "v3"}, 422, "expected none"),
    ({"kind": "ab", "arms": ["v2", "v3"]}, 422, "bandit"),
    ({"kind": "rollback"}, 422, "kind"),
    ({"stages": []}, 422, "at least 1"),
    ({"stages": [{"weight_bp": -1}]}, 422, "greater than or equal to 0"),
    ({"stages": [{"weight_bp": 10_000}]}, 422, "less than 10000"),
    ({"stages": [{"weight_bp": 500}, {"weight_bp": 400}]}, 422, "rising weights"),
    ({"stages": [{"weight_bp": 500, "shadow": True}]}, 422, "0 in a shadow stage"),
    ({"stages": [{"weight_bp": 500, "max_seconds": 1e300}]}, 422, "less than or equal"),
    ({"stages": [{"weight_bp": 500, "min_users": 10**30}]}, 422, "min_users"),
    ({"stages": [{"weight_bp": 500, "wieght": 3}]}, 422, "wieght"),
    ({"kind": "ab", "stages": [{"weight_bp": 500}, {"weight_bp": 600}]}, 422, "expected one"),
    ({"gate": {"margin": 2.0}}, 422, "margin"),
    ({"gate": {"margni": 0.1}}, 422, "margni"),
    ({"gate": {"margin": -0.1}}, 422, "greater than or equal to 0"),
    ({"gate": {"metric": "clicks"}}, 422, "clicks"),
    ({"stage": []}, 422, "stage"),
    ({"reason": "no"}, 422, "at least 3"),
    ({"reason": "x" * 501}, 422, "at most 500"),
    ({"reason": "two\nlines"}, 422, "pattern"),
    ({"reason": "a\x00b c"}, 422, "pattern"),
    ({"reason": None}, 422, "string"),
    ({"reason": ["why"]}, 422, "string"),
    ({"canary": "v3\x00"}, 422, "canary"),
    ({"canary": 3}, 422, "canary"),
]


def test_what_cannot_start_is_told_why(desk: Desk) -> None:
    before = desk.world.latest()
    for body, status, why in CANNOT_START:
        response = desk.start(**body)
        assert (response.status_code, why in response.text) == (status, True), f"{body}: {response.text}"
    assert desk.world.latest() == before


NO_BODIES: Final = [
    (b"", 422),
    (b"{", 422),
    (b"[]", 422),
    (b"null", 422),
    (b'"why"', 422),
    (b"\xff\xfe", 422),
    (b'{"reason": "' + b"x" * 10_000_000 + b'"}', 413),
    (b'{"reason": "half \\ud800 of it"}', 422),
    (b'{"reason": "seen", "gate": {"margin": NaN}}', 422),
    (b'{"reason": "seen", "stages": [{"weight_bp": 5, "max_seconds": Infinity}]}', 422),
    (b'{"reason": ' + b"[" * 500_000, 400),
]


def test_a_body_that_is_none_is_refused(desk: Desk) -> None:
    headers = {**desk.keys[Role.ADMIN], "If-Match": '"1"', "Content-Type": "application/json"}
    for content, status in NO_BODIES:
        for path in (PATH, f"{PATH}/pause", f"{PATH}/rollback"):
            answer = desk.api.post(path, content, headers)
            assert (content[:80], path, answer.status_code) == (content[:80], path, status), answer.text[:500]


def test_a_model_that_is_not_served_is_none(desk: Desk) -> None:
    for model in ("books", "%00", "a%2Fb", "x" * 5_000):
        for method, rest in (("GET", ""), ("GET", "/history"), ("POST", ""), ("POST", "/abort")):
            path = f"/v1/rollouts/{model}{rest}"
            answer = desk.api.send(method, path, BODY if method == "POST" else None, desk.keys[Role.ADMIN])
            assert (path, answer.status_code) == (path, 404)


def test_a_model_that_has_had_no_rollout_has_none_to_change(desk: Desk) -> None:
    headers = {**desk.keys[Role.ADMIN], "If-Match": '"1"'}
    for verb in ("pause", "resume", "promote", "abort"):
        answer = desk.api.send("POST", f"/v1/rollouts/products/{verb}", BODY, headers)
        assert (verb, answer.status_code, "no rollout" in answer.text) == (verb, 404, True)
    answer = desk.api.send("POST", "/v1/rollouts/products", BODY, headers)
    assert (answer.status_code, "no champion" in answer.text) == (409, True)
    assert desk.api.get("/v1/rollouts/products/history", headers).json() == {"model": "products", "rollouts": []}


def test_a_command_asks_for_the_epoch_that_was_seen(desk: Desk) -> None:
    seen = desk.started()
    for verb in ("pause", "resume", "promote"):
        answer = desk.post(verb, matched=False)
        assert (verb, answer.status_code, "If-Match" in answer.text) == (verb, 428, True)
    ramping = desk.world.ramp()
    for verb in ("pause", "resume", "promote", "abort"):
        answer = desk.post(verb, If_Match=f'"{seen.epoch}"')
        assert (verb, answer.status_code, f"epoch {ramping.epoch} now" in answer.text) == (verb, 412, True)
    back = desk.post("rollback", body={**BODY, "version": "previous"}, If_Match=f'"{seen.epoch}"')
    assert back.status_code == 412
    assert desk.world.latest() == ramping
    for garbage in ("*", "7", 'W/"7"', '"x"', f'"{10**30}"'):
        assert (garbage, desk.post("pause", If_Match=garbage).status_code) == (garbage, 422)


def test_pause_keeps_the_weight_and_resume_goes_on(desk: Desk) -> None:
    desk.started()
    ramping = desk.world.ramp(2)
    paused = desk.post("pause", Role.OPERATOR)
    assert (paused.json()["phase"], paused.json()["weight_bp"]) == ("paused", ramping.weight_bp)
    assert paused.headers["ETag"] == f'"{paused.json()["epoch"]}"'
    assert desk.world.route().weight_bp == ramping.weight_bp
    again = desk.post("pause")
    assert (again.status_code, "paused already" in again.text) == (409, True)
    assert desk.post("resume").json()["phase"] == "ramping"
    assert desk.post("resume").status_code == 409


def test_an_abort_needs_no_controller_and_no_epoch(desk: Desk) -> None:
    desk.started()
    desk.world.ramp(2)
    before = desk.world.route()
    assert before.canary == "v3"
    answer = desk.post("abort", Role.OPERATOR, matched=False)
    assert (answer.status_code, answer.json()["phase"], answer.json()["weight_bp"]) == (200, "aborted", 0)
    after = desk.world.route()
    assert (after.canary, after.weight_bp, after.stable) == (None, 0, before.stable)
    assert after.epoch == answer.json()["epoch"] > before.epoch
    assert desk.world.registry.aliases(MOVIES).keys() == {Alias.CHAMPION, Alias.PREVIOUS}
    refused = desk.post("abort")
    assert (refused.status_code, "is aborted" in refused.text) == (409, True)


def test_a_promotion_waits_for_the_readers_and_then_serves_everybody(desk: Desk) -> None:
    rollout = desk.started()

    def promoted() -> bool:
        answer = desk.post("promote", Role.APPROVER)
        assert answer.status_code == 200 or "reader" in answer.text
        return answer.status_code == 200

    eventually(promoted, "the readers are ready")
    assert desk.world.registry.champion(MOVIES) == rollout.canary
    assert desk.world.route().stable == rollout.canary
    eventually(lambda: desk.api.recommend("u1")["model_version"] == rollout.canary, "the API serves it")
    last = desk.world.events()[-1]
    assert (last.evidence["command"], last.evidence["role"], last.weight_bp) == ("promote", "approver", FULL_WEIGHT_BP)
    assert last.evidence["outlook"]


def test_an_experiment_promotes_nobody(desk: Desk) -> None:
    desk.started(kind="ab")
    answer = desk.post("promote")
    assert (answer.status_code, "promotes nobody" in answer.text) == (409, True)


def test_an_aa_compares_the_champion_with_itself(desk: Desk) -> None:
    rollout = desk.started(kind="aa")
    assert (rollout.kind, rollout.stable, rollout.canary) == (Kind.AA, "v2", "v2")
    assert Alias.CHALLENGER not in desk.world.registry.aliases(MOVIES)


def test_a_bandit_begins_with_equal_shares_the_champion_first(desk: Desk) -> None:
    rollout = desk.started(kind="bandit", arms=["v3", "v2", "v1"])
    assert [(arm.version, arm.weight_bp) for arm in rollout.arms] == [("v2", 3_334), ("v3", 3_333), ("v1", 3_333)]
    assert rollout.stable == "v2"
    assert [stage.weight_bp for stage in rollout.plan.stages] == [6_666]


def test_the_forecast_of_an_experiment_is_about_telling_its_versions_apart(desk: Desk) -> None:
    told = desk.start(kind="ab", canary="v3").json()["forecast"]
    assert [stage["limited_by"] for stage in told["stages"]] == ["proof of a difference"]


def test_a_language_model_is_no_arm_of_a_bandit(desk: Desk) -> None:
    adapter = desk.world.publish(7, language=True)
    answer = desk.start(kind="bandit", arms=["v2", adapter])
    assert (answer.status_code, "language model" in answer.text) == (409, True)


def test_stages_and_a_gate_of_the_operator_s_own_are_kept_with_the_rollout(desk: Desk) -> None:
    stages = [{"weight_bp": 1_000, "min_users": 7}, {"weight_bp": 9_000, "margin": 0.05}]
    rollout = desk.started(stages=stages, gate={"metric": "ctr", "breaker_requests": 30})
    assert [(stage.weight_bp, stage.min_users, stage.margin) for stage in rollout.plan.stages] == [
        (1_000, 7, pytest.approx(0.1 / 0.9)),
        (9_000, 100, 0.05),
    ]
    assert (rollout.plan.policy.metric, rollout.plan.policy.breaker_requests) == ("ctr", 30)
    assert desk.get().json()["plan"]["policy"]["metric"] == "ctr"


@pytest.mark.parametrize("own", [{"stages": [{"weight_bp": 5_000, "max_seconds": 120.0}]}, {"gate": {"margin": 0.2}}])
def test_stages_and_a_gate_of_one_s_own_take_an_approver(desk: Desk, own: dict[str, object]) -> None:
    seen = desk.world.latest()
    answer = desk.post("", Role.OPERATOR, {**BODY, **own}, matched=False)
    assert (answer.status_code, "approver" in answer.text) == (403, True)
    assert desk.world.latest() == seen
    assert desk.post("", Role.APPROVER, {**BODY, **own}, matched=False).status_code == 201


def test_a_start_at_an_epoch_that_is_over_is_refused(desk: Desk) -> None:
    answer = desk.post("", If_Match='"1"')
    assert (answer.status_code, "epoch 1," in answer.text) == (412, True)


def test_a_margin_of_the_operator_s_own_holds_in_every_stage(desk: Desk) -> None:
    settings = desk.api.parts.settings.plan
    rollout = desk.started(gate={"margin": settings.policy.margin / 2})
    ours, theirs = ([stage.margin for stage in stages] for stages in (rollout.plan.stages, settings.stages))
    assert ours[1:-1] == [pytest.approx((margin or 0) / 2) for margin in theirs[1:-1]]
    assert (theirs[0], theirs[-1]) == (ours[0], ours[-1]) == (None, None)


def test_a_rollback_ends_the_open_rollout_and_serves_at_once(desk: Desk) -> None:
    first, second = desk.world.champions
    canary = desk.started()
    desk.world.ramp(2)
    answer = desk.post("rollback", Role.OPERATOR, {**BODY, "version": first}, matched=False)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["kind"], told["phase"], told["stable"], told["canary"]) == ("rollback", "promoted", second, first)
    phases = {each.id: each.phase for each in desk.world.rollouts.history(MOVIES, 10)}
    assert phases[canary.id] is Phase.ABORTED
    assert desk.world.registry.champion(MOVIES) == first
    route = desk.world.route()
    assert (route.stable, route.canary, route.epoch) == (first, None, told["epoch"])
    eventually(lambda: desk.api.recommend("u1")["model_version"] == first, "the API serves it")
    again = desk.post("rollback", body={**BODY, "version": first}, matched=False)
    assert (again.status_code, "is the champion already" in again.text) == (409, True)
    for role in (Role.OPERATOR, Role.APPROVER):
        back = desk.post("rollback", role, {**BODY, "version": "previous"}, matched=False)
        assert (back.status_code, f"{second} was rolled back to {first} already" in back.text) == (409, True)
    assert desk.post("rollback", Role.OPERATOR, {**BODY, "version": second}, matched=False).status_code == 403
    forth = desk.post("rollback", Role.APPROVER, {**BODY, "version": second}, matched=False)
    assert (forth.status_code, forth.json()["canary"]) == (200, second)


def test_a_version_whose_artifact_is_collected_or_damaged_is_not_returned_to(desk: Desk) -> None:
    world, body = desk.world, {**BODY, "version": "previous"}
    first = world.champions[0]
    factors = world.artifacts.path(MOVIES, first) / "factors.safetensors"
    whole = factors.read_bytes()
    flip_one_byte(factors)
    damaged = desk.post("rollback", body=body, matched=False)
    assert (damaged.status_code, "damaged" in damaged.text) == (409, True)
    factors.write_bytes(whole)
    last = world.registry.events(MOVIES)[-1].id
    world.registry.begin_collection(MOVIES, [first], last, "test")
    collected = desk.post("rollback", body=body, matched=False)
    assert (collected.status_code, "collected" in collected.text) == (409, True)
    unknown = desk.post("rollback", body={**BODY, "version": "v999"}, matched=False)
    assert (unknown.status_code, "registered" in unknown.text) == (409, True)
    assert world.registry.champion(MOVIES) == world.champions[-1]


def test_without_a_champion_before_there_is_nothing_to_return_to(fresh_stores: Endpoints, tmp_path: Path) -> None:
    with operator_desk(fresh_stores, tmp_path, crowned=1) as desk:
        answer = desk.post("rollback", body={**BODY, "version": "previous"})
        assert (answer.status_code, "no champion before" in answer.text) == (409, True)


def told_alike(answers: list[httpx.Response]) -> httpx.Response:
    assert len({(answer.status_code, answer.text, answer.headers.get("ETag")) for answer in answers}) == 1, [
        answer.text for answer in answers
    ]
    return answers[0]


def test_a_request_that_is_repeated_is_answered_the_same_and_done_once(desk: Desk) -> None:
    start = [desk.post("", matched=False, Idempotency_Key="s1") for _ in range(2)]
    assert told_alike(start).status_code == 201
    epoch = f'"{desk.world.latest().epoch}"'
    pause = [desk.post("pause", Idempotency_Key="p1", If_Match=epoch) for _ in range(2)]
    assert told_alike(pause).json()["phase"] == "paused"
    assert desk.post("abort").status_code == 200
    assert told_alike([pause[0], desk.post("pause", Idempotency_Key="p1", If_Match=epoch)]).status_code == 200
    back = [desk.post("rollback", body={**BODY, "version": "previous"}, Idempotency_Key="b1") for _ in range(3)]
    assert told_alike(back).json()["kind"] == "rollback"
    history = desk.get("/history").json()["rollouts"]
    assert [len(rollout["events"]) for rollout in history[:2]] == [1, 3]


def test_requests_at_the_same_time_are_one(desk: Desk) -> None:
    headers = {**desk.keys[Role.OPERATOR], "Idempotency-Key": "k"}
    started = told_alike(desk.api.sent_together(PATH, BODY, headers, 8))
    assert started.status_code == 201
    matched = {**headers, "Idempotency-Key": "p", "If-Match": started.headers["ETag"]}
    assert told_alike(desk.api.sent_together(f"{PATH}/pause", BODY, matched, 8)).status_code == 200
    aborted = {**headers, "Idempotency-Key": "a"}
    assert told_alike(desk.api.sent_together(f"{PATH}/abort", BODY, aborted, 8)).status_code == 200
    assert [event.to_phase for event in desk.world.events()] == [Phase.PREPARING, Phase.PAUSED, Phase.ABORTED]


def test_without_a_key_one_of_several_at_the_same_time_is_done(desk: Desk) -> None:
    answers = desk.api.sent_together(PATH, BODY, desk.keys[Role.OPERATOR], 6)
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409, 409, 409]


def test_an_idempotency_key_is_for_one_request_of_one_operator(desk: Desk) -> None:
    assert desk.post("", matched=False, Idempotency_Key="k").status_code == 201
    other = desk.post("abort", Idempotency_Key="k")
    assert (other.status_code, "another request" in other.text) == (422, True)
    body = desk.post("", body={"reason": "another reason"}, matched=False, Idempotency_Key="k")
    assert body.status_code == 422
    assert desk.world.latest().phase is Phase.PREPARING
    somebody = desk.post("abort", Role.OPERATOR, Idempotency_Key="k")
    assert somebody.status_code == 200
    for garbage in ("", "a b", "x" * 129, "a\tb"):
        assert desk.post("abort", Idempotency_Key=garbage).status_code == 422


def test_what_was_refused_may_be_asked_again(desk: Desk) -> None:
    refused = desk.post("resume", Idempotency_Key="r", If_Match='"1"')
    assert refused.status_code == 412
    desk.start()
    assert desk.post("pause").status_code == 200
    assert desk.post("resume", Idempotency_Key="r").status_code == 200
