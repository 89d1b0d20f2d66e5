"""`POST /v1/events`: one event or a list of them into the event log, all or none.

- Events are judged as the stream job judges them: what is accepted here is no dead letter there.
- What a rollout's arms have shown to whom, the API alone says: impressions that claim it are refused, since rollouts are judged
  by them. Clicks and the like may repeat what the answer said.
"""

import logging
from dataclasses import dataclass
from typing import Final

import msgspec
from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.concurrency import run_in_threadpool

from online_models.contracts.events import (
    API_FEATURES,
    MAX_LINE_BYTES,
    Event,
    EventType,
    TimeBounds,
    reason_to_reject,
    timestamp_ms,
)
from online_models.errors import PenstockError
from serving_api.routes.bodies import TOO_LARGE
from serving_api.routes.parts import Parts, now_ms, parts_of, time_bounds
from serving_api.schemas import EventIn, EventsAccepted, EventsRefused, Problem

log: Final = logging.getLogger(__name__)

router = APIRouter(tags=["events"])

_EVENT: Final = EventIn.model_json_schema(ref_template="#/components/schemas/{model}")
_EXAMPLE: Final = _EVENT["example"]
REQUEST_BODY: Final = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"anyOf": [_EVENT, {"type": "array", "items": _EVENT}]},
            "examples": {
                "one": {"summary": "One event", "value": _EXAMPLE},
                "several": {"summary": "Several events", "value": [_EXAMPLE, {**_EXAMPLE, "type": "click"}]},
            },
        }
    },
}


@dataclass(frozen=True, slots=True)
class Judged:
    """The acceptable events of a body in order, each with its line of the log, and why others are not: index -> reason."""

    events: list[Event]
    lines: list[bytes]
    refused: dict[int, str]


@router.post(
    "/v1/events",
    status_code=202,
    response_class=Response,
    openapi_extra={"requestBody": REQUEST_BODY},
    responses={
        202: {"model": EventsAccepted, "description": "Appended; ids in the order sent."},
        413: {**TOO_LARGE},
        422: {"model": EventsRefused, "description": "At least one event is not acceptable; none was appended."},
        503: {"model": Problem, "description": "The event log takes no events now."},
    },
)
async def append_events(request: Request) -> Response:
    """Append clicks, watches, purchases, ratings, skips and impressions.

    An event with an `event_id` of its own may be sent again: it counts once. Without one each sending is another event.
    """
    parts = parts_of(request)
    sent = _sent(await request.body())
    judged = _judge(sent, parts)
    if judged.refused:
        return _refusal(judged.refused, len(sent), parts)
    try:
        await run_in_threadpool(parts.event_log.append, judged.lines)
    except (OSError, PenstockError) as error:
        log.error("events_not_appended count=%d error=%s", len(judged.events), error)
        raise HTTPException(503, f"the event log takes no events now: {error}") from error
    parts.instruments.events.inc(len(judged.events))
    return _json(202, {"event_ids": [event.event_id for event in judged.events]})


def _sent(body: bytes) -> list[object]:
    """The events of a body, not yet judged. Raises HTTPException 422 when it is not JSON."""
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(422, f"the body is not JSON: {error}") from error
    return decoded if isinstance(decoded, list) else [decoded]


def _judge(sent: list[object], parts: Parts) -> Judged:
    came_ms, bounds = now_ms(parts), time_bounds(parts)
    judged = Judged([], [], {})
    for index, fields in enumerate(sent):
        if isinstance(fields, dict):
            fields = {"event_id": parts.new_id(), "ts": came_ms} | {k: v for k, v in fields.items() if v is not None}
        found = judge(fields, bounds)
        if isinstance(found, str):
            judged.refused[index] = found
        elif len(line := msgspec.json.encode(found)) > MAX_LINE_BYTES:
            judged.refused[index] = f"expected at most {MAX_LINE_BYTES} bytes as a line of the log, got {len(line)}"
        else:
            judged.events.append(found)
            judged.lines.append(line)
    return judged


def judge(fields: object, bounds: TimeBounds) -> Event | str:
    """The event in decoded JSON, or the reason why it is none.

    >>> judge({"event_id": "x"}, TimeBounds(0, 9))
    'Object missing required field `type`'
    """
    try:
        event = msgspec.convert(fields, Event)
        moment = timestamp_ms(event.ts)
    except msgspec.ValidationError as error:
        return str(error)
    except (ValueError, OverflowError) as error:
        return f"ts: {error}"
    return reason_to_reject(event, moment, bounds) or _claim(event) or event


def _claim(event: Event) -> str | None:
    """What an impression says that only the API may say, or None."""
    if event.type is not EventType.IMPRESSION:
        return None
    if event.rollout_id is not None:
        return "rollout_id: of an impression the API alone says it, and logs it itself"
    claimed = sorted(API_FEATURES & (event.features or {}).keys())
    return f"features.{claimed[0]}: of an impression the API alone says it, and logs it itself" if claimed else None


def _refusal(refused: dict[int, str], sent: int, parts: Parts) -> Response:
    parts.instruments.events_refused.inc(len(refused))
    errors = [{"index": index, "reason": reason} for index, reason in refused.items()]
    return _json(422, {"detail": f"{len(refused)} of {sent} events refused, none appended", "errors": errors})


def _json(status: int, content: object) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
