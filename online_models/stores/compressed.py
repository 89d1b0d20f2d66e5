"""Text files read forward, plain or compressed by gzip or zstd.

- A stream that ends early or is corrupt gives what came before the damage, then raises.
- zstd needs `zstandard`, which the kernel does not install.
"""

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from online_models.errors import SourceError

CORRUPT: Final = (EOFError, gzip.BadGzipFile, zlib.error)

_ZSTD_INPUT_BYTES: Final = 4096


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, decompressed on the way by its ending; reading raises one of `CORRUPT` where the content breaks.

    Raises
    ------
    OSError
        When the file cannot be opened.
    SourceError
        When the compression needs what is not installed.
    """
    with path.open("rb") as file:
        match path.suffix.lower():
            case ".gz":
                with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                    yield unpacked  # type: ignore[misc]  # it reads as an IO[bytes] does
            case ".zst":
                yield io.BufferedReader(_Unpacked(_zstd_parts(path, file)))
            case _:
                yield file


class _Unpacked(io.RawIOBase):
    """Parts of any length, one after the other, as a file."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            part = next(self._parts, None)
            if part is None:
                return 0
            self._left = part
        taken = min(len(buffer), len(self._left))
        buffer[:taken], self._left = self._left[:taken], self._left[taken:]
        return taken


def _zstd_parts(path: Path, file: IO[bytes]) -> Iterator[bytes]:
    """Frames one after the other, fed little by little: the library's own file object is silent about a torn frame."""
    try:
        import zstandard
    except ModuleNotFoundError as error:
        raise SourceError(f"{path}: zstd needs zstandard: pip install 'penstock[flow]'") from error
    frame = None
    while packed := file.read(_ZSTD_INPUT_BYTES):
        while packed:
            frame = frame or zstandard.ZstdDecompressor().decompressobj()
            try:
                yield frame.decompress(packed)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from error
            packed = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")
