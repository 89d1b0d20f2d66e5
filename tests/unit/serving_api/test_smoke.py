"""The smoke test in the reader's own code."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from online_models.contracts.artifacts import GoldenQuery
from online_models.contracts.ids import ModelName, ModelVersion, hash64
from online_models.contracts.smoke import decode_smoke
from online_models.errors import ArtifactError
from online_models.history import EMPTY
from online_models.ports import UserState
from online_models.stores.filesystem import FilesystemArtifacts
from serving_api import smoke as smoke_module
from serving_api.__main__ import main
from serving_api.ranking import RankedItem
from serving_api.smoke import Load, Tally, User, drawn_users, opened, smoke
from tests.artifacts import flip_one_byte, small_model
from tests.samples import MOVIES

LOAD = Load(requests=60, clients=4, k=10)
V1 = ModelVersion("v1")


def written(root: Path, expected: list[int] | None = None) -> Path:
    """A small artifact of 30 items; its golden query expects other items where these are given."""
    made, artifacts = small_model(1), FilesystemArtifacts(root)
    manifest = made.manifest(MOVIES, V1, [0, 2])
    if expected is not None:
        manifest = replace(manifest, golden=[GoldenQuery([0, 2], expected)])
    artifacts.write(manifest, made.files())
    return artifacts.path(MOVIES, V1)


def test_a_good_artifact_answers_everybody(tmp_path: Path) -> None:
    found = smoke(written(tmp_path), MOVIES, LOAD)
    assert (found.version, found.kind, found.items, found.requests, found.clients) == ("v1", "als", 30, 120, 4)
    assert (found.errors, found.empty, found.short, found.wrong) == (0, 0, 0, 0)
    assert 0 < found.p50_ms <= found.p99_ms
    assert 0 < found.busy_p50_ms <= found.busy_p99_ms
    assert found.load_seconds > 0
    assert found.rss_bytes > 2**20


def test_users_are_strangers_known_by_id_or_have_a_history(tmp_path: Path) -> None:
    view = opened(written(tmp_path), MOVIES)
    users = drawn_users(view, 0)
    assert users == drawn_users(view, 0) != drawn_users(view, 1)
    known = [user for user in users if user.user_id in view.loaded.user_rows]
    strangers = [user for user in users if not user.items and user not in known]
    assert len(known) == len(strangers) == len(users) / 10
    assert all(set(user.items) <= set(view.loaded.item_ids) for user in users)


def test_given_users_are_asked_for(tmp_path: Path) -> None:
    everything = User("u", [f"i{row}" for row in range(30)])
    found = smoke(written(tmp_path), MOVIES, LOAD, [everything])
    assert (found.empty, found.short) == (0, 0)  # nothing is left to show


@pytest.mark.parametrize("damage", ["byte", "golden", "name", "missing"])
def test_what_a_reader_would_refuse_is_refused(damage: str, tmp_path: Path) -> None:
    directory = written(tmp_path, [9, 8, 7] if damage == "golden" else None)
    if damage == "byte":
        flip_one_byte(directory / "factors.safetensors")
    if damage == "missing":
        (directory / "users.json").unlink()
    model = ModelName("books") if damage == "name" else MOVIES
    said = {"byte": "SHA-256", "golden": "golden query", "name": "books/v1", "missing": "users.json"}[damage]
    with pytest.raises(ArtifactError, match=said):
        smoke(directory, model, LOAD)


def test_wrong_answers_are_counted_as_what_they_are() -> None:
    asked = smoke_module._Asked("u", UserState(None, EMPTY), frozenset({hash64("met")}))
    for answer, wrong in (
        ([], (0, 1, 1, 0)),
        (["a"], (0, 0, 1, 0)),
        (["a", "b", "c"], (0, 0, 0, 0)),
        (["a", "b", "b"], (0, 0, 0, 1)),
        (["a", "b", "met"], (0, 0, 0, 1)),
    ):
        tally = Tally()
        tally.take([RankedItem(item) for item in answer], asked, 3, 30)
        assert (tally.errors, tally.empty, tally.short, tally.wrong) == wrong


def test_a_request_that_raises_something_is_counted_and_the_first_is_told() -> None:
    tally = Tally()
    tally.fail(ValueError("odd"))
    tally.fail(KeyError("later"))
    assert (tally.errors, tally.first_error) == (2, "ValueError: odd")


def test_the_command_prints_one_json_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smoke", "movies", str(written(tmp_path)), "--requests", "20", "--clients", "2"]) == 0
    found = decode_smoke(capsys.readouterr().out.encode())
    assert (found.requests, found.clients) == (40, 2)


def test_the_command_takes_users_from_a_file_or_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = str(written(tmp_path))
    users = json.dumps([{"user_id": "u", "items": ["i1"]}])
    (tmp_path / "users.json").write_text(users)
    asked = ["smoke", "movies", directory, "--requests", "20"]
    assert main([*asked, "--users", str(tmp_path / "users.json")]) == 0
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(users.encode())))
    assert main([*asked, "--users", "-"]) == 0
    (tmp_path / "users.json").write_text("[]")
    capsys.readouterr()
    assert main([*asked, "--users", str(tmp_path / "users.json")]) == 1
    assert "--users: expected at least one" in capsys.readouterr().err


def test_the_command_fails_where_there_is_no_artifact(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["smoke", "movies", str(tmp_path)]) == 1
    assert "expected an artifact" in capsys.readouterr().err


def test_times_grow_with_those_who_ask_at_once(tmp_path: Path) -> None:
    found = smoke(written(tmp_path), MOVIES, Load(requests=400, clients=8))
    assert found.busy_p50_ms > 2 * found.p50_ms
    assert np.isfinite(found.requests_per_second)
