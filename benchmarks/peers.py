"""Other people's libraries, each in an environment of its own, run on the same rows as ours.

- Their dependencies exclude one another and ours, so each lives in a virtual environment under `.bench/`, made once.
- Pinned to what was found to work: several do not import after a plain `pip install` of today.
- A peer runs in a process with one thread, and its usage telemetry is off.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from benchmarks.report import ROOT

ENVIRONMENTS: Final = ROOT / ".bench"

PEERS: Final[Mapping[str, Sequence[str]]] = {
    "scouter": ("scouter-ml==0.25.0", "pandas<3", "polars==2.1.0", "pyarrow==26.0.1"),
    "frouros": ("frouros==0.9.0",),
    "nannyml": ("nannyml==0.13.1", "statsmodels", "pandas<3"),
    "evidently": ("evidently==0.7.23", "pandas<3"),
    "outrank": ("outrank==0.97.5", "xxhash<4", "pandas<3"),
}
"""Peer -> what its environment holds: the releases compared with, and the caps without which they fail to import or run."""

ONE_THREAD: Final = {
    f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR", "NUMBA", "POLARS", "RAYON")
} | {"POLARS_MAX_THREADS": "1"}
QUIET: Final = {"NML_DISABLE_USAGE_LOGGING": "1", "DO_NOT_TRACK": "1", "PYTHONWARNINGS": "ignore"}

_RUN_SECONDS: Final = 3_600
_SHOWN_CHARACTERS: Final = 4_000


class PeerError(Exception):
    """A peer could not be installed, or its script failed: why, in its own words."""


def environment(name: str, requirements: Sequence[str] | None = None, under: Path = ENVIRONMENTS) -> Path:
    """The Python of the environment `.bench/<name>`: made when there is none, and again when the requirements change.

    Parameters
    ----------
    requirements : what pip installs; those of `PEERS[name]` by default
    under : where environments lie

    Raises
    ------
    PeerError
        When pip fails; nothing half-made is left.
    """
    wanted = tuple(PEERS[name] if requirements is None else requirements)
    directory = under / name
    python, stamp = directory / "bin" / "python", directory / "requirements.sha256"
    identity = hashlib.sha256("\n".join((sys.version, *wanted)).encode()).hexdigest()
    with _alone(under, name):
        if not stamp.exists() or stamp.read_text() != identity:
            shutil.rmtree(directory, ignore_errors=True)
            _install(name, directory, wanted)
            stamp.write_text(identity)  # last: an environment with a stamp is whole
    return python


@contextmanager
def _alone(under: Path, name: str) -> Iterator[None]:
    """Hold an environment against a second benchmark that would make it too."""
    under.mkdir(exist_ok=True)
    with open(under / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(name: str, directory: Path, requirements: Sequence[str]) -> None:
    print(f"installing {name}: {' '.join(requirements)}", file=sys.stderr, flush=True)
    steps = (
        (sys.executable, "-m", "venv", str(directory)),
        (str(directory / "bin" / "python"), "-m", "pip", "install", "--quiet", *requirements),
    )
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, check=False)
        if done.returncode:
            shutil.rmtree(directory, ignore_errors=True)
            raise PeerError(f"peer {name}: {' '.join(step)} failed\n{_end(done)}")


def run(script: str, python: Path, inputs: Path, *options: str) -> dict[str, object]:
    """What `benchmarks/peer_scripts/<script>.py INPUTS [options]` says: the JSON object in its last line of output.

    Raises
    ------
    PeerError
        When it fails.
    """
    command = [str(python), "-m", f"benchmarks.peer_scripts.{script}", str(inputs), *options]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **ONE_THREAD, **QUIET},
        capture_output=True,
        text=True,
        check=False,
        timeout=_RUN_SECONDS,
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        raise PeerError(f"peer script {script}: exit status {done.returncode}\n{_end(done)}")
    said: dict[str, object] = json.loads(lines[-1])
    return said


def installed_bytes(name: str) -> int:
    """Disk size of an environment, links not followed."""
    return sum(path.lstat().st_size for path in (ENVIRONMENTS / name).rglob("*") if not path.is_symlink())


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stdout + done.stderr)[-_SHOWN_CHARACTERS:]
