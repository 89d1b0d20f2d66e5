"""Files of an artifact as memory that all processes of a machine share: mapped, verified, and read in place.

- What is hashed is the mapping itself. It holds the file, not its name: a file put in its place later changes nothing here.
- Mapped copy-on-write: nothing written to an array reaches the file or another process, and compiled loops see the ordinary,
  writable arrays that they are compiled for.
- Nobody may write into a published file: the artifact store writes aside and renames, and so must everybody.
"""

import hashlib
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from online_models.errors import ArtifactError

HEADER_LENGTH_BYTES = 8
DTYPES: Mapping[str, npt.DTypeLike] = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
"""Those of safetensors that numpy has."""


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def mapped(path: Path, size_bytes: int, sha256: str) -> memoryview:
    """The file's content, in memory that is shared with whoever maps it too.

    Raises
    ------
    ArtifactError
        When there is no such file, or its size or SHA-256 is another.
    """
    try:
        with path.open("rb") as file:
            found_bytes = file.seek(0, 2)
            content: Any = b""  # nothing cannot be mapped
            if found_bytes == size_bytes > 0:
                content = mmap.mmap(file.fileno(), size_bytes, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise ArtifactError(f"{path}: expected a file: {error.strerror}") from error
    if found_bytes != size_bytes:
        raise ArtifactError(f"{path}: expected {size_bytes} bytes, found {found_bytes}")
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ArtifactError(f"{path}: expected SHA-256 {sha256}, found {found}")
    return memoryview(content)


def tensors_in(content: memoryview) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a safetensors file by name, as views of its content: C-contiguous, writable where the content is.

    Raises
    ------
    ValueError
        When the content is no safetensors file that numpy can hold, or its arrays do not lie within it.

    >>> from safetensors.numpy import save
    >>> tensors_in(memoryview(save({"a": np.array([[1.0, 2.0]], np.float32)})))
    {'a': array([[1., 2.]], dtype=float32)}

    References
    ----------
    The safetensors format: 8 bytes of header length, a JSON header, then the bytes of the arrays.
    """
    length = int.from_bytes(content[:HEADER_LENGTH_BYTES], "little")
    start = HEADER_LENGTH_BYTES + length
    if not HEADER_LENGTH_BYTES <= start <= len(content):
        raise ValueError(f"expected a safetensors header within {len(content)} bytes, got one of {length}")
    try:
        header = msgspec.json.decode(content[HEADER_LENGTH_BYTES:start], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except msgspec.DecodeError as error:
        raise ValueError(f"expected a safetensors header: {error}") from error
    return {name: _view(name, entry, content[start:]) for name, entry in entries.items()}


def _view(name: str, entry: _Entry, data: memoryview) -> npt.NDArray[Any]:
    begin, end = entry.data_offsets
    if entry.dtype not in DTYPES:
        raise ValueError(f"tensor {name!r}: expected a dtype of {', '.join(DTYPES)}, got {entry.dtype!r}")
    dtype = np.dtype(DTYPES[entry.dtype])
    wanted = dtype.itemsize * int(np.prod(entry.shape, dtype=object))
    if min(entry.shape, default=0) < 0 or begin < 0 or end > len(data) or end - begin != wanted:
        raise ValueError(f"tensor {name!r}: expected {wanted} of {len(data)} bytes, got those from {begin} to {end}")
    found: npt.NDArray[Any] = np.frombuffer(data[begin:end], dtype).reshape(entry.shape)
    return found if found.flags.aligned else found.copy()
