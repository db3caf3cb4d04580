"""Blocks of whole lines from plain byte ranges and from compressed streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

_COMPRESSED_BYTES = 64 * 1024
_OVERHANG_BYTES = 256 * 1024
_STREAM_FAULTS = ("Truncated compressed stream", "zlib inflate", "ZSTD decompress")


class DamagedStreamError(Exception):
    """A compressed stream that ends too early or cannot be decompressed any further.

    partial: the bytes after the last line end that could still be decompressed.
    """

    def __init__(self, message: str, partial: bytes = b"") -> None:
        super().__init__(message)
        self.partial = partial


def range_chunks(source: pa.NativeFile, start: int, end: int | None, size: int) -> Iterator[bytes]:
    """Yield the bytes of the lines that start in [start, end), in pieces of at most `size` bytes.

    source: an open file that can seek; end: None for the end of the file. A line belongs to the range in which its
    first byte lies, so that ranges which cover a file without overlap yield every line once.
    """
    if end is not None and end <= start:
        return
    position = max(start - 1, 0)
    source.seek(position)
    skipping = start > 0
    while chunk := source.read(_read_size(position, end, size)):
        first = chunk.find(b"\n") + 1 if skipping else 0
        skipping = skipping and not first
        stop = chunk.find(b"\n", max(end - 1 - position, 0)) + 1 if end is not None else 0
        if not skipping:
            yield chunk[first : stop or len(chunk)]
        if stop:
            return
        position += len(chunk)


def _read_size(position: int, end: int | None, size: int) -> int:
    if end is None:
        return size
    return min(size, end - position if position < end else _OVERHANG_BYTES)


def decompressed_chunks(source: pa.NativeFile, compression: str, size: int) -> Iterator[bytes]:
    """Yield the decompressed bytes of a whole file (all gzip members or zstd frames), in pieces of `size` bytes.

    Raises DamagedStreamError after everything that can be decompressed has been yielded. Arrow drops what it had
    decompressed in the call that fails, so the place of the fault is approached again in smaller and smaller steps.
    """
    done = 0
    fault, careful_from = "", None
    for step in (size, 4096, 1):
        raw = _Drip(source, careful_from)
        stream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), compression)
        try:
            _skip(stream, done, size)
            while chunk := stream.read(step):
                done += len(chunk)
                yield chunk
        except OSError as error:
            if not any(words in str(error) for words in _STREAM_FAULTS):
                raise  # the source itself failed, for example the network
            fault = str(error).splitlines()[0]
            careful_from = max(raw.position - 2 * _COMPRESSED_BYTES, 0) if careful_from is None else careful_from
        else:
            return
    truncated = "Truncated" in fault
    raise DamagedStreamError(
        f"truncated {compression} stream" if truncated else f"damaged {compression} stream ({fault})"
    )


def _skip(stream: pa.NativeFile, count: int, size: int) -> None:
    while count > 0:
        count -= len(stream.read(min(count, size)))


class _Drip:
    """Feeds a file to a decompressor, from `careful_from` on byte by byte, so that no good byte fails with a bad one.

    It also keeps the file open when the decompressor is closed.
    """

    closed = False

    def __init__(self, source: pa.NativeFile, careful_from: int | None) -> None:
        self.source = source
        self.careful_from = careful_from
        self.position = 0
        source.seek(0)

    def read(self, size: int = -1) -> bytes:
        size = _COMPRESSED_BYTES if size < 0 else size
        if self.careful_from is not None:
            size = min(size, max(self.careful_from - self.position, 1))
        data: bytes = self.source.read(size)
        self.position += len(data)
        return data

    def close(self) -> None:
        pass


def line_blocks(chunks: Iterable[bytes], block_bytes: int) -> Iterator[bytes]:
    """Join pieces of a stream into blocks of whole lines; only the last line of the last block may lack its line end.

    A block has between half of `block_bytes` and `block_bytes` and a piece; a line longer than that makes one larger
    block. A DamagedStreamError passes through with the bytes of the broken line, after all whole lines were yielded.
    """
    complete: list[bytes | memoryview] = []
    partial: list[bytes] = []
    size = 0
    fault: DamagedStreamError | None = None
    try:
        for chunk in chunks:
            cut = chunk.rfind(b"\n") + 1
            if cut:
                complete += [*partial, memoryview(chunk)[:cut]]
                partial.clear()
            if cut < len(chunk):
                partial.append(chunk[cut:])
            size += len(chunk)
            if complete and 2 * size >= block_bytes:
                yield b"".join(complete)
                complete.clear()
                size = sum(map(len, partial))
    except DamagedStreamError as error:
        fault = error
    if fault is None:
        complete += partial
    if complete:
        yield b"".join(complete)
    if fault is not None:
        fault.partial = b"".join(partial)
        raise fault
