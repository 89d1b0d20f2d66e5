"""A client of the rollouts' REST routes: what operators' commands say over HTTP.

- A change is asked for with the epoch that was just read and with an idempotency key: what got no answer is asked once more, and
  is done once.
- What the server refuses comes back in its own words.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from online_models.errors import SettingsError
from serving_api.access import KEY
from serving_api.rollout_schemas import RolloutReport

TIMEOUT_SECONDS: Final = 30.0
"""A rollback reads an artifact whole before it answers."""

Body = dict[str, object]


@dataclass(frozen=True, slots=True)
class Refused:
    """The server does not do it, and says why."""

    reason: str


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """None came, or something else answered."""

    reason: str


Failure = Refused | NoAnswer


class RolloutClient:
    """Asks one server, such as `http://127.0.0.1:8000`, with one key. Raises SettingsError when either is none."""

    def __init__(self, url: str, api_key: str) -> None:
        if not KEY.fullmatch(api_key):
            raise SettingsError("expected an API key pk_..., in PENSTOCK_SERVING_API_KEY or the file of --key-file")
        try:
            self._http = httpx.Client(
                base_url=url, headers={"Authorization": f"Bearer {api_key}"}, timeout=TIMEOUT_SECONDS
            )
        except httpx.InvalidURL as error:
            raise SettingsError(f"--url: {error}") from error

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def status(self, model: str) -> bytes | Failure:
        """A `RolloutReport` of the youngest rollout."""
        return _content(self._sent("GET", model))

    def history(self, model: str, limit: int) -> bytes | Failure:
        """A `HistoryReport` of the last rollouts."""
        return _content(self._sent("GET", model, f"/history?limit={limit}"))

    def start(self, model: str, body: Body, key: str) -> bytes | Failure:
        """A `StartReport` of a new rollout."""
        return _content(self._sent("POST", model, "", body, {"Idempotency-Key": key}))

    def order(self, model: str, verb: str, body: Body, key: str, *, matched: bool) -> bytes | Failure:
        """An `OrderReport` of the changed rollout; matched : only as it is now, not when it moves in between."""
        headers = {"Idempotency-Key": key}
        if matched:
            seen = self.status(model)
            if not isinstance(seen, bytes):
                return seen
            headers["If-Match"] = f'"{RolloutReport.model_validate_json(seen).epoch}"'
        return _content(self._sent("POST", model, f"/{verb}", body, headers))

    def _sent(
        self,
        method: str,
        model: str,
        rest: str = "",
        body: Body | None = None,
        headers: dict[str, str] | None = None,
        again: int = 1,
    ) -> httpx.Response | NoAnswer:
        try:
            return self._http.request(method, f"/v1/rollouts/{quote(model, safe='')}{rest}", json=body, headers=headers)
        except httpx.TransportError as error:
            if again:
                return self._sent(method, model, rest, body, headers, again - 1)
            return NoAnswer(f"{self._http.base_url}: {error}")


class _Problem(BaseModel):
    """Why, in one sentence or as faults of a body."""

    detail: str | list[dict[str, object]]

    def told(self) -> str:
        if isinstance(self.detail, str):
            return self.detail
        return "; ".join(f"{_place(fault.get('loc'))}: {fault.get('msg')}" for fault in self.detail)


def _place(steps: object) -> str:
    return ".".join(map(str, steps)) if isinstance(steps, list) else "body"


def _content(response: httpx.Response | NoAnswer) -> bytes | Failure:
    if isinstance(response, NoAnswer):
        return response
    if response.is_success:
        return response.content
    try:
        return Refused(f"{response.status_code}: {_Problem.model_validate_json(response.content).told()}")
    except ValidationError:
        return NoAnswer(f"{response.url}: {response.status_code} {response.text[:200]!r}")
