"""Mapped artifacts: the same content as a read, one copy for all processes, and no trust in what lies on the disk."""

import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import ArtifactError
from online_models.ports import MappedArtifact
from online_models.stores.filesystem import FilesystemArtifacts
from online_models.stores.mapped_files import DTYPES, mapped, tensors_in
from tests.artifacts import flip_one_byte, small_model

MOVIES, V1 = ModelName("movies"), ModelVersion("v1")
MADE = small_model(1, items=4_000)
FACTORS = "factors.safetensors"
Named = dict[str, npt.NDArray[np.generic]]


@st.composite
def tensors(draw: st.DrawFn) -> Named:
    names = draw(st.lists(st.text(max_size=8), unique=True, max_size=4))
    kinds = st.sampled_from(sorted(map(str, DTYPES.values())))
    return {
        name: draw(arrays(np.dtype(draw(kinds)), draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))))
        for name in names
        if name != "__metadata__"
    }


@given(tensors())
def test_the_arrays_are_those_that_safetensors_reads(made: Named) -> None:
    content = safetensors.numpy.save(made, {"note": "metadata"})
    plain = safetensors.numpy.load(content)
    found = tensors_in(memoryview(content))
    assert found.keys() == plain.keys()
    for name, array in found.items():
        assert (array.dtype, array.shape) == (plain[name].dtype, plain[name].shape)
        assert array.tobytes() == plain[name].tobytes()
        assert array.flags.c_contiguous
        assert array.flags.aligned


@given(st.binary(max_size=64))
def test_bytes_that_are_no_safetensors_file_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        tensors_in(memoryview(content))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "expected 12 of 8 bytes"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "expected 16 of 8 bytes"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "expected 8 of 8 bytes"),
        ({"dtype": "F32", "shape": [-2, -1], "data_offsets": [0, 8]}, "expected 8 of 8 bytes"),
        ({"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}, "of 8 bytes"),
        ({"dtype": "BF16", "shape": [4], "data_offsets": [0, 8]}, "'BF16'"),
        ({"dtype": "F32", "shape": [2]}, "data_offsets"),
        ([], "expected a safetensors header"),
    ],
)
def test_a_header_that_points_beyond_its_file_is_refused(entry: object, words: str) -> None:
    header = msgspec.json.encode({"a": entry})
    with pytest.raises(ValueError, match=re.escape(words)):
        tensors_in(memoryview(len(header).to_bytes(8, "little") + header + bytes(8)))


@pytest.mark.parametrize("offset", range(4))
def test_an_array_that_is_not_aligned_is_copied_so_that_it_is(offset: int) -> None:
    header = msgspec.json.encode({"a": {"dtype": "F32", "shape": [2], "data_offsets": [offset, offset + 8]}})
    content = len(header).to_bytes(8, "little") + header + bytes(offset) + np.array([1.5, 2.5], "<f4").tobytes()
    found = tensors_in(memoryview(bytearray(content)))
    assert found["a"].flags.aligned
    assert found["a"].tolist() == [1.5, 2.5]


@pytest.fixture
def artifacts(tmp_path: Path) -> FilesystemArtifacts:
    store = FilesystemArtifacts(tmp_path)
    store.write(MADE.manifest(MOVIES, V1, [0, 2]), MADE.files())
    return store


def test_a_mapped_artifact_holds_what_a_read_one_does(artifacts: FilesystemArtifacts) -> None:
    manifest, files = artifacts.read(MOVIES, V1)
    found = artifacts.map(MOVIES, V1)
    assert found.manifest == manifest
    assert found.files == {name: content for name, content in files.items() if name != FACTORS}
    plain = safetensors.numpy.load(files[FACTORS])
    assert {name: array.tobytes() for name, array in found.tensors[FACTORS].items()} == {
        name: array.tobytes() for name, array in plain.items()
    }


def test_arrays_lie_in_the_file_and_are_what_compiled_loops_expect(artifacts: FilesystemArtifacts) -> None:
    factors = artifacts.map(MOVIES, V1).tensors[FACTORS]["item_factors"]
    assert factors.dtype == np.float32
    assert factors.flags.c_contiguous
    assert factors.flags.writeable
    assert (artifacts.path(MOVIES, V1) / FACTORS).stat().st_ino in mapped_inodes()


def test_what_is_written_to_an_array_stays_in_this_process(artifacts: FilesystemArtifacts) -> None:
    here, there = (artifacts.map(MOVIES, V1).tensors[FACTORS]["item_factors"] for _ in range(2))
    before = here[0, 0]
    here[0, 0] = before + 1
    assert there[0, 0] == before
    assert artifacts.map(MOVIES, V1).tensors[FACTORS]["item_factors"][0, 0] == before


def test_a_file_put_in_the_place_of_a_mapped_one_changes_nothing(artifacts: FilesystemArtifacts) -> None:
    found = artifacts.map(MOVIES, V1)
    before = snapshot(found)
    path = artifacts.path(MOVIES, V1) / FACTORS
    other = path.with_suffix(".other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)
    assert snapshot(found) == before
    artifacts.discard(MOVIES, V1)
    assert snapshot(found) == before


@pytest.mark.parametrize(("name", "words"), [(FACTORS, "expected SHA-256"), ("items.json", "expected SHA-256")])
def test_one_flipped_byte_is_refused(artifacts: FilesystemArtifacts, name: str, words: str) -> None:
    flip_one_byte(artifacts.path(MOVIES, V1) / name)
    with pytest.raises(ArtifactError, match=f"{name}: {words}"):
        artifacts.map(MOVIES, V1)


@pytest.mark.parametrize("content", [b"", b"short"])
def test_another_size_is_refused(artifacts: FilesystemArtifacts, content: bytes) -> None:
    (artifacts.path(MOVIES, V1) / FACTORS).write_bytes(content)
    with pytest.raises(ArtifactError, match=f"expected .* bytes, found {len(content)}"):
        artifacts.map(MOVIES, V1)


def test_a_missing_file_is_refused(artifacts: FilesystemArtifacts) -> None:
    (artifacts.path(MOVIES, V1) / FACTORS).unlink()
    with pytest.raises(ArtifactError, match="expected a file"):
        artifacts.map(MOVIES, V1)


def test_a_manifest_that_declares_other_tensors_is_refused(artifacts: FilesystemArtifacts) -> None:
    path = artifacts.path(MOVIES, V1) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"float32"', b'"float64"', 1))
    with pytest.raises(ArtifactError, match="expected tensors"):
        artifacts.map(MOVIES, V1)


def test_an_empty_file_is_mapped_as_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert bytes(mapped(tmp_path / "empty", 0, nothing)) == b""


READER = """
import sys
from pathlib import Path
from online_models.stores.filesystem import FilesystemArtifacts
found = FilesystemArtifacts(Path(sys.argv[1])).map("movies", "v1")
total = float(found.tensors["factors.safetensors"]["item_factors"].sum(dtype="f8"))
print(total, flush=True)
sys.stdin.read()
"""


def test_two_processes_share_one_copy(artifacts: FilesystemArtifacts, tmp_path: Path) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", READER, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    readers = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]  # type: ignore[call-overload]
    try:
        sums = [float(reader.stdout.readline()) for reader in readers]
        assert sums == [pytest.approx(float(MADE.item_factors.sum(dtype=np.float64)))] * 2
        inode = (artifacts.path(MOVIES, V1) / FACTORS).stat().st_ino
        for reader in readers:
            found = mapping_of(reader.pid)
            assert found["inode"] == inode
            assert found["Private_Dirty"] == 0
            assert found["Private_Clean"] + found["Shared_Clean"] >= MADE.item_factors.nbytes // 1024
            assert found["Shared_Clean"] > 0
    finally:
        for reader in readers:
            reader.communicate("")


def snapshot(artifact: MappedArtifact) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in artifact.tensors[FACTORS].items()}


def mapped_inodes() -> set[int]:
    return {int(line.split()[4]) for line in Path("/proc/self/maps").read_text().splitlines()}


def mapping_of(pid: int) -> dict[str, int]:
    """The kernel's figures (KiB) of a process's mapping of the factors, and its inode."""
    blocks = re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", Path(f"/proc/{pid}/smaps").read_text())
    (block,) = [block for block in blocks if block.partition("\n")[0].endswith(FACTORS)]
    head, *lines = block.splitlines()
    figures = {line.split(":")[0]: int(line.split()[1]) for line in lines if line.endswith(" kB")}
    return {"inode": int(head.split()[4]), **figures}
