"""Environments of peers, and the processes that run in them."""

import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.peers import PeerError, environment, run


def wheel_of(directory: Path, name: str) -> Path:
    """An installable package without content."""
    path, info = directory / f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.mark.slow
def test_an_environment_is_made_once_and_again_when_its_requirements_change(tmp_path: Path) -> None:
    first, second = (str(wheel_of(tmp_path, name)) for name in ("first", "second"))
    python = environment("peer", [first], tmp_path / "all")
    mark = python.parent / "mark"
    mark.touch()
    assert environment("peer", [first], tmp_path / "all") == python
    assert mark.exists()
    environment("peer", [first, second], tmp_path / "all")
    assert not mark.exists()
    assert {path.name for path in python.parents[1].glob("lib/*/site-packages/*-1.0.dist-info")} == {
        "first-1.0.dist-info",
        "second-1.0.dist-info",
    }


@pytest.mark.slow
def test_a_failed_installation_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="nowhere"):
        environment("peer", [str(tmp_path / "nowhere.whl")], tmp_path / "all")
    assert not (tmp_path / "all" / "peer").exists()


def test_a_peer_script_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(PeerError, match="no_such_script"):
        run("no_such_script", Path(sys.executable), tmp_path)
