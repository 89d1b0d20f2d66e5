"""From a click to other recommendations: a real `flows run` and a real API, and how long it takes."""

import time
from pathlib import Path

import httpx
import numpy as np

from online_models.stores.embedded import Endpoints
from tests.api_process import eventually
from tests.integration.test_flow_live import live
from tests.integration.test_flow_replay import make_live
from tests.serving_process import answers, free_port, start

CLICKS = 120
LIMIT_MS = 250.0
"""At p99, in an embedded installation on two cores."""


def items_for(client: httpx.Client, user: str) -> list[str]:
    answer = client.get(f"/v1/recommendations/{user}?domain=movies").raise_for_status().json()
    return [item["item_id"] for item in answer["items"]]


def seconds_until_changed(client: httpx.Client, user: str) -> float:
    """From before a click on the best item to an answer without it."""
    before = items_for(client, user)
    start = time.perf_counter()
    click = {"type": "click", "user_id": user, "item_id": before[0], "domain": "movies"}
    assert client.post("/v1/events", json=click).status_code == 202
    while before[0] in items_for(client, user):
        assert time.perf_counter() - start < 10, "the click changes nothing"
        time.sleep(0.002)
    return time.perf_counter() - start


def test_a_click_changes_the_recommendations_within_a_quarter_of_a_second(
    fresh_stores: Endpoints, tmp_path: Path
) -> None:
    make_live(fresh_stores, tmp_path)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    flow = live(fresh_stores, tmp_path)
    try:
        with start(fresh_stores, tmp_path, "serve", "--port", str(port)) as api, httpx.Client(base_url=url) as client:
            eventually(lambda: answers(f"{url}/readyz"), "the API is ready", seconds=120)
            try:
                seconds_until_changed(client, "first")
                took_ms = [1e3 * seconds_until_changed(client, f"user-{n}") for n in range(CLICKS)]
            finally:
                api.terminate()
    finally:
        flow.terminate()
        flow.wait(60)
    p50, p99 = np.quantile(took_ms, [0.5, 0.99])
    print(f"from a click to other recommendations: p50 {p50:.0f} ms, p99 {p99:.0f} ms")
    assert p99 <= LIMIT_MS
