"""`python -m online_models off-policy` as people run it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from online_models.__main__ import main
from online_models.contracts.events import SHADOW_PLACE_FEATURE, SHADOW_VERSION_FEATURE, Event, EventType, FeatureValue
from tests.off_policy_worlds import Shelf
from tests.samples import event_id
from tests.strategies import ndjson

ROOT = Path(__file__).parents[2]
K = 4
REQUESTS = 1_500
T0, HOUR_MS = 1_767_225_600_000, 3_600_000


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process; gives its exit status, output and errors."""

    def of(*arguments: str | Path) -> tuple[int, str, str]:
        status = main(["off-policy", *map(str, arguments)])
        out, err = capsys.readouterr()
        return status, out, err

    return of


def served(shelf: Shelf) -> list[Event]:
    """Lists of several rankers with their clicks; v2, in the shadow, turns each of them round."""
    position, clicked, item = shelf.swaps(1, REQUESTS)
    made = []
    for row, (place, taken, code) in enumerate(zip(position.tolist(), clicked.tolist(), item.tolist(), strict=True)):
        request = row // K
        features: dict[str, FeatureValue] = {SHADOW_VERSION_FEATURE: "v2", SHADOW_PLACE_FEATURE: float(K - 1 - place)}
        shown = Event(
            event_id=event_id(2 * row),
            type=EventType.IMPRESSION,
            user_id=f"u{request % 500}",
            item_id=f"i{code}",
            ts=T0 + HOUR_MS * request,
            domain="movies",
            request_id=f"r{request}",
            position=place,
            model_version="v1",
            propensity=1.0,
            features=features,
        )
        click = msgspec.structs.replace(shown, event_id=event_id(2 * row + 1), type=EventType.CLICK, features=None)
        made += [shown, click] if taken else [shown]
    return made


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("off-policy") / "log.ndjson"
    path.write_bytes(ndjson(served(Shelf.drawn(1, positions=K, items=6))) + b"not an event\n")
    return path


def test_positions_alone_are_printed(log: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [sys.executable, "-m", "online_models", "off-policy", str(log), "--positions", "--json", str(found)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.split("\n\n")[1].splitlines()[1:]
    assert head.split()[0] == "position"
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"]
    written = json.loads(found.read_text())
    truth = Shelf.drawn(1, positions=K, items=6).theta
    errors = written["positions"]["standard_error"]
    assert all(abs(a - b) <= 4 * c for a, b, c in zip(written["looks"], truth.tolist(), errors, strict=True))
    assert (written["impressions"], written["lists"], written["users"]) == (K * REQUESTS, REQUESTS, 500)
    assert sum(written["refused"].values()) == 1
    assert "left out 1 rows" in done.stdout
    assert written["candidate"] is None


def test_a_version_in_the_shadow_is_compared_with_the_one_that_was_shown(run: Run, log: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    status, out, err = run(log, "--shadow", "v2", "--json", found)
    assert status == 0, err
    written = json.loads(found.read_text())["candidate"]
    assert written["requests"] == REQUESTS
    assert written["coverage"] == pytest.approx(1)
    assert written["break_even"] is None
    assert f"{written['order']['lower']:.4f} to {written['order']['upper']:.4f}" in out
    assert written["order"]["upper"] < 0, "the best are shown last by a list turned round"


def test_lists_of_a_file_are_compared_and_given_looks_take_the_place_of_estimated_ones(
    run: Run, log: Path, tmp_path: Path
) -> None:
    policy, found = tmp_path / "policy.ndjson", tmp_path / "found.json"
    policy.write_text("".join(f'{{"user_id":"u{n}","items":["i0","i1","i2","i3"]}}\n' for n in range(500)))
    status, out, err = run(log, "--policy", policy, "--looks", "1,0.5,0.4,0.3", "--clip", "2", "--json", found)
    assert status == 0, err
    assert "positions are looked at as given: 1, 0.5, 0.4, 0.3" in out
    written = json.loads(found.read_text())
    assert written["positions"] is None
    assert written["candidate"]["per_list"]["diagnosis"]["clipped_share"] > 0
    assert "clipped" in out


def test_what_is_too_small_is_refused_in_words_and_the_command_did_its_work(run: Run, log: Path) -> None:
    status, out, err = run(log, "--shadow", "v2", "--min-ess", "1e9")
    assert status == 0, err
    assert "the candidate's lists: refused" in out
    assert "1e+09 needed" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shadow", "v7"], "no impression has a place by v7; versions in the shadow: v2"),
        (["--policy", "/nowhere.ndjson"], "/nowhere.ndjson: cannot be read"),
        (["--json", "/nowhere/at/all.json"], "no such directory"),
        (["--clip", "0"], "expected clip above 0"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run: Run, log: Path, arguments: list[str], message: str) -> None:
    status, out, err = run(log, *arguments)
    assert (status, out) == (1, "")
    assert err.startswith("penstock: ")
    assert message in err
    assert len(err.splitlines()) == 1


def test_help_shows_an_example_and_wrong_looks_are_refused(
    run: Run, log: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run("--help")
    assert "example: python -m online_models off-policy" in capsys.readouterr().out
    for looks in ("1,0", "a"):
        with pytest.raises(SystemExit) as left:
            run(log, "--looks", looks)
        assert left.value.code == 2
        assert "--looks" in capsys.readouterr().err
