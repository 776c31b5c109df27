"""Reads request bodies with bounds that hold while they are read and decompressed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import IO

import zstandard

from flamewell_collector.errors import InvalidRequest, TooLarge, UnsupportedMediaType

_CHUNK_BYTES = 64 << 10
_ZSTD_WINDOW_BYTES = 128 << 20
"""A frame that asks for a larger window is refused: memory is bounded before data come."""
_GZIP_WINDOW_BITS = 31


def read_body(stream: IO[bytes], *, encoding: str, limit_bytes: int) -> bytes:
    """Read and decompress a body.

    Args:
        stream: The raw body.
        encoding: Content-Encoding: empty, ``identity``, ``gzip`` or ``zstd``.
        limit_bytes: Of the decompressed body.

    Raises:
        TooLarge: It is larger; reading stops there.
        UnsupportedMediaType: Another encoding.
        InvalidRequest: It can't be decompressed, or ends too early.
    """
    if encoding in {"", "identity"}:
        parts = _chunks(stream)
    elif encoding == "gzip":
        parts = _gunzip(stream, limit_bytes)
    elif encoding == "zstd":
        parts = _unzstd(stream)
    else:
        raise UnsupportedMediaType(
            f"content encoding {encoding!r} is not spoken here: send gzip, zstd or identity"
        )
    found: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        if size > limit_bytes:
            raise TooLarge(f"the body is larger than {limit_bytes} bytes: send smaller batches")
        found.append(part)
    return b"".join(found)


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK_BYTES):
        yield chunk


def _gunzip(stream: IO[bytes], limit_bytes: int) -> Iterator[bytes]:
    engine = zlib.decompressobj(_GZIP_WINDOW_BITS)
    try:
        for chunk in _chunks(stream):
            data = chunk
            while data:
                yield engine.decompress(data, min(limit_bytes + 1, 1 << 20))
                data = engine.unconsumed_tail
                if engine.eof and (data := engine.unused_data):
                    engine = zlib.decompressobj(_GZIP_WINDOW_BITS)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not gzip: {error}") from error
    if not engine.eof:
        raise InvalidRequest("the gzip body ends too early")


def _unzstd(stream: IO[bytes]) -> Iterator[bytes]:
    engine = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES)
    try:
        with engine.stream_reader(stream, read_across_frames=True, closefd=False) as reader:
            yield from _chunks(reader)
    except zstandard.ZstdError as error:
        raise InvalidRequest(f"the body is not zstd: {error}") from error
