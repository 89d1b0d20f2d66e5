"""`python -m online_models evaluate` as people run it, and its learner beside the stream job on a real Redis."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load

from online_models import pacing
from online_models.blend import Blend
from online_models.contracts.events import Event, EventType
from online_models.contracts.ids import hash64
from online_models.evaluation.contenders import CONTENDERS
from online_models.evaluation.log import Log
from online_models.evaluation.ours import Ours
from online_models.learner import Trained, trained_of
from online_models.stores.recorded import read_log
from tests.clustered_world import clustered_events
from tests.engagements import START_MS, engagement, pieces_of
from tests.online_learners import MADE, V1, emptied, learner, store_at
from tests.samples import MOVIES
from tests.strategies import ndjson

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, code: str = "") -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, after some code of ours."""
    program = f"import runpy, sys; {code}; sys.argv[0] = 'online_models'; runpy.run_module('online_models', run_name='__main__')"
    start = ["-c", program] if code else ["-m", "online_models"]
    command = [sys.executable, *start, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks of a small world, and beside them rows that are no events."""
    path = tmp_path_factory.mktemp("evaluate") / "world.ndjson"
    bad = b'not json\n{"event_id":"x","type":"click","user_id":"u","item_id":"i","ts":1,"domain":"movies"}\n'
    path.write_bytes(ndjson(clustered_events(0)) + bad + bad)
    path.with_name("world.items.ndjson").write_text("a catalogue, which is no log")
    return path


def test_it_prints_a_table_and_writes_plots_and_json(log: Path, tmp_path: Path) -> None:
    found, plots = tmp_path / "found.json", tmp_path / "new" / "plots"
    done = run("evaluate", log.with_name("world*.ndjson"), "--json", found, "--plots", plots)
    assert done.returncode == 0, done.stderr
    table = done.stdout.split("\n\n")[1].splitlines()
    assert [line.split()[0] for line in table] == ["model", *CONTENDERS]
    assert "left out 2 rows" in done.stdout
    assert "by what was known of the user, and of the item" in done.stdout
    assert "the best other one by hit@10" in done.stdout
    assert [line.split(":")[0] for line in done.stderr.splitlines()][: len(CONTENDERS)] == list(CONTENDERS)
    for name in ("prequential", "segments"):
        assert (plots / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads(found.read_text())
    assert written["rows"] == 1504
    assert sum(written["refused"].values()) == 4
    assert list(written["models"]) == list(CONTENDERS)
    hits = {name: each["accuracy"]["hit"]["mean"] for name, each in written["models"].items()}
    assert hits["ours"] > 1.3 * hits["popularity"] > 0
    assert f"{hits['ours']:.4f}" in table[-1]


def test_models_split_and_domain_can_be_chosen(log: Path, tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    done = run("evaluate", log, "--models", "rules,popularity", "--split", "0.5", "--domain", "movies", "--json", found)
    assert done.returncode == 0, done.stderr
    written = json.loads(found.read_text())
    assert list(written["models"]) == ["rules", "popularity"]
    assert written["test"]["events"] == -(-written["events"] // 2)
    assert "best other one" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "rules,oracle"], "expected models of popularity, "),
        (["--split", "2"], "split within"),
        (["--domain", "music"], "positive events of music"),
        (["--json", "/nowhere/at/all.json"], "no such directory: /nowhere/at"),
        (["--min-rating", "1"], "lowest rating of 3.5"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(log: Path, arguments: list[str], message: str) -> None:
    done = run("evaluate", log, *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("penstock: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_log_that_is_not_there_or_of_no_known_kind_is_told(tmp_path: Path) -> None:
    for name, message in (("missing.ndjson", "cannot be read"), ("log.xlsx", "expected a name ending in")):
        done = run("evaluate", tmp_path / name)
        assert done.returncode == 1
        assert message in done.stderr


def test_plots_without_matplotlib_are_refused_before_anything_is_measured(log: Path, tmp_path: Path) -> None:
    done = run("evaluate", log, "--plots", tmp_path / "plots", code="sys.modules['matplotlib'] = None")
    assert done.returncode == 1
    assert done.stderr == "penstock: --plots needs matplotlib: pip install 'penstock[report]'\n"
    without = run("evaluate", log, "--models", "popularity", code="sys.modules['matplotlib'] = None")
    assert without.returncode == 0, without.stderr


@pytest.mark.parametrize("command", [(), ("evaluate",)])
def test_help_shows_an_example(command: Sequence[str]) -> None:
    done = run(*command, "--help")
    assert done.returncode == 0
    assert "example: python -m online_models evaluate" in done.stdout


def first_met(users: int, items: int, seed: int) -> Iterator[Event]:
    """Each user meets many of the items, each once, in baskets; the items that `MADE` knows are met first, in its order.

    The events of a basket are in the order of their ids' hashes, which is the order of a history.
    """
    rng = np.random.default_rng(seed)
    pairs = [(int(user), int(item)) for user in range(users) for item in rng.permutation(items)[: items - 10]]
    first = [(users + number, number) for number in range(len(MADE.items))]
    order = sorted(pairs, key=lambda pair: (rng.random() * (1 + pair[1] / items), pair))
    baskets: list[list[tuple[int, int]]] = [[pair] for pair in first]
    for pair in order:
        if baskets[-1][0][0] == pair[0] and len(baskets[-1]) < 3:
            baskets[-1].append(pair)
        else:
            baskets.append([pair])
    number = 0
    for place, basket in enumerate(baskets):
        made = [
            engagement(number + at, START_MS + 60_000 * place, user, item, EventType.RATING, 3.5 + 0.5 * (item % 4))
            for at, (user, item) in enumerate(basket)
        ]
        by_hash = sorted(made, key=lambda event: hash64(event.event_id))
        number += len(made)
        yield from by_hash


def small_version() -> Trained:
    files, manifest = MADE.files(), MADE.manifest(MOVIES, V1, [0, 2])
    return trained_of(
        manifest, load(files["factors.safetensors"]), msgspec.json.decode(files["items.json"], type=list[str])
    )


def test_it_learns_to_the_bit_what_the_stream_job_learns_from_the_same_log(redis_url: str, tmp_path: Path) -> None:
    events = list(first_met(users=70, items=45, seed=0))
    assert len(events) > pacing.CHOICES_AT_FIRST + 2 * pacing.CHOOSE_EVERY
    path = tmp_path / "log.ndjson"
    path.write_bytes(ndjson(events))
    recorded = read_log([path])
    log = Log.of(recorded.items, recorded.user, recorded.item, recorded.ts_ms, strengths_of(events))
    assert log.ids[: len(MADE.items)] == list(MADE.items)

    evaluated = Ours(log, 0, small_version())
    for group in range(log.groups):
        evaluated.learn(log.moment(group))

    with TemporaryDirectory() as home, learner(emptied(redis_url), Path(home)) as streamed:
        cuts = [at for at in range(0, len(events), 97) if events[at - 1].ts != events[at].ts]
        for piece in pieces_of(events, cuts):
            streamed.learn(piece)
        assert evaluated.sources.encode() == streamed.sources.encode()
        with store_at(redis_url) as store:
            held = store.blend(MOVIES, V1)
            assert held is not None
            blend, moved = Blend.decode(held), store.moved_items(MOVIES, V1)
    assert evaluated.version.blend.tried == blend.tried
    np.testing.assert_array_equal(evaluated.version.blend.weights, blend.weights)
    assert len(moved) > 30
    rows = evaluated.sources.rows_of(list(moved))
    for row, item in zip(rows.tolist(), moved.values(), strict=True):
        np.testing.assert_array_equal(evaluated.version.vectors[row], item.vector)
        assert evaluated.version.weights[row] == item.weight


def strengths_of(events: list[Event]) -> npt.NDArray[np.float32]:
    return np.array([float(event.value or 0) - 2.5 for event in events], np.float32)
