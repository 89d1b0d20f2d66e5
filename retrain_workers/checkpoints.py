"""Checkpoints of running jobs as files `<root>/<job id>/<name>.<token>`: what another attempt of the job goes on from.

- Written aside, fsynced, renamed; headed by the SHA-256 of all that follows. A torn or altered file is passed over.
- Each lease writes under its own fencing token, so a worker that froze and goes on cannot touch what its successor wrote; the
  whole file of the highest token is read.
- A file names the job it belongs to by a fingerprint of model, trigger, payload and release: after a database was made anew, or
  the code replaced, a file of the same number is passed over as well.
- A disk that is full costs the checkpoint, not the training.
- The directory is on the worker's own disk. A job that goes on elsewhere starts over, unless the workers share `PENSTOCK_HOME`.
"""

import hashlib
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec

from online_models.contracts.ids import FencingToken, JobId
from online_models.contracts.jobs import RetrainJob
from retrain_workers.publish import code_version

STALE: Final = timedelta(days=7)
"""Checkpoints of a job that nobody knows are kept for so long: its database may be another one that shares the directory."""

_LOG = logging.getLogger(__name__)
_MAGIC: Final = b"penstock checkpoint 1\n"
_HASH_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_ASIDE: Final = ".writing-"


@dataclass(frozen=True, slots=True)
class JobCheckpoints:
    """What one lease of a job keeps, and finds.

    directory : of the job; it need not exist
    fingerprint : (32,) bytes, of the job and the release
    """

    directory: Path
    token: FencingToken
    fingerprint: bytes

    @classmethod
    def of(cls, root: Path, job: RetrainJob) -> "JobCheckpoints":
        """The checkpoints of a leased job below the root of all."""
        about = (job.model, job.trigger_id, job.payload, code_version())
        return cls(root / str(job.id), job.token, hashlib.sha256(msgspec.json.encode(about)).digest())

    def keep(self, name: str, state: bytes) -> None:
        """Replace what is kept under a name of letters, digits, `_` and `-`; whole or not at all. Logs what the disk refuses.

        Raises
        ------
        ValueError
            When the name is no such name.
        """
        target = self._path(name, self.token)
        aside = self.directory / f"{_ASIDE}{name}.{self.token}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            try:
                self._write(aside, state)
                aside.rename(target)
            finally:
                aside.unlink(missing_ok=True)
            _sync_directory(self.directory)
            for token, earlier in self._files(name):
                if token < self.token:
                    earlier.unlink(missing_ok=True)
        except OSError as error:
            _LOG.warning("checkpoint.failed path=%s error=%r", target, str(error))

    def newest(self, name: str) -> bytes | None:
        """The state that was kept last under a name, by this lease or another; None when there is none that is whole."""
        self._path(name, self.token)
        for _, path in sorted(self._files(name), reverse=True):
            state = self._read(path)
            if state is not None:
                return state
            _LOG.warning("checkpoint.ignored path=%s reason='torn, or of another job or release'", path)
        return None

    def _path(self, name: str, token: int) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"expected a checkpoint name of letters, digits, _ and -; got {name!r}")
        return self.directory / f"{name}.{token}"

    def _files(self, name: str) -> list[tuple[int, Path]]:
        found = []
        with suppress(FileNotFoundError):
            for path in self.directory.iterdir():
                stem, _, token = path.name.rpartition(".")
                if stem == name and token.isdecimal():
                    found.append((int(token), path))
        return found

    def _write(self, path: Path, state: bytes) -> None:
        # magic · sha256(fingerprint · state) · fingerprint · state
        digest = hashlib.sha256(self.fingerprint + state).digest()
        with path.open("wb") as file:
            for part in (_MAGIC, digest, self.fingerprint, state):
                file.write(part)
            file.flush()
            os.fsync(file.fileno())

    def _read(self, path: Path) -> bytes | None:
        try:
            raw = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC)
        digest, rest = raw[start : start + _HASH_BYTES], raw[start + _HASH_BYTES :]
        whole = raw.startswith(_MAGIC) and hashlib.sha256(rest).digest() == digest
        return rest[_HASH_BYTES:] if whole and rest.startswith(self.fingerprint) else None


def drop_checkpoints(root: Path, job: JobId) -> None:
    """Remove what a job kept. Idempotent."""
    shutil.rmtree(root / str(job), ignore_errors=True)


def drop_finished(root: Path, finished: Callable[[Sequence[JobId]], set[JobId]], now: datetime) -> list[JobId]:
    """Remove what finished jobs left, and what nobody has touched for `STALE` at `now` (aware). Returns their ids. Idempotent.

    finished : those of given jobs that are in a final state
    """
    touched: dict[JobId, float] = {}
    with suppress(FileNotFoundError):
        for path in root.iterdir():
            if path.name.isdecimal():
                with suppress(FileNotFoundError):
                    touched[JobId(int(path.name))] = path.stat().st_mtime
    gone = finished(sorted(touched)) | {job for job, at in touched.items() if at < (now - STALE).timestamp()}
    for job in gone:
        drop_checkpoints(root, job)
    return sorted(gone)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
