"""`POST /v1/events`: whole bodies or nothing, and the reasons why not."""

import json
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from online_models.contracts.events import API_FEATURES, MAX_ID_LENGTH, MAX_LINE_BYTES, timestamp_ms
from online_models.stores.embedded import Endpoints
from tests.api_process import Api, logged_events, started_api, store_settings

CLICK = {"type": "click", "user_id": "u1", "item_id": "i1", "domain": "movies"}


@pytest.fixture
def api(fresh_stores: Endpoints, tmp_path: Path) -> Iterator[Api]:
    with started_api(store_settings(fresh_stores, tmp_path)) as api:
        yield api


def test_one_event_is_appended_with_an_id_and_a_time_of_its_own(api: Api, tmp_path: Path) -> None:
    response = api.post("/v1/events", json.dumps({**CLICK, "event_id": None, "unknown": 1}).encode())
    assert response.status_code == 202
    (event,) = logged_events(tmp_path)
    assert response.json() == {"event_ids": [event.event_id]}
    assert uuid.UUID(event.event_id).version == 4
    assert abs(timestamp_ms(event.ts) - api.parts.clock().timestamp() * 1000) < 60_000


def test_a_list_is_appended_in_order_and_keeps_what_it_brings(api: Api, tmp_path: Path) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    sent = [{**CLICK, "event_id": event_id, "ts": "2026-01-01T00:00:00Z", "request_id": "r"} for event_id in ids]
    assert api.post("/v1/events", json.dumps(sent).encode()).json() == {"event_ids": ids}
    assert [event.event_id for event in logged_events(tmp_path)] == ids
    assert {event.ts for event in logged_events(tmp_path)} == {"2026-01-01T00:00:00Z"}


BAD: Final[list[tuple[object, str]]] = [
    ({**CLICK, "type": "laugh"}, "Invalid enum value 'laugh' - at `$.type`"),
    ({"type": "click", "user_id": "u", "domain": "movies"}, "missing required field `item_id`"),
    ({**CLICK, "event_id": "not-a-uuid"}, "event_id: expected a UUID"),
    ({**CLICK, "user_id": ""}, "user_id: expected 1 to"),
    ({**CLICK, "item_id": "i" * (MAX_ID_LENGTH + 1)}, "item_id: expected 1 to"),
    ({**CLICK, "ts": "yesterday"}, "ts: "),
    ({**CLICK, "ts": "2026-01-01T00:00:00"}, "no UTC offset"),
    ({**CLICK, "ts": 10**18}, "ts: expected within"),
    ({**CLICK, "ts": 10**400}, "ts"),
    ({**CLICK, "value": "much"}, "Expected `float | null`"),
    ("a word", "Expected `object`"),
    (None, "Expected `object`"),
]


def test_one_bad_event_refuses_the_whole_body_with_its_reason(api: Api, tmp_path: Path) -> None:
    for bad, reason in BAD:
        response = api.post("/v1/events", json.dumps([CLICK, bad]).encode())
        assert response.status_code == 422, bad
        (error,) = response.json()["errors"]
        assert error["index"] == 1, bad
        assert reason in error["reason"], bad
        assert logged_events(tmp_path) == [], bad


SEEN = {**CLICK, "type": "impression", "request_id": "r", "position": 0, "model_version": "v1", "propensity": 0.5}
CLAIMS: Final[list[tuple[Mapping[str, object], str]]] = [
    ({"rollout_id": 7}, "rollout_id"),
    ({"rollout_id": 0}, "rollout_id"),
    *(({"features": {name: 1.0, "genres": ["Drama"]}}, f"features.{name}") for name in sorted(API_FEATURES)),
    ({"features": {"variant": "canary"}}, "features.variant"),
]


def test_an_impression_that_says_what_the_api_alone_says_is_refused_alone_and_among_others(
    api: Api, tmp_path: Path
) -> None:
    for claim, named in CLAIMS:
        for body, index in (({**SEEN, **claim}, 0), ([CLICK, SEEN, {**SEEN, **claim}], 2)):
            response = api.post("/v1/events", json.dumps(body).encode())
            assert response.status_code == 422, body
            (error,) = response.json()["errors"]
            reason = f"{named}: of an impression the API alone says it, and logs it itself"
            assert error == {"index": index, "reason": reason}, body
            assert logged_events(tmp_path) == [], body


def test_an_impression_of_one_s_own_and_a_click_that_repeats_its_rollout_are_appended(api: Api, tmp_path: Path) -> None:
    click = {**CLICK, "request_id": "r", "rollout_id": 7, "features": {"variant": "canary"}}
    sent = [{**SEEN, "features": {"genres": ["Drama"]}}, {**SEEN, "rollout_id": None}, click]
    assert api.post("/v1/events", json.dumps(sent).encode()).status_code == 202
    assert [event.rollout_id for event in logged_events(tmp_path)] == [None, None, 7]


def test_a_body_that_is_not_json_is_refused(api: Api, tmp_path: Path) -> None:
    for body in (b"", b"{", b"[NaN]", b"\xff\xfe", b"[" * 100_000):
        response = api.post("/v1/events", body)
        assert response.status_code == 422, body[:9]
        assert "not JSON" in response.json()["detail"], body[:9]
        assert logged_events(tmp_path) == [], body[:9]


@pytest.mark.parametrize(("excess", "status"), [(0, 202), (1, 422)])
def test_an_event_longer_than_a_line_may_be_is_refused(api: Api, tmp_path: Path, excess: int, status: int) -> None:
    event = {"event_id": str(uuid.uuid4()), **CLICK, "ts": 1_767_225_600_000, "features": {"text": ""}}
    event["features"] = {"text": "x" * (MAX_LINE_BYTES + excess - len(json.dumps(event, separators=(",", ":"))))}
    response = api.post("/v1/events", json.dumps(event).encode())
    assert response.status_code == status
    lines = [line for path in (tmp_path / "events").glob("*") for line in path.read_bytes().splitlines()]
    assert [len(line) for line in lines] == ([MAX_LINE_BYTES] if status == 202 else [])
    assert excess == 0 or f"at most {MAX_LINE_BYTES} bytes" in response.text


def test_an_event_dated_ten_minutes_ahead_is_refused(api: Api) -> None:
    ahead = round(api.parts.clock().timestamp() * 1000) + 600_000
    assert api.post("/v1/events", json.dumps({**CLICK, "ts": ahead}).encode()).status_code == 422


def test_a_body_over_the_limit_is_refused(api: Api, tmp_path: Path) -> None:
    padded = json.dumps({**CLICK, "padding": "x" * 2**20}).encode()
    assert api.post("/v1/events", padded).status_code == 413
    assert logged_events(tmp_path) == []


def test_a_log_that_takes_nothing_is_a_503_for_events_and_no_failure_for_answers(api: Api, tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file where the directory of segments belongs")
    assert api.post("/v1/events", json.dumps(CLICK).encode()).status_code == 503
    assert api.get("/v1/recommendations/u1?domain=movies").status_code == 200
