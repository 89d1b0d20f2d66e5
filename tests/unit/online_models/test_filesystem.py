"""Artifact directories: whole or absent, and nothing altered is ever read."""

import fcntl
import hashlib
import json
import os
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.numpy

from online_models.contracts.artifacts import MANIFEST_NAME, Manifest, Tensor, decode_manifest, encode_manifest
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import ArtifactError
from online_models.stores.filesystem import FilesystemArtifacts
from tests.samples import MOVIES, manifest

V1 = ModelVersion("v1")
FACTORS = safetensors.numpy.save({"item_factors": np.ones((3, 2), np.float32), "user_factors": np.ones(4, np.float64)})
FILES = {"factors.safetensors": FACTORS, "items.json": b'["a","b","c"]', "empty.json": b""}


@pytest.fixture
def store(tmp_path: Path) -> FilesystemArtifacts:
    return FilesystemArtifacts(tmp_path / "artifacts")


@pytest.fixture
def directory(store: FilesystemArtifacts) -> Path:
    """A written artifact."""
    store.write(manifest(V1), FILES)
    return store.path(MOVIES, V1)


def rewrite_manifest(directory: Path, change: Callable[[Manifest], Manifest]) -> None:
    path = directory / MANIFEST_NAME
    path.write_bytes(encode_manifest(change(decode_manifest(path.read_bytes()))))


def relist(found: Manifest, listed: str, /, **changes: object) -> Manifest:
    files = [msgspec.structs.replace(one, **changes) if one.name == listed else one for one in found.files]
    return msgspec.structs.replace(found, files=files)


def test_an_artifact_comes_back_as_it_was_written(store: FilesystemArtifacts) -> None:
    written, digest = store.write(manifest(V1), FILES)
    found, files = store.read(MOVIES, V1, digest)
    assert (found, files) == (written, FILES)
    assert hashlib.sha256((store.path(MOVIES, V1) / MANIFEST_NAME).read_bytes()).hexdigest() == digest
    by_name = {one.name: one for one in written.files}
    assert by_name["factors.safetensors"].tensors == {
        "item_factors": Tensor("float32", (3, 2)),
        "user_factors": Tensor("float64", (4,)),
    }
    assert by_name["items.json"].bytes == len(FILES["items.json"])


def test_a_version_is_written_once(store: FilesystemArtifacts) -> None:
    store.write(manifest(V1), FILES)
    with pytest.raises(ArtifactError, match="expected no such version yet"):
        store.write(manifest(V1), {"other.json": b"1"})
    assert store.read(MOVIES, V1)[1] == FILES
    assert [path.name for path in store.path(MOVIES, V1).parent.iterdir()] == ["v1"]


def test_of_racing_writers_of_one_version_one_wins_whole(store: FilesystemArtifacts) -> None:
    def write(number: int) -> int | None:
        try:
            store.write(manifest(V1), {"number.json": b"%d" % number})
        except ArtifactError:
            return None
        return number

    with ThreadPoolExecutor(4) as pool:
        winners = [number for number in pool.map(write, range(4)) if number is not None]
    assert len(winners) == 1
    assert store.read(MOVIES, V1)[1] == {"number.json": b"%d" % winners[0]}


@pytest.mark.parametrize("name", [*(name for name, content in FILES.items() if content), MANIFEST_NAME])
def test_one_flipped_bit_in_any_byte_is_refused(store: FilesystemArtifacts, name: str) -> None:
    _, digest = store.write(manifest(V1), FILES)
    path = store.path(MOVIES, V1) / name
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(ArtifactError, match=rf"{name}: expected SHA-256 \w+, found \w+"):
            store.read(MOVIES, V1, digest)
    path.write_bytes(whole)
    store.read(MOVIES, V1, digest)


@pytest.mark.parametrize("name", [name for name, content in FILES.items() if content])
@pytest.mark.parametrize("change", [lambda whole: whole[:-1], lambda whole: whole + b" ", lambda whole: b""])
def test_a_torn_or_grown_file_is_refused(
    store: FilesystemArtifacts, directory: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    path = directory / name
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ArtifactError, match=rf"{name}: expected \d+ bytes, found \d+"):
        store.read(MOVIES, V1)


@pytest.mark.parametrize("name", [*FILES, MANIFEST_NAME])
def test_a_missing_file_is_refused(store: FilesystemArtifacts, directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name}: expected a file: No such file"):
        store.read(MOVIES, V1)


def test_an_absent_version_is_refused(store: FilesystemArtifacts) -> None:
    with pytest.raises(ArtifactError, match=r"v1/manifest\.json: expected a file"):
        store.read(MOVIES, V1)


@pytest.mark.parametrize(
    "tensors",
    [
        {"item_factors": Tensor("float32", (2, 3)), "user_factors": Tensor("float64", (4,))},
        {"item_factors": Tensor("float64", (3, 2)), "user_factors": Tensor("float64", (4,))},
        {"item_factors": Tensor("float32", (3, 2))},
        {},
    ],
)
def test_another_shape_dtype_or_set_of_tensors_is_refused(
    store: FilesystemArtifacts, directory: Path, tensors: dict[str, Tensor]
) -> None:
    rewrite_manifest(directory, lambda found: relist(found, "factors.safetensors", tensors=tensors))
    with pytest.raises(ArtifactError, match=r"factors\.safetensors: expected tensors .*, found .*float32\[3, 2\]"):
        store.read(MOVIES, V1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_neither_written_nor_read(
    store: FilesystemArtifacts, directory: Path, value: float
) -> None:
    poisoned = safetensors.numpy.save({"item_factors": np.array([1.0, value], np.float32)})
    with pytest.raises(ArtifactError, match="expected finite values in tensor 'item_factors'"):
        store.write(manifest("v2"), {"factors.safetensors": poisoned})
    (directory / "factors.safetensors").write_bytes(poisoned)
    digest = hashlib.sha256(poisoned).hexdigest()
    rewrite_manifest(directory, lambda found: relist(found, "factors.safetensors", bytes=len(poisoned), sha256=digest))
    with pytest.raises(ArtifactError, match="expected finite values in tensor 'item_factors'"):
        store.read(MOVIES, V1)


def bfloat16() -> bytes:
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(2)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", FACTORS[:-1], bfloat16()])
def test_what_is_not_safetensors_is_not_written(store: FilesystemArtifacts, content: bytes) -> None:
    with pytest.raises(ArtifactError, match="expected a safetensors file"):
        store.write(manifest(V1), {"factors.safetensors": content})
    with pytest.raises(ArtifactError):
        store.read(MOVIES, V1)


@pytest.mark.parametrize(
    "name", ["../evil", "a/b", "/etc/passwd", "..", ".", "", ".hidden", "a\0b", "a\n", MANIFEST_NAME]
)
def test_a_file_name_that_leaves_the_directory_is_not_written(store: FilesystemArtifacts, name: str) -> None:
    with pytest.raises(ArtifactError):
        store.write(manifest(V1), {name: b"x"})
    assert not store.path(MOVIES, V1).exists()


@pytest.mark.parametrize("name", ["../../secret", "/etc/hostname", "..", ".writing-x"])
def test_a_manifest_that_points_outside_is_refused(store: FilesystemArtifacts, directory: Path, name: str) -> None:
    secret = directory.parents[1] / "secret"
    secret.write_bytes(FILES["items.json"])
    rewrite_manifest(directory, lambda found: relist(found, "items.json", name=name))
    with pytest.raises(ArtifactError, match="expected a plain file name"):
        store.read(MOVIES, V1)


@pytest.mark.parametrize(
    ("model", "version"), [("..", "v1"), ("movies", "../v1"), ("", "v1"), ("movies", ".writing-v1")]
)
def test_a_model_or_version_that_is_no_file_name_is_refused(
    store: FilesystemArtifacts, model: str, version: str
) -> None:
    with pytest.raises(ArtifactError, match="expected a plain file name"):
        store.path(ModelName(model), ModelVersion(version))


def test_an_artifact_moved_to_another_version_is_refused(store: FilesystemArtifacts, directory: Path) -> None:
    directory.rename(directory.with_name("v2"))
    with pytest.raises(ArtifactError, match="expected model and version movies v2, found movies v1"):
        store.read(MOVIES, ModelVersion("v2"))


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b"{'", b'{"schema_version": 1}'])
def test_a_manifest_that_is_none_is_refused(store: FilesystemArtifacts, directory: Path, raw: bytes) -> None:
    (directory / MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(ArtifactError, match="expected a manifest"):
        store.read(MOVIES, V1)


def test_a_manifest_of_a_later_schema_is_refused(store: FilesystemArtifacts, directory: Path) -> None:
    rewrite_manifest(directory, lambda found: msgspec.structs.replace(found, schema_version=2))
    with pytest.raises(ArtifactError, match="expected schema version 1, found 2"):
        store.read(MOVIES, V1)


def test_a_failed_write_leaves_nothing(store: FilesystemArtifacts, tmp_path: Path) -> None:
    store.write(manifest(V1), FILES)
    with pytest.raises(TypeError):
        store.write(manifest("v2"), {"a.json": b"1", "b.json": None})  # type: ignore[dict-item]
    with pytest.raises(ArtifactError):
        store.write(manifest(V1), {"a.json": b"1"})
    assert sorted(path.name for path in (tmp_path / "artifacts" / "movies").iterdir()) == ["v1"]


def test_what_is_being_written_is_nobodys_to_remove_until_its_writer_has_finished_or_died(
    store: FilesystemArtifacts, directory: Path
) -> None:
    soon = datetime.now(UTC) + timedelta(days=9)
    with store.writing(manifest("v2"), FILES):
        assert store.written_before(MOVIES, soon) == ["v1"]
    assert store.written_before(MOVIES, soon) == ["v1", "v2"]
    left, begun = directory.with_name(".writing-v7-1-aa"), directory.with_name(".writing-v8-1-bb")
    left.mkdir()
    descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    (left / "items.json").write_bytes(b"[")
    begun.mkdir()  # a moment before its writer locks it
    assert store.remove_unfinished(MOVIES, soon) == []
    os.close(descriptor)  # as at a process's end
    assert store.unfinished(MOVIES, datetime.now(UTC) - timedelta(hours=1)) == []
    assert store.unfinished(MOVIES, soon) == [left.name]
    assert store.remove_unfinished(MOVIES, soon) == [left.name]
    assert (left.exists(), begun.exists()) == (False, True)


def test_a_sweep_without_grace_takes_nothing_from_a_writer_at_work(store: FilesystemArtifacts) -> None:
    soon = datetime.now(UTC) + timedelta(days=9)

    def write(number: int) -> None:
        store.write(manifest(f"v{number}"), {f"{name}.json": b"[]" for name in range(20)})

    with ThreadPoolExecutor(1) as pool:
        written = [pool.submit(write, number) for number in range(40)]
        swept: list[str] = []
        while not all(done.done() for done in written):
            swept += store.remove_unfinished(MOVIES, soon)
        for done in written:
            done.result()
    assert swept == []
    assert len(store.written_before(MOVIES, soon)) == 40


def test_what_a_crashed_writer_left_is_ignored_and_removed_after_a_day(
    store: FilesystemArtifacts, directory: Path
) -> None:
    old, young = directory.with_name(".writing-v7-1-aa"), directory.with_name(".writing-v8-1-bb")
    for left in (old, young):
        left.mkdir()
        (left / "items.json").write_bytes(b"[")
    day_ago = time.time() - 25 * 3600
    os.utime(old, (day_ago, day_ago))
    for version in ("v7", "v8"):
        with pytest.raises(ArtifactError):
            store.read(MOVIES, ModelVersion(version))
    store.write(manifest("v9"), FILES)
    assert not old.exists()
    assert young.exists()
    store.read(MOVIES, V1)
