"""The bytes of a file, decompressed on the way: plain, gzip or zstd by the file's ending.

- A stream that ends early or is corrupt gives all bytes before the damage, then says so in `error`; it does not raise.
- Memory is bounded however well the content compresses: zstd is fed 256 bytes at a time (at most 8 MiB of output).
"""

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import zstandard

_CORRUPT = (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError)
_ZSTD_INPUT_BYTES = 256
_SKIPPED_BYTES = 1024 * 1024


class ByteStream:
    """A file read forward.

    error : why the content ended before its end, or None
    """

    def __init__(self, path: Path) -> None:
        self._file: IO[bytes] = path.open("rb")
        self._plain = False
        self._pull: Callable[[int], bytes]
        self.error: str | None = None
        match path.suffix:
            case ".gz":
                self._pull = gzip.GzipFile(fileobj=self._file, mode="rb").read1
            case ".zst":
                self._pull = _ZstdReader(self._file).read1
            case _:
                self._plain = True
                self._pull = self._file.read

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer only at the end or where the content breaks."""
        parts: list[bytes] = []
        while count > 0 and self.error is None:
            try:
                part = self._pull(count)
            except _CORRUPT as error:
                self.error = f"compressed stream ends early or is corrupt: {error}"
                break
            if not part:
                break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def skip(self, count: int) -> bool:
        """Pass over `count` bytes; False when the content ends before."""
        if self._plain:
            self._file.seek(count, 1)
            return True
        while count > 0:
            part = self.read(min(count, _SKIPPED_BYTES))
            if not part:
                return False
            count -= len(part)
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _ZstdReader:
    """Frames one after the other. `stream_reader` of the library is silent about a torn frame, this is not."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._input = b""
        self._output = memoryview(b"")

    def read1(self, count: int) -> bytes:
        while not self._output:
            compressed = self._input or self._file.read(_ZSTD_INPUT_BYTES)
            if not compressed:
                if self._frame is not None:
                    raise EOFError("the last zstd frame has no end")
                return b""
            self._output = memoryview(self._decompress(compressed))
        part, self._output = self._output[:count], self._output[count:]
        return bytes(part)

    def _decompress(self, compressed: bytes) -> bytes:
        if self._frame is None:
            self._frame = zstandard.ZstdDecompressor().decompressobj()
        output = self._frame.decompress(compressed)
        self._input = b""
        if self._frame.eof:
            self._input = self._frame.unused_data
            self._frame = None
        return output
