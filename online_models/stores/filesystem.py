"""Model artifacts in a directory: `<root>/<model>/<version>/` with `manifest.json` and the files it lists.

- Written aside in the same file system, hashed, fsynced, then renamed: a directory is whole or absent.
- A read trusts nothing: size, SHA-256, and the dtype, shape and finiteness of every tensor are checked on the very bytes
  that are returned.
- What a crashed writer left behind has a dot name, which no version can have; the next writer removes it after a day.
- A writer holds its directory locked (`flock`) as long as it is at work: what is locked is nobody's to remove, however old.
  Where directories cannot be locked (NFS) its age alone protects it.
"""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from online_models.contracts.artifacts import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    ArtifactFile,
    Manifest,
    Tensor,
    decode_manifest,
    encode_manifest,
)
from online_models.contracts.ids import ModelName, ModelVersion
from online_models.errors import ArtifactError
from online_models.ports import MappedArtifact
from online_models.stores.mapped_files import mapped, tensors_in

MAX_MANIFEST_BYTES: Final = 64 << 20

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}")
_ASIDE = ".writing-"
_TENSORS = ".safetensors"
_ABANDONED = timedelta(days=1)


class FilesystemArtifacts:
    """`ArtifactStore` in a directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def path(self, model: ModelName, version: ModelVersion) -> Path:
        """Where a version's directory is, whether or not it exists. Raises ArtifactError on a name that is no file name."""
        for name in (model, version):
            _refuse_odd_name(name, self._root)
        return self._root / model / version

    def write(self, manifest: Manifest, files: Mapping[str, bytes]) -> tuple[Manifest, str]:
        """Write aside, hash, fsync, rename. Not idempotent: a version is written once.

        Returns the manifest with its `files` filled in, and the SHA-256 of its bytes.

        Raises
        ------
        ArtifactError
            When the version exists, a file name is not plain, or a safetensors file is not one or not finite.
        """
        with self.writing(manifest, files) as written:
            return written

    @contextmanager
    def writing(self, manifest: Manifest, files: Mapping[str, bytes]) -> Iterator[tuple[Manifest, str]]:
        """`write`, and the version stays locked to the end of the block: for a writer that registers it there.

        Raises
        ------
        ArtifactError
            As `write` does.
        """
        target = self.path(manifest.model, manifest.version)
        for name in files:
            _refuse_odd_name(name, target)
            if name == MANIFEST_NAME:
                raise ArtifactError(f"{target}: {MANIFEST_NAME} is made here, not given")
        listed = [_describe(target / name, content) for name, content in sorted(files.items())]
        manifest = msgspec.structs.replace(manifest, files=listed)
        raw = encode_manifest(manifest)
        _make_directory(target.parent)
        aside = target.parent / f"{_ASIDE}{manifest.version}-{os.getpid()}-{secrets.token_hex(4)}"
        aside.mkdir()
        with _locked(aside):
            try:
                for name, content in {**files, MANIFEST_NAME: raw}.items():
                    _write_durably(aside / name, content)
                _sync_directory(aside)
                _remove_abandoned(aside)
                _rename(aside, target)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            yield manifest, hashlib.sha256(raw).hexdigest()

    def read(
        self, model: ModelName, version: ModelVersion, manifest_sha256: str | None = None
    ) -> tuple[Manifest, dict[str, bytes]]:
        """The verified manifest and files.

        Parameters
        ----------
        manifest_sha256 : what the registry says of the manifest; None trusts the manifest on the disk

        Raises
        ------
        ArtifactError
            On a missing file, another size, hash, dtype or shape, or a tensor that is not finite.
        """
        directory = self.path(model, version)
        manifest = _read_manifest(directory, manifest_sha256)
        _refuse_other(manifest, model, version, directory)
        return manifest, {listed.name: _read_verified(directory, listed) for listed in manifest.files}

    def map(self, model: ModelName, version: ModelVersion, manifest_sha256: str | None = None) -> MappedArtifact:
        """`read`, with the tensors as views of their mapped files: one copy for all processes of the machine.

        Raises
        ------
        ArtifactError
            As `read` does.
        """
        directory = self.path(model, version)
        manifest = _read_manifest(directory, manifest_sha256)
        _refuse_other(manifest, model, version, directory)
        plain = [listed for listed in manifest.files if not listed.name.endswith(_TENSORS)]
        return MappedArtifact(
            manifest=manifest,
            files={listed.name: _read_verified(directory, listed) for listed in plain},
            tensors={each.name: _map_verified(directory, each) for each in manifest.files if each not in plain},
        )

    def discard(self, model: ModelName, version: ModelVersion) -> None:
        """Delete a version that was never registered, or whose collection has begun; the directory disappears whole.
        Idempotent."""
        target = self.path(model, version)
        aside = target.parent / f"{_ASIDE}{version}-{os.getpid()}-{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            target.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def written_before(self, model: ModelName, moment: datetime) -> list[ModelVersion]:
        """A model's versions that were written before a moment (aware), registered or not, by name; none that is still locked."""
        _refuse_odd_name(model, self._root)
        found = []
        for directory in sorted((self._root / model).glob("*")):
            with suppress(FileNotFoundError):  # discarded while we look
                named = _NAME.fullmatch(directory.name) and directory.is_dir()
                if named and _written(directory) < moment and not _is_locked(directory):
                    found.append(ModelVersion(directory.name))
        return found

    def unfinished(self, model: ModelName, moment: datetime) -> list[str]:
        """What crashed writers of a model left before a moment (aware), by name."""
        _refuse_odd_name(model, self._root)
        return [path.name for path in _abandoned(self._root / model, moment, begun=True)]

    def remove_unfinished(self, model: ModelName, moment: datetime) -> list[str]:
        """Remove what `unfinished` tells of. Idempotent. Returns what was removed."""
        names = self.unfinished(model, moment)
        for name in names:
            shutil.rmtree(self._root / model / name, ignore_errors=True)
        return names


def _refuse_other(manifest: Manifest, model: ModelName, version: ModelVersion, directory: Path) -> None:
    if (manifest.model, manifest.version) != (model, version):
        raise ArtifactError(
            f"{directory / MANIFEST_NAME}: expected model and version {model} {version}, "
            f"found {manifest.model} {manifest.version}"
        )


def _read_manifest(directory: Path, expected_sha256: str | None) -> Manifest:
    path = directory / MANIFEST_NAME
    raw = _read(path, at_most=MAX_MANIFEST_BYTES)
    found = hashlib.sha256(raw).hexdigest()
    if expected_sha256 not in (None, found):
        raise ArtifactError(f"{path}: expected SHA-256 {expected_sha256}, found {found}")
    try:
        schema_version = msgspec.json.decode(raw, type=_Versioned).schema_version
        if schema_version != SCHEMA_VERSION:
            raise ArtifactError(f"{path}: expected schema version {SCHEMA_VERSION}, found {schema_version}")
        return decode_manifest(raw)
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path}: expected a manifest: {error}") from error


class _Versioned(msgspec.Struct):
    schema_version: int


def _read_verified(directory: Path, listed: ArtifactFile) -> bytes:
    _refuse_odd_name(listed.name, directory)
    path = directory / listed.name
    content = _read(path, at_most=listed.bytes)
    if len(content) != listed.bytes:
        raise ArtifactError(f"{path}: expected {listed.bytes} bytes, found {len(content)}")
    found = hashlib.sha256(content).hexdigest()
    if found != listed.sha256:
        raise ArtifactError(f"{path}: expected SHA-256 {listed.sha256}, found {found}")
    tensors = _finite_tensors(path, content)
    if tensors != listed.tensors:
        raise ArtifactError(f"{path}: expected tensors {_forms(listed.tensors)}, found {_forms(tensors)}")
    return content


def _map_verified(directory: Path, listed: ArtifactFile) -> dict[str, npt.NDArray[Any]]:
    _refuse_odd_name(listed.name, directory)
    path = directory / listed.name
    content = mapped(path, listed.bytes, listed.sha256)
    try:
        arrays = tensors_in(content)
    except ValueError as error:
        raise ArtifactError(f"{path}: {error}") from error
    _refuse_infinite(path, arrays)
    if (forms := _forms_of(arrays)) != listed.tensors:
        raise ArtifactError(f"{path}: expected tensors {_forms(listed.tensors)}, found {_forms(forms)}")
    return arrays


def _describe(path: Path, content: bytes) -> ArtifactFile:
    digest = hashlib.sha256(content).hexdigest()
    return ArtifactFile(path.name, len(content), digest, _finite_tensors(path, content))


def _finite_tensors(path: Path, content: bytes) -> dict[str, Tensor]:
    """The form of each tensor of a safetensors file; nothing for other files."""
    if path.suffix != _TENSORS:
        return {}
    try:
        arrays = safetensors.numpy.load(content)
    except (safetensors.SafetensorError, KeyError) as error:  # KeyError: a dtype that numpy has not
        raise ArtifactError(f"{path}: expected a safetensors file that numpy can hold: {error}") from error
    _refuse_infinite(path, arrays)
    return _forms_of(arrays)


def _refuse_infinite(path: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ArtifactError(f"{path}: expected finite values in tensor {name!r}, found others")


def _forms_of(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, Tensor]:
    return {name: Tensor(str(array.dtype), array.shape) for name, array in sorted(arrays.items())}


def _forms(tensors: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in tensors.items()) or "none"


def _read(path: Path, *, at_most: int) -> bytes:
    """The file's bytes; of a longer one only `at_most + 1`, which is enough to refuse it."""
    try:
        with path.open("rb") as file:
            return file.read(at_most + 1)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a file: {error.strerror}") from error


def _refuse_odd_name(name: str, directory: Path) -> None:
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"{directory}: expected a plain file name (letters, digits, '_', '-', '.'), got {name!r}")


def _make_directory(path: Path) -> None:
    missing = [step for step in (path, *path.parents) if not step.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for step in missing:
        _sync_directory(step.parent)


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rename(aside: Path, target: Path) -> None:
    try:
        # Refused by the file system when the target is there and not empty: of two writers one wins.
        aside.rename(target)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        raise ArtifactError(f"{target}: expected no such version yet, but it exists") from error
    _sync_directory(target.parent)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Hold a directory, whatever it is called meanwhile; a process that dies lets go of it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without such locks: then its age alone protects it
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_locked(directory: Path) -> bool:
    """Whether its writer is at work. Raises FileNotFoundError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(descriptor)
    return False


def _written(path: Path) -> datetime:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _abandoned(parent: Path, moment: datetime, *, begun: bool) -> Iterator[Path]:
    """Directories that were written aside before a moment and are locked no more; of those `begun` that hold something alone."""
    for aside in sorted(parent.glob(f"{_ASIDE}*")):
        with suppress(FileNotFoundError, NotADirectoryError):
            # In this order: what holds something has been locked, and who is done with it renames it before letting go.
            old = _written(aside) < moment and (not begun or any(aside.iterdir()))
            if old and not _is_locked(aside) and aside.exists():
                yield aside


def _remove_abandoned(aside: Path) -> None:
    # The file system's own clock: `aside` was written a moment ago.
    for other in _abandoned(aside.parent, _written(aside) - _ABANDONED, begun=False):
        shutil.rmtree(other, ignore_errors=True)
